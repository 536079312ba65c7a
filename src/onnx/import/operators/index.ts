import { attentions } from "./attention.js";
import { constants } from "./constants.js";
import { convolutions } from "./convolution.js";
import { elementwise } from "./elementwise.js";
import { indexing } from "./indexing.js";
import { matrixProducts } from "./matmul.js";
import { movement } from "./movement.js";
import { norms } from "./norm.js";
import type { Operators } from "./operator.js";
import { pooling } from "./pooling.js";
import { reductions } from "./reduce.js";
import { resizing } from "./resizing.js";

/** Every operator that can be imported, except for If and the functions of a file, which `OnnxImport` expands. */
export const OPERATORS: Operators = {
  ...elementwise,
  ...movement,
  ...indexing,
  ...constants,
  ...convolutions,
  ...pooling,
  ...resizing,
  ...matrixProducts,
  ...attentions,
  ...norms,
  ...reductions,
};

const QUANTIZED = "a quantized model has no useful gradient. Export it in float32 or float16";
const LOOP = "loops are not supported. Export the model for a fixed size, so that the exporter unrolls them";
const DETECTION = "the choice of boxes has no gradient. Choose an output before it, such as the class scores";
const RECURRENT = "recurrent layers are not supported. Choose an image model without them";
const RANDOM = "a reward must not be random. Export the model after model.eval()";

/** Operators that are not supported on purpose, with the reason and the remedy. */
export const REFUSED: Readonly<Record<string, string>> = {
  QuantizeLinear: QUANTIZED,
  DequantizeLinear: QUANTIZED,
  DynamicQuantizeLinear: QUANTIZED,
  QLinearConv: QUANTIZED,
  QLinearMatMul: QUANTIZED,
  QLinearAdd: QUANTIZED,
  ConvInteger: QUANTIZED,
  MatMulInteger: QUANTIZED,
  MatMulNBits: QUANTIZED,
  Loop: LOOP,
  Scan: LOOP,
  SequenceAt: LOOP,
  SplitToSequence: LOOP,
  ConcatFromSequence: LOOP,
  NonMaxSuppression: DETECTION,
  RoiAlign: DETECTION,
  LSTM: RECURRENT,
  GRU: RECURRENT,
  RandomNormalLike: RANDOM,
  RandomUniformLike: RANDOM,
};
