export { type Cotangent, gradients } from "./gradients.js";
