export { attention } from "./attention.js";
export { averagePool, type ConvOptions, conv2d, convTranspose2d, upsampleNearest } from "./conv.js";
export {
  abs,
  add,
  cast,
  clip,
  cos,
  div,
  equal,
  erf,
  exp,
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
export { linear, matmul, matrixTranspose } from "./matmul.js";
export {
  broadcastTo,
  concat,
  flip,
  gather,
  pad,
  repeatBatch,
  reshape,
  scatterRows,
  slice,
  transpose,
} from "./movement.js";
export { groupNorm, layerNorm, softmax, standardize } from "./norm.js";
export { allAxes, max, mean, sum } from "./reduce.js";
export { bicubicMatrix, resizeBilinear } from "./resize.js";
export { constant, filled, input, parameter, zeros } from "./source.js";
