export { attention } from "./attention.js";
export { type ConvOptions, conv2d, convTranspose2d, type Padding } from "./conv.js";
export {
  abs,
  add,
  atan,
  cast,
  clip,
  cos,
  div,
  equal,
  erf,
  exp,
  floor,
  gelu,
  greater,
  less,
  log,
  maximum,
  minimum,
  mul,
  neg,
  type Operand,
  pow,
  power,
  quickGelu,
  relu,
  sigmoid,
  sign,
  silu,
  sin,
  sqrt,
  sub,
  tanh,
  where,
} from "./elementwise.js";
export { gather, gatherElements, scatterElements, scatterRows } from "./indexing.js";
export { linear, type MatmulOptions, matmul, matrixTranspose } from "./matmul.js";
export {
  broadcastTo,
  concat,
  flip,
  pad,
  repeatBatch,
  reshape,
  slice,
  transpose,
} from "./movement.js";
export { groupNorm, layerNorm, softmax, standardize } from "./norm.js";
export { averagePool, type MaxPoolOptions, maxPool, upsampleNearest } from "./pool.js";
export { allAxes, max, mean, type ReduceOptions, sum } from "./reduce.js";
export { bicubicMatrix, type ResizeOptions, resizeBicubic, resizeBilinear, resizeNearest } from "./resize.js";
export { remainder, round, straightThrough } from "./rounding.js";
export { topK } from "./select.js";
export { constant, filled, input, parameter, zeros } from "./source.js";
