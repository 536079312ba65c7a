export { gradients, undifferentiable } from "./gradients.js";
export { type Split, splitAtResiduals } from "./residuals.js";
