import type { Value } from "../src/graph/value.js";
import * as o from "../src/ops/index.js";
import type { OpName } from "../src/ops/table.js";

export interface OpCase {
  /** Shapes of the float32 inputs. */
  readonly shapes: readonly (readonly number[])[];
  readonly build: (...inputs: Value[]) => Value;
  /** Inputs are uniform in this range, so that finite differences stay away from poles and kinks. */
  readonly range?: readonly [number, number];
}

const indices = o.constant([2, 0, 2, 1], [4], "int64");
const mask = o.constant([1, 0, 1, 0, 0, 1], [2, 3], "bool");

/** At least one case for every op, with broadcasting, odd sizes, strides and groups if the op has them. */
export const OP_CASES: { readonly [K in OpName]: readonly OpCase[] } = {
  attention: [
    {
      shapes: [
        [2, 3, 4],
        [2, 5, 4],
        [2, 5, 4],
      ],
      build: (q, k, v) => o.attention(q, k, v, 2),
    },
    {
      shapes: [
        [1, 4, 6],
        [1, 3, 6],
        [1, 3, 6],
      ],
      build: (q, k, v) => o.attention(q, k, v, 1),
    },
    { shapes: [[2, 6, 8]], build: (x) => o.attention(x, x, x, 4) },
  ],
  input: [{ shapes: [[2, 3]], build: (x) => o.mul(x, 1) }],
  parameter: [],
  constant: [{ shapes: [[2, 3]], build: (x) => o.mul(x, o.constant([1, 2, 3], [3])) }],
  add: [
    {
      shapes: [
        [2, 1, 3],
        [4, 1],
      ],
      build: o.add,
    },
  ],
  round: [{ shapes: [[7]], build: (x) => o.add(o.round(o.mul(x, 3)), x) }],
  atan: [{ shapes: [[2, 3]], build: (x) => o.atan(o.mul(x, 2)) }],
  power: [{ shapes: [[2, 3], [3]], build: o.power, range: [0.5, 2] }],
  // The same value, so that finite differences see the gradient that passes through.
  straightThrough: [{ shapes: [[2, 3]], build: (x) => o.straightThrough(o.mul(x, 1), x) }],
  remainder: [{ shapes: [[3], [2, 3]], build: (x, y) => o.remainder(o.mul(x, 5), y), range: [0.6, 0.95] }],
  sub: [{ shapes: [[3], [2, 3]], build: o.sub }],
  mul: [
    {
      shapes: [
        [2, 3],
        [2, 1],
      ],
      build: o.mul,
    },
    { shapes: [[2, 3]], build: (x) => o.mul(x, x) },
  ],
  div: [{ shapes: [[2, 3], [3]], build: o.div, range: [0.5, 2] }],
  maximum: [
    { shapes: [[4, 5], [5]], build: o.maximum },
    { shapes: [[4, 5]], build: o.relu },
  ],
  minimum: [
    {
      shapes: [
        [4, 5],
        [4, 1],
      ],
      build: o.minimum,
    },
    { shapes: [[9]], build: (x) => o.clip(x, -0.4, 0.3) },
  ],
  greater: [{ shapes: [[5], [5]], build: (x, y) => o.where(o.greater(x, y), o.mul(x, 2), y) }],
  less: [{ shapes: [[5], [5]], build: (x, y) => o.where(o.less(x, y), x, o.mul(y, 3)) }],
  equal: [{ shapes: [[5]], build: (x) => o.where(o.equal(x, x), o.exp(x), x) }],
  neg: [{ shapes: [[3]], build: o.neg }],
  exp: [{ shapes: [[3]], build: o.exp }],
  log: [{ shapes: [[3]], build: o.log, range: [0.5, 2] }],
  sqrt: [{ shapes: [[3]], build: o.sqrt, range: [0.5, 2] }],
  floor: [{ shapes: [[9]], build: (x) => o.mul(o.floor(o.mul(x, 4)), x) }],
  abs: [{ shapes: [[7]], build: o.abs }],
  sign: [{ shapes: [[7]], build: (x) => o.mul(o.sign(x), x) }],
  tanh: [{ shapes: [[3]], build: o.tanh }],
  sigmoid: [{ shapes: [[3]], build: o.sigmoid }],
  erf: [{ shapes: [[9]], build: o.erf, range: [-3, 3] }],
  sin: [{ shapes: [[3]], build: o.sin }],
  cos: [{ shapes: [[3]], build: o.cos }],
  gelu: [{ shapes: [[9]], build: o.gelu, range: [-3, 3] }],
  silu: [
    { shapes: [[9]], build: o.silu, range: [-3, 3] },
    { shapes: [[9]], build: o.quickGelu },
  ],
  pow: [
    { shapes: [[3]], build: (x) => o.pow(x, 2) },
    { shapes: [[3]], build: (x) => o.pow(x, -0.5), range: [0.5, 2] },
    { shapes: [[3]], build: (x) => o.pow(x, -1), range: [0.5, 2] },
    { shapes: [[3]], build: (x) => o.pow(x, 2.7), range: [0.5, 2] },
  ],
  where: [{ shapes: [[2, 3], [3]], build: (x, y) => o.where(mask, x, y) }],
  cast: [{ shapes: [[5]], build: (x) => o.mul(x, o.cast(o.cast(o.mul(x, 9), "int32"), "float32")) }],
  sum: [
    { shapes: [[2, 3, 4]], build: (x) => o.sum(x, [0, 2]) },
    { shapes: [[2, 3, 4]], build: (x) => o.sum(x, -1, { keepDims: true }) },
    { shapes: [[2, 3]], build: (x) => o.sum(x, [0, 1]) },
  ],
  mean: [{ shapes: [[2, 3, 4]], build: (x) => o.mean(x, [1]) }],
  max: [{ shapes: [[2, 5, 4]], build: (x) => o.max(x, 1) }],
  reshape: [{ shapes: [[2, 6]], build: (x) => o.reshape(x, [3, -1]) }],
  transpose: [{ shapes: [[2, 3, 4]], build: (x) => o.transpose(x, [2, 0, 1]) }],
  broadcastTo: [{ shapes: [[3, 1]], build: (x) => o.broadcastTo(x, [2, 3, 4]) }],
  slice: [
    { shapes: [[4, 5]], build: (x) => o.slice(x, 1, [1, 4]) },
    { shapes: [[4, 7]], build: (x) => o.slice(x, 1, [1, 7], { step: 2 }) },
    { shapes: [[8]], build: (x) => o.slice(x, 0, [0, 8], { step: 3 }) },
  ],
  flip: [{ shapes: [[2, 3, 4]], build: (x) => o.flip(x, [0, -1]) }],
  pad: [
    {
      shapes: [[2, 3]],
      build: (x) =>
        o.pad(x, [
          [0, 1],
          [2, 0],
        ]),
    },
  ],
  concat: [
    {
      shapes: [
        [2, 3],
        [2, 1],
        [2, 2],
      ],
      build: (x, y, z) => o.concat([x, y, z], 1),
    },
  ],
  gather: [{ shapes: [[3, 4]], build: (x) => o.gather(x, o.constant([2, 0, 2, 1], [2, 2], "int64")) }],
  scatterRows: [{ shapes: [[4, 3]], build: (x) => o.scatterRows(indices, x, 5) }],
  matmul: [
    {
      shapes: [
        [2, 3, 4],
        [4, 5],
      ],
      build: (a, b) => o.matmul(a, b),
    },
    {
      shapes: [
        [2, 1, 3, 4],
        [3, 5, 4],
      ],
      build: (a, b) => o.matmul(a, b, { transposeB: true }),
    },
    {
      shapes: [
        [2, 4, 3],
        [2, 4, 5],
      ],
      build: (a, b) => o.matmul(a, b, { transposeA: true }),
    },
    {
      shapes: [
        [2, 4, 3],
        [2, 5, 4],
      ],
      build: (a, b) => o.matmul(a, b, { transposeA: true, transposeB: true }),
    },
  ],
  gemm: [
    {
      shapes: [
        [3, 4],
        [4, 5],
      ],
      build: (a, b) => o.matmul(a, b),
    },
    {
      shapes: [
        [4, 3],
        [5, 4],
      ],
      build: (a, b) => o.matmul(a, b, { transposeA: true, transposeB: true }),
    },
    { shapes: [[2, 3, 4], [5, 4], [5]], build: (x, w, b) => o.linear(x, w, b) },
  ],
  conv2d: [
    { shapes: [[2, 3, 5, 6], [4, 3, 3, 3], [4]], build: (x, w, b) => o.conv2d(x, w, b, { padding: 1 }) },
    {
      shapes: [
        [1, 2, 3, 3],
        [2, 2, 1, 1],
      ],
      build: (x, w) => o.conv2d(x, w, undefined, { padding: 1 }),
    },
    {
      shapes: [
        [1, 3, 4, 4],
        [2, 3, 1, 1],
      ],
      build: (x, w) => o.conv2d(x, w),
    },
    {
      shapes: [
        [1, 2, 6, 7],
        [3, 2, 3, 3],
      ],
      build: (x, w) => o.conv2d(x, w, undefined, { stride: 2, padding: [0, 0, 1, 1] }),
    },
    {
      shapes: [
        [2, 4, 6, 6],
        [6, 2, 3, 3],
      ],
      build: (x, w) => o.conv2d(x, w, undefined, { stride: 2, padding: 1, groups: 2 }),
    },
    {
      shapes: [
        [1, 4, 4, 5],
        [6, 2, 3, 2],
      ],
      build: (x, w) => o.conv2d(x, w, undefined, { padding: [1, 0, 1, 1], groups: 2 }),
    },
    {
      shapes: [
        [1, 3, 8, 8],
        [2, 3, 4, 4],
      ],
      build: (x, w) => o.conv2d(x, w, undefined, { stride: 4 }),
    },
    {
      shapes: [
        [1, 2, 9, 8],
        [3, 2, 3, 2],
      ],
      build: (x, w) => o.conv2d(x, w, undefined, { padding: 2, dilation: 2 }),
    },
    {
      shapes: [
        [1, 2, 9, 8],
        [2, 1, 3, 3],
      ],
      build: (x, w) => o.conv2d(x, w, undefined, { padding: [2, 3, 2, 3], stride: 2, dilation: 3, groups: 2 }),
    },
  ],
  convTranspose2d: [
    {
      shapes: [
        [1, 3, 3, 3],
        [3, 2, 3, 3],
      ],
      build: (x, w) => o.convTranspose2d(x, w, [6, 6], { stride: 2, padding: 1 }),
    },
  ],
  maxPool: [
    { shapes: [[2, 3, 4, 6]], build: (x) => o.maxPool(x, 2) },
    { shapes: [[1, 2, 7, 6]], build: (x) => o.maxPool(x, 3, { stride: 2, padding: [1, 1, 0, 1] }) },
    { shapes: [[1, 2, 7, 8]], build: (x) => o.maxPool(x, [2, 3], { stride: [1, 2], dilation: 2 }) },
  ],
  gatherElements: [
    { shapes: [[3, 4]], build: (x) => o.gatherElements(x, o.constant([2, 0, 2, 1], [2, 2], "int64"), 0) },
    { shapes: [[2, 3, 4]], build: (x) => o.gatherElements(x, o.constant([1, 1, 0, 3], [2, 1, 2], "int64"), -1) },
  ],
  scatterElements: [
    {
      shapes: [[2, 3]],
      build: (x) => o.scatterElements(o.constant([1, 1, 0, 3, 1, 3], [2, 3], "int64"), x, [2, 4], 1),
    },
  ],
  topK: [
    { shapes: [[3, 6]], build: (x) => o.topK(x, 2).values },
    { shapes: [[2, 5, 3]], build: (x) => o.topK(x, 3, 1).values },
  ],
  averagePool: [{ shapes: [[2, 3, 4, 6]], build: (x) => o.averagePool(x, 2) }],
  upsampleNearest: [{ shapes: [[2, 3, 2, 3]], build: (x) => o.upsampleNearest(x, 2) }],
  layerNorm: [{ shapes: [[2, 3, 5], [5], [5]], build: (x, s, b) => o.layerNorm(x, s, b) }],
  standardize: [
    { shapes: [[2, 3, 5]], build: (x) => o.standardize(x) },
    { shapes: [[2, 6, 2, 3], [6], [6]], build: (x, s, b) => o.groupNorm(x, 3, { scale: s, bias: b }) },
  ],
  softmax: [{ shapes: [[2, 3, 4]], build: o.softmax }],
};

/** Compositions that are checked like ops. */
export const COMPOSED_CASES: Readonly<Record<string, readonly OpCase[]>> = {
  resizeBilinear: [
    { shapes: [[1, 2, 5, 7]], build: (x) => o.resizeBilinear(x, [3, 4]) },
    { shapes: [[1, 2, 5, 7]], build: (x) => o.resizeBilinear(x, [3, 4], { antialias: true }) },
    { shapes: [[1, 2, 3, 3]], build: (x) => o.resizeBilinear(x, [6, 5], { alignCorners: true }) },
  ],
};
