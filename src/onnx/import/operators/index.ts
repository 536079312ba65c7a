import { elementwise } from "./elementwise.js";
import { image } from "./image.js";
import { products } from "./matmul.js";
import { movement } from "./movement.js";
import { norms } from "./norm.js";
import type { Operators } from "./operator.js";
import { reductions } from "./reduce.js";

/** Every operator that is imported; If and a file's own functions are `OnnxImport`'s. */
export const OPERATORS: Operators = { ...elementwise, ...movement, ...image, ...products, ...norms, ...reductions };

const QUANTISED = "the model is quantised, and has no gradient worth following. Export it in float32 or float16";
const LOOPS = "a graph here has no loops. Export the model for a fixed size, so that the exporter unrolls them";
const DETECTIONS = "which boxes it keeps has no gradient. Choose an output before it, such as the class scores";

/** Known, and refused for a reason. */
export const REFUSED: Readonly<Record<string, string>> = {
  QuantizeLinear: QUANTISED,
  DequantizeLinear: QUANTISED,
  DynamicQuantizeLinear: QUANTISED,
  QLinearConv: QUANTISED,
  QLinearMatMul: QUANTISED,
  QLinearAdd: QUANTISED,
  ConvInteger: QUANTISED,
  MatMulInteger: QUANTISED,
  MatMulNBits: QUANTISED,
  Loop: LOOPS,
  Scan: LOOPS,
  SequenceAt: LOOPS,
  SplitToSequence: LOOPS,
  ConcatFromSequence: LOOPS,
  NonMaxSuppression: DETECTIONS,
  RoiAlign: DETECTIONS,
  LSTM: "recurrent layers are not supported. Choose an image model without them",
  GRU: "recurrent layers are not supported. Choose an image model without them",
  RandomNormalLike: "a reward must not be random. Export the model after model.eval()",
  RandomUniformLike: "a reward must not be random. Export the model after model.eval()",
};
