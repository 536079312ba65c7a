export { type Cotangent, gradients } from "./gradients.js";
export { type Split, splitAtResiduals } from "./residuals.js";
