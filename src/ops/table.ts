import * as attention from "./attention.js";
import * as conv from "./conv.js";
import * as elementwise from "./elementwise.js";
import * as indexing from "./indexing.js";
import * as matmul from "./matmul.js";
import * as movement from "./movement.js";
import * as norm from "./norm.js";
import * as pool from "./pool.js";
import * as reduce from "./reduce.js";
import * as rounding from "./rounding.js";
import * as select from "./select.js";
import * as source from "./source.js";

/** All ops. The types of the gradient rules and of the test cases require an entry for each of them. */
export const OPS = {
  input: source.inputOp,
  parameter: source.parameterOp,
  constant: source.constantOp,
  add: elementwise.addOp,
  sub: elementwise.subOp,
  mul: elementwise.mulOp,
  div: elementwise.divOp,
  remainder: rounding.remainderOp,
  maximum: elementwise.maximumOp,
  minimum: elementwise.minimumOp,
  greater: elementwise.greaterOp,
  less: elementwise.lessOp,
  equal: elementwise.equalOp,
  neg: elementwise.negOp,
  exp: elementwise.expOp,
  log: elementwise.logOp,
  sqrt: elementwise.sqrtOp,
  floor: elementwise.floorOp,
  round: rounding.roundOp,
  atan: elementwise.atanOp,
  power: elementwise.powerOp,
  straightThrough: rounding.straightThroughOp,
  abs: elementwise.absOp,
  sign: elementwise.signOp,
  tanh: elementwise.tanhOp,
  sigmoid: elementwise.sigmoidOp,
  erf: elementwise.erfOp,
  sin: elementwise.sinOp,
  cos: elementwise.cosOp,
  gelu: elementwise.geluOp,
  silu: elementwise.siluOp,
  pow: elementwise.powOp,
  where: elementwise.whereOp,
  cast: elementwise.castOp,
  sum: reduce.sumOp,
  mean: reduce.meanOp,
  max: reduce.maxOp,
  reshape: movement.reshapeOp,
  transpose: movement.transposeOp,
  broadcastTo: movement.broadcastToOp,
  slice: movement.sliceOp,
  flip: movement.flipOp,
  pad: movement.padOp,
  concat: movement.concatOp,
  gather: indexing.gatherOp,
  scatterRows: indexing.scatterRowsOp,
  matmul: matmul.matmulOp,
  gemm: matmul.gemmOp,
  conv2d: conv.conv2dOp,
  convTranspose2d: conv.convTranspose2dOp,
  averagePool: pool.averagePoolOp,
  upsampleNearest: pool.upsampleNearestOp,
  gatherElements: indexing.gatherElementsOp,
  scatterElements: indexing.scatterElementsOp,
  topK: select.topKOp,
  maxPool: pool.maxPoolOp,
  layerNorm: norm.layerNormOp,
  standardize: norm.standardizeOp,
  softmax: norm.softmaxOp,
  attention: attention.attentionOp,
} as const;

export type OpName = keyof typeof OPS;
