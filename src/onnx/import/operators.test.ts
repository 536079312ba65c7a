/** Compares each imported operator, computed in float64, with ONNX Runtime's result for the original ONNX node. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TensorProto } from "onnx-buf";
import { InferenceSession, Tensor } from "onnxruntime-node";
import { afterAll, describe, expect, test } from "vitest";
import { type Attributes, model, node, tensor } from "../../../test/onnx-model.js";
import { gradients } from "../../autodiff/index.js";
import { interpret } from "../../graph/interpret.js";
import type { F64Array, Value } from "../../graph/value.js";
import { constant, input } from "../../ops/index.js";
import { isFloating } from "../../tensor/dtype.js";
import { Rng } from "../../tensor/rng.js";
import { sizeOf } from "../../tensor/shape.js";
import { openOnnx } from "./file.js";
import { OnnxImport } from "./import.js";
import { OPERATORS } from "./operators/index.js";

interface Case {
  /** An entry per input: a shape for random values, a tensor for a constant, or "" for an input that is left out. */
  readonly given: readonly (readonly number[] | TensorProto | "")[];
  readonly attributes?: Attributes;
  readonly opset?: number;
  readonly outputs?: number;
  readonly range?: readonly [number, number];
  /** The gradient passes through rounding, so finite differences differ from it. */
  readonly isStraightThrough?: boolean;
}

/** Operators that ONNX Runtime does not have. parity/onnx_nodes.ts compares them with the reference of the ONNX project. */
const NOT_IN_RUNTIME: readonly string[] = ["SwiGLU", "CumProd"];

const ints = (...values: number[]) => tensor("", values);
const scalar = (value: number, dtype: "int64" | "float32" = "float32") => tensor("", [value], [], dtype);
const floats = (...values: number[]) => tensor("", values, [values.length], "float32");
const f = (float: number) => ({ float });
const one = (...shape: number[]): Case => ({ given: [shape] });
const two = (a: number[], b: number[]): Case => ({ given: [a, b] });
const image = [2, 3, 5, 6];

/** Unary elementwise operators, which share one case. */
const ELEMENTWISE = [
  ..."Neg Abs Sign Exp Sin Cos Tan Tanh Sinh Cosh Erf Floor Ceil Relu LeakyRelu ThresholdedRelu Elu Celu Selu".split(
    " ",
  ),
  ..."Sigmoid HardSigmoid HardSwish Softplus Softsign Mish Identity IsNaN IsInf Dropout Reciprocal".split(" "),
  ..."Atan Asinh Shrink Round".split(" "),
];

const resize = (
  attributes: Attributes,
  size: readonly number[],
  from: readonly number[] = [1, 2, 5, 7],
  opset = 18,
): Case => ({
  given: [from, "", "", ints(...from.slice(0, -2), ...size)],
  attributes,
  opset,
});

const CASES: Readonly<Record<string, readonly Case[]>> = {
  ...Object.fromEntries(ELEMENTWISE.map((name) => [name, [{ given: [[3, 7]], range: [-2.5, 2.5] as const }]])),
  ...Object.fromEntries("Add Sub Mul Max Min Sum Mean".split(" ").map((name) => [name, [two([2, 1, 3], [4, 1])]])),
  ...Object.fromEntries(
    "Greater Less Equal GreaterOrEqual LessOrEqual".split(" ").map((name) => [name, [two([9], [9])]]),
  ),
  Div: [{ ...two([2, 3], [3]), range: [0.5, 2] }],
  Mod: [{ ...two([9], [9]), attributes: { fmod: 1 }, range: [0.5, 3] }],
  Log: [{ ...one(9), range: [0.5, 2] }],
  Sqrt: [{ ...one(9), range: [0.5, 2] }],
  Pow: [
    { given: [[4, 3], floats(3)] },
    { given: [[4], scalar(-0.5)], range: [0.5, 2] },
    { given: [floats(10000, 2, 0.5), [2, 3]] },
    { ...two([2, 3], [3]), range: [0.5, 2] },
    { given: [[2, 3], floats(2, 3, 1)] },
  ],
  Asin: [{ ...one(9), range: [-0.9, 0.9] }],
  Acos: [{ ...one(9), range: [-0.9, 0.9] }],
  Acosh: [{ ...one(9), range: [1.1, 3] }],
  Atanh: [{ ...one(9), range: [-0.9, 0.9] }],
  Clip: [
    { given: [[9], scalar(-0.2), scalar(0.4)] },
    { given: [[9], "", scalar(0.4)] },
    { given: [[9]], attributes: { min: f(-0.2), max: f(0.1) }, opset: 9 },
  ],
  PRelu: [two([2, 3, 4], [3, 1])],
  Gelu: [
    { ...one(9), opset: 20 },
    { ...one(9), attributes: { approximate: "tanh" }, opset: 20 },
  ],
  "com.microsoft.Gelu": [one(9)],
  "com.microsoft.QuickGelu": [one(9)],
  Swish: [{ ...one(9), attributes: { alpha: f(1.5) }, opset: 24 }],
  And: [{ given: [tensor("", [1, 1, 0, 0], [4], "bool"), tensor("", [1, 0, 1, 0], [4], "bool")] }],
  Or: [{ given: [tensor("", [1, 1, 0, 0], [4], "bool"), tensor("", [1, 0, 1, 0], [4], "bool")] }],
  Xor: [{ given: [tensor("", [1, 1, 0, 0], [4], "bool"), tensor("", [1, 0, 1, 0], [4], "bool")] }],
  Not: [{ given: [tensor("", [1, 0], [2], "bool")] }],
  Where: [{ given: [tensor("", [1, 0, 1], [3], "bool"), [2, 3], [3]] }],
  Cast: [
    { ...one(9), attributes: { to: 7 }, range: [-3, 3] },
    { given: [floats(0, 2, -1)], attributes: { to: 9 } },
  ],
  CastLike: [{ given: [[4], ints(1)] }],
  Reshape: [{ given: [[2, 6], ints(0, 2, -1)] }, { given: [[2, 6], ints(-1)] }],
  Flatten: [one(2, 3, 4), { ...one(2, 3, 4), attributes: { axis: -1 } }, { ...one(2, 3), attributes: { axis: 0 } }],
  Squeeze: [{ given: [[1, 3, 1], ints(-1)] }, one(1, 3, 1), { ...one(1, 3, 1), attributes: { axes: [0] }, opset: 11 }],
  Unsqueeze: [{ given: [[3, 2], ints(0, -1)] }, { ...one(3), attributes: { axes: [1] }, opset: 11 }],
  Transpose: [one(2, 3, 4), { ...one(2, 3, 4), attributes: { perm: [1, 2, 0] } }],
  Expand: [{ given: [[3, 1], ints(2, 1, 4)] }],
  Tile: [{ given: [[2, 3], ints(2, 3)] }],
  Concat: [{ ...two([2, 3], [2, 1]), attributes: { axis: -1 } }],
  Slice: [
    { given: [[5, 6], ints(1, -4), ints(2 ** 40, -1), ints(0, 1)] },
    { given: [[5, 6], ints(0, 1), ints(5, 6), ints(1, 0), ints(2, 3)] },
    { given: [[5, 6], ints(-1), ints(-(2 ** 40)), ints(1), ints(-2)] },
    { given: [[7], ints(4), ints(1), ints(0), ints(-1)] },
    { given: [[5, 6]], attributes: { starts: [1, 2], ends: [3, 1000] }, opset: 9 },
  ],
  Split: [
    { given: [[2, 6], ints(1, 2, 3)], attributes: { axis: 1 }, outputs: 3 },
    { given: [[2, 7]], attributes: { axis: 1, num_outputs: 3 }, outputs: 3 },
    { given: [[2, 6]], attributes: { axis: 1, split: [4, 2] }, opset: 11, outputs: 2 },
  ],
  Gather: [
    { given: [[4, 3], ints(-1, 0, -1)] },
    { given: [[2, 5, 3], ints(1, 3)], attributes: { axis: 1 } },
    { given: [[2, 5, 3], scalar(-2, "int64")], attributes: { axis: 1 } },
    { given: [[2, 5], tensor("", [3, 0, 1, 1], [2, 2])], attributes: { axis: -1 } },
  ],
  GatherElements: [{ given: [[3, 2], tensor("", [2, -1, 0, 1], [2, 2])] }],
  GatherND: [
    { given: [[2, 3, 4], tensor("", [0, 1, 1, -1], [2, 2])] },
    { given: [[2, 3], tensor("", [1, 0], [2, 1])] },
  ],
  ScatterND: [
    { given: [floats(1, 2, 3, 4), tensor("", [3, 1], [2, 1]), floats(9, 8)] },
    { given: [[4, 3, 2], tensor("", [3, -1, 0, 1], [2, 2]), [2, 2]] },
    { given: [[4, 3], tensor("", [2, 2], [2, 1]), [2, 3]], attributes: { reduction: "add" } },
    ...["mul", "max", "min"].map((reduction) => ({
      given: [[4, 3], tensor("", [2, 2, 0], [3, 1]), [3, 3]],
      attributes: { reduction },
    })),
  ],
  ScatterElements: [
    { given: [[3, 3], tensor("", [1, 0, 2, 0, 2, 1], [2, 3]), [2, 3]] },
    ...["add", "mul", "max", "min"].map((reduction) => ({
      given: [[2, 5], tensor("", [1, -1, 1], [1, 3]), [1, 3]],
      attributes: { axis: 1, reduction },
    })),
  ],
  Scatter: [{ given: [[1, 5], tensor("", [1, 3], [1, 2]), [1, 2]], attributes: { axis: 1 }, opset: 9 }],
  Compress: [
    { given: [[3, 4], tensor("", [0, 1, 1], [3], "bool")], attributes: { axis: 0 } },
    { given: [[3, 2], tensor("", [0, 1, 0, 0, 1], [5], "bool")] },
  ],
  ReverseSequence: [
    { given: [[4, 3, 2], ints(4, 2, 1)] },
    { given: [[3, 4], ints(1, 2, 4)], attributes: { time_axis: 1, batch_axis: 0 } },
  ],
  CenterCropPad: [{ given: [[5, 4, 3], ints(2, 7, 3)] }, { given: [[5, 4], ints(8)], attributes: { axes: [-1] } }],
  Col2Im: [
    { given: [[1, 12, 9], ints(4, 4), ints(2, 2)] },
    {
      given: [[2, 4, 8], ints(5, 5), ints(2, 2)],
      attributes: { strides: [2, 1], dilations: [1, 2], pads: [0, 0, 0, 1] },
    },
  ],
  Pad: [
    { given: [[2, 3], ints(0, 1, 2, 0)] },
    { given: [[2, 3], ints(0, 1, 2, 0), scalar(1.5)] },
    { given: [[4, 5], ints(-1, 1, 0, -2)] },
    { given: [[4, 5], ints(2, 1, 1, 3)], attributes: { mode: "reflect" } },
    { given: [[4, 5], ints(2, 1, 1, 3)], attributes: { mode: "edge" } },
    { given: [[4, 5], ints(2, 1, 1, 3)], attributes: { mode: "wrap" }, opset: 19 },
    { given: [[4, 5], ints(1, 2), "", ints(1)] },
    { given: [[4, 5]], attributes: { pads: [0, 1, 1, 0], value: f(2) }, opset: 9 },
  ],
  DepthToSpace: [
    { ...one(1, 8, 2, 3), attributes: { blocksize: 2 } },
    { ...one(1, 8, 2, 3), attributes: { blocksize: 2, mode: "CRD" } },
  ],
  SpaceToDepth: [{ ...one(1, 2, 4, 6), attributes: { blocksize: 2 } }],
  Shape: [one(2, 3, 4), { ...one(2, 3, 4), attributes: { start: 1, end: -1 }, opset: 15 }],
  Size: [one(2, 3)],
  Constant: [
    { given: [], attributes: { value: floats(1, 2) } },
    { given: [], attributes: { value_ints: [3, 4] } },
    { given: [], attributes: { value_float: f(2.5) } },
  ],
  ConstantOfShape: [{ given: [ints(2, 3)], attributes: { value: floats(4) } }, { given: [ints(2)] }],
  Range: [
    { given: [scalar(1, "int64"), scalar(8, "int64"), scalar(3, "int64")] },
    { given: [scalar(1), scalar(0), scalar(-0.25)] },
  ],
  NonZero: [{ given: [tensor("", [1, 0, 0, 1, 1, 0], [2, 3], "float32")] }],
  OneHot: [
    { given: [ints(1, 0, 2), ints(3), floats(-1, 1)] },
    { given: [ints(1, -1), ints(3), floats(0, 1)], attributes: { axis: 0 } },
  ],
  Trilu: [one(2, 3, 4), { given: [[4, 3], scalar(1, "int64")], attributes: { upper: 0 } }],
  CumSum: [
    { given: [[2, 4, 3], scalar(1, "int64")] },
    { given: [[5], scalar(0, "int64")], attributes: { exclusive: 1 } },
    { given: [[2, 5], scalar(-1, "int64")], attributes: { reverse: 1, exclusive: 1 } },
  ],
  EyeLike: [
    { ...one(3, 4), attributes: { k: 1 } },
    { ...one(3, 4), attributes: { dtype: 7 } },
  ],
  ...Object.fromEntries(
    ["HannWindow", "HammingWindow", "BlackmanWindow"].map((name) => [
      name,
      [{ given: [scalar(7, "int64")] }, { given: [scalar(8, "int64")], attributes: { periodic: 0 } }],
    ]),
  ),
  DFT: [
    { given: [[2, 6, 1]], attributes: { axis: 1, onesided: 1 }, opset: 17 },
    { given: [[2, 5, 3, 2], "", scalar(1, "int64")], opset: 20 },
    { given: [[2, 5, 2], scalar(7, "int64"), scalar(-2, "int64")], opset: 20 },
    { given: [[2, 5, 2]], attributes: { axis: 1, inverse: 1 }, opset: 17 },
  ],
  STFT: [
    { given: [[2, 16, 1], scalar(3, "int64"), [6], scalar(6, "int64")] },
    { given: [[1, 10, 1], scalar(2, "int64"), "", scalar(4, "int64")], attributes: { onesided: 0 } },
  ],
  Conv: [
    { given: [image, [4, 3, 3, 3], [4]], attributes: { pads: [1, 0, 2, 1], strides: [2, 2] } },
    { given: [image, [4, 3, 3, 2]], attributes: { auto_pad: "SAME_UPPER", strides: [2, 2] } },
    { given: [image, [4, 3, 2, 2]], attributes: { auto_pad: "SAME_LOWER" } },
    { given: [image, [4, 3, 2, 2]], attributes: { dilations: [2, 2] } },
    { given: [image, [3, 1, 3, 3]], attributes: { group: 3, pads: [1, 1, 1, 1], strides: [1, 2] } },
    { given: [image, [2, 3, 1, 3]], attributes: { dilations: [1, 2] } },
    {
      given: [
        [1, 2, 7, 9],
        [3, 2, 2, 3],
      ],
      attributes: { dilations: [2, 3], kernel_shape: [2, 3] },
    },
    {
      given: [[1, 4, 5, 4, 6], [6, 2, 3, 2, 3], [6]],
      attributes: { group: 2, strides: [2, 1, 2], pads: [1, 0, 1, 1, 1, 0], dilations: [1, 2, 1] },
    },
    { given: [[2, 3, 8], [4, 3, 3], [4]], attributes: { pads: [1, 1], strides: [2], dilations: [2] } },
  ],
  ConvTranspose: [
    { given: [image, [3, 4, 3, 3], [4]], attributes: { strides: [2, 2], pads: [1, 1, 1, 1], output_padding: [1, 1] } },
    { given: [image, [3, 2, 2, 2]], attributes: { strides: [2, 2] } },
    {
      given: [
        [1, 4, 3, 3],
        [4, 1, 3, 3],
      ],
      attributes: { group: 2, dilations: [2, 2] },
    },
    {
      given: [
        [1, 3, 5],
        [3, 2, 4],
      ],
      attributes: { strides: [2], pads: [1, 1] },
    },
    {
      given: [
        [1, 2, 3, 4],
        [2, 3, 3, 2],
      ],
      attributes: { strides: [3, 2], pads: [1, 0, 0, 1] },
    },
    {
      given: [
        [1, 2, 3, 4],
        [2, 3, 3, 3],
      ],
      attributes: { strides: [3, 2], output_shape: [10, 8] },
    },
    {
      given: [
        [1, 2, 3, 4],
        [2, 3, 3, 3],
      ],
      attributes: { strides: [2, 2], auto_pad: "SAME_UPPER" },
    },
    {
      given: [
        [1, 2, 2, 3, 4],
        [2, 2, 2, 3, 2],
      ],
      attributes: { strides: [2, 1, 2], pads: [0, 1, 0, 1, 0, 0] },
    },
  ],
  MaxPool: [
    { given: [image], attributes: { kernel_shape: [3, 2], strides: [2, 2], pads: [1, 0, 1, 1] } },
    { given: [[1, 2, 6, 7]], attributes: { kernel_shape: [3, 3], strides: [2, 2], ceil_mode: 1 } },
    { given: [[1, 2, 7, 7]], attributes: { kernel_shape: [2, 2], dilations: [2, 2] } },
    { given: [[1, 2, 7]], attributes: { kernel_shape: [3], strides: [2] } },
    { given: [[1, 2, 4, 5, 4]], attributes: { kernel_shape: [2, 3, 2], strides: [2, 1, 1], pads: [0, 1, 0, 0, 1, 1] } },
    { given: [image], attributes: { kernel_shape: [2, 2], strides: [2, 2] }, outputs: 2 },
    { given: [image], attributes: { kernel_shape: [2, 2], storage_order: 1 }, outputs: 2 },
  ],
  MaxUnpool: [
    {
      given: [[1, 1, 2, 2], tensor("", [5, 7, 13, 15], [1, 1, 2, 2])],
      attributes: { kernel_shape: [2, 2], strides: [2, 2] },
    },
  ],
  LpPool: [
    { given: [image], attributes: { kernel_shape: [2, 3], strides: [2, 1], pads: [1, 1, 0, 1] } },
    { given: [[1, 2, 6]], attributes: { kernel_shape: [3], p: 1 } },
    { given: [[1, 2, 6]], attributes: { kernel_shape: [3], p: 3 } },
  ],
  GlobalLpPool: [{ given: [image], attributes: { p: 2 } }],
  AveragePool: [
    { given: [[1, 2, 4, 6]], attributes: { kernel_shape: [2, 2], strides: [2, 2] } },
    { given: [image], attributes: { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1] } },
    { given: [image], attributes: { kernel_shape: [3, 3], pads: [1, 1, 1, 1], count_include_pad: 1 } },
    { given: [image], attributes: { kernel_shape: [2, 2], strides: [2, 2], ceil_mode: 1 }, opset: 19 },
    { given: [image], attributes: { kernel_shape: [3, 2], strides: [2, 1], pads: [1, 0, 1, 1] } },
    { given: [[1, 2, 4, 5, 6]], attributes: { kernel_shape: [2, 2, 3], strides: [2, 1, 2], pads: [1, 0, 1, 1, 0, 1] } },
  ],
  GlobalAveragePool: [{ given: [image] }],
  GlobalMaxPool: [{ given: [image] }],
  Resize: [
    resize({ mode: "linear" }, [8, 4]),
    resize({ mode: "linear", coordinate_transformation_mode: "align_corners" }, [8, 4]),
    resize({ mode: "linear", coordinate_transformation_mode: "asymmetric" }, [8, 4]),
    resize({ mode: "linear", coordinate_transformation_mode: "pytorch_half_pixel" }, [8, 1]),
    resize({ mode: "cubic" }, [9, 5]),
    resize({ mode: "cubic", cubic_coeff_a: f(-0.5), exclude_outside: 1 }, [9, 5]),
    resize({ mode: "linear", antialias: 1 }, [3, 4]),
    resize({ mode: "nearest" }, [10, 14]),
    resize({ mode: "nearest", coordinate_transformation_mode: "asymmetric", nearest_mode: "floor" }, [10, 14]),
    resize({ mode: "nearest", nearest_mode: "ceil", coordinate_transformation_mode: "asymmetric" }, [8, 4]),
    { given: [[1, 2, 3, 5], "", floats(1, 1, 2, 1.5)], attributes: { mode: "linear" } },
    { given: [[1, 2, 3, 5], "", "", ints(6, 3)], attributes: { mode: "linear", axes: [2, 3] } },
    { given: [[1, 2, 3, 5], floats(1, 1, 2, 2)], attributes: { mode: "nearest" }, opset: 10 },
    { given: [[1, 2, 4, 3, 2], "", "", ints(1, 2, 7, 5, 2)], attributes: { mode: "linear" } },
    { given: [[1, 5, 4, 2], "", "", ints(1, 8, 6, 2)], attributes: { mode: "linear" } },
    {
      given: [[1, 1, 4, 5], floats(0, 0, 0.2, 0.3, 1, 1, 0.7, 1.4), "", ints(1, 1, 3, 6)],
      attributes: { mode: "linear", coordinate_transformation_mode: "tf_crop_and_resize", extrapolation_value: f(2) },
    },
    {
      given: [[1, 2, 3, 5], "", "", ints(7, 8)],
      attributes: { mode: "linear", axes: [2, 3], keep_aspect_ratio_policy: "not_larger" },
    },
    {
      given: [[1, 2, 3, 5], "", "", ints(7, 8)],
      attributes: { mode: "nearest", axes: [2, 3], keep_aspect_ratio_policy: "not_smaller" },
    },
  ],
  Upsample: [{ given: [[1, 2, 3, 5], floats(1, 1, 2, 3)], attributes: { mode: "nearest" }, opset: 9 }],
  MatMul: [two([2, 3, 4], [4, 5]), two([4], [2, 4, 3]), two([2, 3, 4], [4]), two([4], [4])],
  Gemm: [
    { given: [[3, 4], [5, 4], [5]], attributes: { transB: 1 } },
    {
      given: [
        [4, 3],
        [4, 5],
        [3, 1],
      ],
      attributes: { transA: 1, alpha: f(0.5), beta: f(2) },
    },
  ],
  Einsum: [
    { ...two([2, 3, 4, 5], [2, 6, 4, 5]), attributes: { equation: "bnhd,bmhd->bhnm" } },
    { ...two([2, 3, 4], [5, 4]), attributes: { equation: "bij, kj -> bki" } },
    { ...one(2, 3, 4), attributes: { equation: "abc->ca" } },
    { ...two([2, 3, 4], [5, 4]), attributes: { equation: "...ij,kj" } },
    { ...two([2, 6, 3, 4], [2, 6, 4, 5]), attributes: { equation: "...ij,...jk->...ik" } },
    { ...one(2, 3, 3), attributes: { equation: "...ii->...i" } },
    { ...two([4], [4]), attributes: { equation: "i,i" } },
    {
      given: [
        [2, 3],
        [3, 4],
        [4, 5],
      ],
      attributes: { equation: "ab,bc,cd->ad" },
    },
  ],
  Attention: [
    {
      given: [
        [2, 3, 4, 5],
        [2, 3, 6, 5],
        [2, 3, 6, 5],
      ],
      opset: 23,
    },
    {
      given: [
        [2, 4, 6],
        [2, 5, 6],
        [2, 5, 6],
        [4, 5],
      ],
      attributes: { q_num_heads: 2, kv_num_heads: 2, scale: f(0.7) },
      opset: 23,
    },
    { given: [[1, 2, 2, 3], [1, 2, 3, 3], [1, 2, 3, 3], tensor("", [1, 0, 1, 1, 1, 0], [2, 3], "bool")], opset: 23 },
    {
      given: [
        [1, 4, 3, 2],
        [1, 2, 3, 2],
        [1, 2, 3, 2],
      ],
      attributes: { is_causal: 1, softcap: f(0.5) },
      opset: 23,
    },
    {
      given: [[1, 2, 2, 3], [1, 2, 2, 3], [1, 2, 2, 3], "", [1, 2, 3, 3], [1, 2, 3, 3]],
      opset: 23,
      outputs: 3,
    },
  ],
  RotaryEmbedding: [
    { given: [[2, 3, 4, 6], [8, 3], [8, 3], tensor("", [0, 1, 2, 3, 4, 5, 6, 7], [2, 4])], opset: 23 },
    {
      given: [
        [1, 4, 12],
        [1, 4, 2],
        [1, 4, 2],
      ],
      attributes: { num_heads: 2, interleaved: 1, rotary_embedding_dim: 4 },
      opset: 23,
    },
  ],
  GridSample: [
    ...["zeros", "border", "reflection"].flatMap((padding_mode) =>
      [0, 1].map((align_corners) => ({
        ...two([2, 3, 4, 5], [2, 3, 2, 2]),
        attributes: { mode: "bilinear", padding_mode, align_corners },
        range: [-1.5, 1.5] as const,
      })),
    ),
    { ...two([1, 2, 4, 5], [1, 3, 2, 2]), attributes: { mode: "bicubic", padding_mode: "border" } },
    { ...two([1, 2, 4, 5], [1, 3, 2, 2]), attributes: { mode: "nearest" } },
    { ...two([1, 2, 3, 4, 5], [1, 2, 3, 2, 3]), attributes: { mode: "linear" }, opset: 20, range: [-1.2, 1.2] },
  ],
  AffineGrid: [
    { given: [[2, 2, 3], ints(2, 1, 3, 4)], opset: 20 },
    { given: [[1, 3, 4], ints(1, 1, 2, 3, 4)], attributes: { align_corners: 1 }, opset: 20 },
  ],
  RoiAlign: ["avg", "max"].flatMap((mode) =>
    ["half_pixel", "output_half_pixel"].map((coordinate_transformation_mode) => ({
      given: [[2, 3, 6, 7], tensor("", [0, 0, 6, 5, 1.5, 2, 8, 9], [2, 4], "float32"), ints(1, 0)],
      attributes: {
        mode,
        coordinate_transformation_mode,
        output_height: 2,
        output_width: 3,
        sampling_ratio: 2,
        spatial_scale: f(0.7),
      },
    })),
  ),
  DeformConv: [
    {
      given: [[1, 4, 5, 5], [6, 2, 3, 3], [1, 36, 3, 3], [6], [1, 18, 3, 3]],
      attributes: { group: 2, offset_group: 2 },
      opset: 19,
    },
    {
      given: [
        [1, 2, 5, 5],
        [3, 2, 2, 2],
        [1, 8, 6, 6],
      ],
      attributes: { pads: [1, 1, 1, 1], kernel_shape: [2, 2] },
      opset: 19,
    },
  ],
  BatchNormalization: [{ given: [image, [3], [3], [3], [3]], range: [0.5, 2] }],
  InstanceNormalization: [{ given: [image, [3], [3]] }],
  GroupNormalization: [{ given: [[2, 6, 3, 2], [6], [6]], attributes: { num_groups: 3 }, opset: 21 }],
  LayerNormalization: [
    { given: [[2, 3, 4], [4], [4]] },
    {
      given: [
        [2, 3, 4],
        [3, 4],
      ],
      attributes: { axis: 1, epsilon: f(0.01) },
    },
    { given: [[2, 3, 4], [4], [4]], outputs: 3 },
  ],
  RMSNormalization: [{ given: [[2, 3, 4], [4]], attributes: { epsilon: f(0.01) }, opset: 23 }],
  MeanVarianceNormalization: [{ given: [image] }],
  Hardmax: [one(3, 4), { ...one(2, 3, 4), attributes: { axis: 1 } }],
  LRN: [{ given: [[2, 5, 3, 2]], attributes: { size: 3, alpha: f(0.1), beta: f(0.6) } }],
  LpNormalization: [
    { given: [[3, 4]], attributes: { p: 2 } },
    { given: [[3, 4]], attributes: { p: 1, axis: 0 } },
  ],
  Softmax: [
    one(2, 3, 4),
    { ...one(2, 3, 4), attributes: { axis: 1 } },
    { ...one(2, 3, 4), attributes: { axis: 1 }, opset: 11 },
  ],
  LogSoftmax: [{ ...one(2, 3, 4), attributes: { axis: 1 } }],
  ReduceSum: [{ given: [[2, 3, 4], ints(-1)] }, { ...one(2, 3), attributes: { keepdims: 0 } }],
  ReduceMean: [{ ...one(2, 3, 4), attributes: { axes: [1, 2], keepdims: 0 }, opset: 13 }],
  ...Object.fromEntries(
    "Max Min L1 L2 SumSquare LogSumExp".split(" ").map((name) => [`Reduce${name}`, [{ given: [[2, 3, 4], ints(1)] }]]),
  ),
  ReduceLogSum: [{ given: [[2, 3, 4], ints(1)], range: [0.5, 2] }],
  ReduceProd: [
    { given: [ints(2, 3, 4)] },
    { given: [[2, 5, 3], ints(1)] },
    { ...one(2, 3), attributes: { keepdims: 0 } },
  ],
  ArgMax: [
    { ...one(3, 5), attributes: { axis: 1 } },
    { ...one(3, 5), attributes: { axis: 0, keepdims: 0 } },
    { given: [floats(1, 3, 3, 2)], attributes: { axis: 0, select_last_index: 1 } },
  ],
  ArgMin: [{ ...one(3, 5), attributes: { axis: 1 } }],
  TopK: [
    { given: [[3, 6], ints(2)], outputs: 2 },
    { given: [[3, 6], ints(2)], attributes: { axis: 0, largest: 0 }, outputs: 2 },
  ],
};

const u8 = (values: readonly number[], shape: readonly number[] = [values.length]) =>
  tensor("", values, shape, "uint8");
const i8 = (values: readonly number[], shape: readonly number[] = [values.length]) => tensor("", values, shape, "int8");
const i32 = (...values: number[]) => tensor("", values, [values.length], "int32");
const bytes = (count: number, step: number, shift = 0) =>
  Array.from({ length: count }, (_, i) => ((i * step) % 97) + shift);

const QUANTIZED: Readonly<Record<string, readonly Case[]>> = {
  QuantizeLinear: [
    { given: [[3, 4], scalar(0.01), u8([128], [])], isStraightThrough: true },
    { given: [[3, 4], floats(0.01, 0.02, 0.03), i8([0, 3, -5])], attributes: { axis: 0 }, isStraightThrough: true },
    { given: [[3, 4], scalar(0.004)], isStraightThrough: true },
  ],
  DequantizeLinear: [
    { given: [u8(bytes(6, 31), [2, 3]), scalar(0.1), u8([20], [])] },
    { given: [i8(bytes(6, 31, -40), [2, 3]), floats(0.1, 0.2, 0.3)], attributes: { axis: 1 } },
    { given: [i32(5, -700, 90), scalar(0.5)] },
    {
      given: [i8(bytes(8, 31, -40), [4, 2]), tensor("", [0.1, 0.2, 0.3, 0.4], [2, 2], "float32")],
      attributes: { axis: 0, block_size: 2 },
      opset: 21,
    },
  ],
  "com.microsoft.QuantizeLinear": [{ given: [[3, 4], scalar(0.01), u8([128], [])], isStraightThrough: true }],
  "com.microsoft.DequantizeLinear": [{ given: [u8(bytes(6, 31), [2, 3]), scalar(0.1), u8([20], [])] }],
  DynamicQuantizeLinear: [{ given: [[3, 5]], outputs: 3, isStraightThrough: true }],
  QLinearMatMul: [
    {
      given: [
        u8(bytes(6, 31), [2, 3]),
        scalar(0.1),
        u8([20], []),
        u8(bytes(12, 17), [3, 4]),
        scalar(0.05),
        u8([9], []),
        scalar(0.9),
        u8([100], []),
      ],
    },
  ],
  QLinearConv: [
    {
      given: [
        u8(bytes(50, 31), [1, 2, 5, 5]),
        scalar(0.1),
        u8([20], []),
        i8(bytes(36, 17, -50), [2, 2, 3, 3]),
        floats(0.05, 0.02),
        i8([0, 0]),
        scalar(1.7),
        u8([100], []),
        i32(40, -90),
      ],
      attributes: { pads: [1, 1, 1, 1], strides: [2, 2] },
    },
  ],
  MatMulInteger: [{ given: [u8(bytes(6, 31), [2, 3]), u8(bytes(12, 17), [3, 4]), u8([20], []), u8([9], [])] }],
  ConvInteger: [{ given: [u8(bytes(25, 31), [1, 1, 5, 5]), u8(bytes(9, 17), [1, 1, 3, 3]), u8([20], [])] }],
  "com.microsoft.QLinearAdd": [
    {
      given: [
        u8(bytes(4, 31)),
        scalar(0.1),
        u8([20], []),
        u8(bytes(4, 17)),
        scalar(0.2),
        u8([3], []),
        scalar(0.13),
        u8([40], []),
      ],
    },
  ],
  "com.microsoft.QLinearMul": [
    {
      given: [
        u8(bytes(4, 31)),
        scalar(0.1),
        u8([20], []),
        u8(bytes(4, 17)),
        scalar(0.2),
        u8([3], []),
        scalar(0.53),
        u8([40], []),
      ],
    },
  ],
  "com.microsoft.QLinearSigmoid": [{ given: [u8(bytes(4, 31)), scalar(0.1), u8([20], []), scalar(0.01), u8([0], [])] }],
  "com.microsoft.QLinearLeakyRelu": [
    { given: [u8(bytes(4, 31)), scalar(0.1), u8([20], []), scalar(0.11), u8([30], [])], attributes: { alpha: f(0.2) } },
  ],
  "com.microsoft.QLinearGlobalAveragePool": [
    {
      given: [u8(bytes(24, 31), [1, 2, 3, 4]), scalar(0.1), u8([20], []), scalar(0.05), u8([30], [])],
      attributes: { channels_last: 0 },
    },
  ],
  "com.microsoft.QLinearSoftmax": [
    {
      given: [u8(bytes(6, 31), [2, 3]), scalar(0.02), u8([20], []), scalar(1 / 256), u8([0], [])],
      attributes: { axis: -1, opset: 13 },
    },
  ],
  "com.microsoft.QLinearAveragePool": [
    {
      given: [u8(bytes(25, 31), [1, 1, 5, 5]), scalar(0.1), u8([20], []), scalar(0.07), u8([30], [])],
      attributes: { kernel_shape: [2, 3], pads: [1, 0, 0, 1] },
    },
  ],
  "com.microsoft.QGemm": [
    {
      given: [
        u8(bytes(6, 31), [2, 3]),
        scalar(0.1),
        u8([20], []),
        i8(bytes(12, 17, -40), [4, 3]),
        scalar(0.05),
        i8([3], []),
        i32(40, -9, 3, 700),
        scalar(0.21),
        u8([100], []),
      ],
      attributes: { transB: 1, alpha: f(1) },
    },
    {
      given: [
        u8(bytes(6, 31), [2, 3]),
        scalar(0.1),
        u8([20], []),
        i8(bytes(12, 17, -40), [3, 4]),
        scalar(0.05),
        i8([3], []),
      ],
    },
  ],
  "com.microsoft.QLinearConcat": [
    {
      given: [
        scalar(0.21),
        u8([7], []),
        u8(bytes(4, 31), [2, 2]),
        scalar(0.1),
        u8([20], []),
        u8(bytes(2, 17), [2, 1]),
        scalar(0.3),
        u8([3], []),
      ],
      attributes: { axis: 1 },
    },
  ],
};

const FUSED: Readonly<Record<string, readonly Case[]>> = {
  SimplifiedLayerNormalization: [{ given: [[2, 3, 4], [4]], attributes: { epsilon: f(0.01) } }],
  "com.microsoft.SkipLayerNormalization": [
    { given: [[2, 3, 4], [2, 3, 4], [4], [4], [4]], attributes: { epsilon: f(0.01) } },
    { given: [[2, 3, 4], [2, 3, 4], [4]] },
  ],
  "com.microsoft.SkipSimplifiedLayerNormalization": [
    { given: [[2, 3, 4], [2, 3, 4], [4], [4]], attributes: { epsilon: f(0.01) } },
  ],
  "com.microsoft.FusedMatMul": [{ ...two([2, 4, 3], [2, 5, 4]), attributes: { transA: 1, transB: 1, alpha: f(0.5) } }],
  "com.microsoft.FusedGemm": [
    { given: [[3, 4], [5, 4], [5]], attributes: { transB: 1, activation: "LeakyRelu", activation_alpha: f(0.2) } },
    {
      given: [
        [3, 4],
        [4, 5],
      ],
      attributes: { activation: "Tanh" },
    },
  ],
  "com.microsoft.FusedConv": [
    { given: [image, [4, 3, 3, 3], [4]], attributes: { pads: [1, 1, 1, 1], activation: "Relu" } },
    { given: [image, [4, 3, 3, 3], [4], [2, 4, 5, 6]], attributes: { pads: [1, 1, 1, 1], activation: "Relu" } },
    { given: [image, [4, 3, 3, 3]], attributes: { activation: "Clip", activation_params: { floats: [-0.1, 0.3] } } },
    {
      given: [image, [4, 3, 3, 3]],
      attributes: { activation: "HardSigmoid", activation_params: { floats: [0.3, 0.4] } },
    },
    { given: [image, [4, 3, 3, 3]], attributes: { activation: "Sigmoid" } },
  ],
  "com.microsoft.BiasGelu": [two([2, 3, 4], [4])],
  "com.microsoft.FastGelu": [two([2, 3, 4], [4]), one(2, 3)],
  "com.microsoft.Attention": [
    { given: [[2, 3, 4], [4, 12], [12]], attributes: { num_heads: 2 } },
    {
      given: [[2, 3, 4], [4, 12], [12], tensor("", [1, 1, 0, 1, 1, 1], [2, 3], "int32")],
      attributes: { num_heads: 2, unidirectional: 1 },
    },
  ],
  "com.microsoft.MultiHeadAttention": [
    { given: [[2, 3, 4], [2, 5, 4], [2, 5, 4], [12]], attributes: { num_heads: 2, scale: f(0.6) } },
    {
      given: [
        [2, 3, 4],
        [2, 5, 4],
        [2, 5, 4],
        "",
        tensor("", [1, 1, 0, 1, 1, 1, 1, 1, 1, 0], [2, 5], "int32"),
        [2, 2, 3, 5],
      ],
      attributes: { num_heads: 2 },
    },
  ],
};

const LEARNED: Readonly<Record<string, readonly Case[]>> = {
  LinearRegressor: [
    {
      ...one(3, 2),
      attributes: { coefficients: { floats: [1, 2, -1, 0.5] }, intercepts: { floats: [0.1, 0.2] }, targets: 2 },
    },
  ],
  LinearClassifier: ["NONE", "LOGISTIC", "SOFTMAX"].map((post_transform) => ({
    ...one(3, 2),
    attributes: {
      coefficients: { floats: [1, 2, -1, 0.5, 0.3, 0.2] },
      intercepts: { floats: [0.1, 0.2, 0] },
      classlabels_ints: [4, 7, 9],
      post_transform,
    },
    outputs: 2,
  })),
  Scaler: [{ ...one(3, 2), attributes: { offset: { floats: [1, 2] }, scale: { floats: [0.5, 3] } } }],
  Normalizer: ["MAX", "L1", "L2"].map((norm) => ({ ...one(3, 4), attributes: { norm } })),
  SVMRegressor: ["LINEAR", "RBF", "POLY", "SIGMOID"].map((kernel_type) => ({
    ...one(3, 2),
    attributes: {
      kernel_type,
      kernel_params: { floats: [0.5, 0.3, 3] },
      n_supports: 3,
      support_vectors: { floats: [1, 2, -1, 0.5, 0.3, 0.2] },
      coefficients: { floats: [0.4, -0.7, 1.1] },
      rho: { floats: [0.2] },
    },
  })),
  Binarizer: [{ ...one(3, 4), attributes: { threshold: f(0.2) } }],
  ArrayFeatureExtractor: [{ given: [[3, 4], ints(1, 3)] }],
};

const recurrent = (gates: number, attributes: Attributes = {}, more: Case["given"] = []): Case => ({
  given: [[3, 2, 4], [1, gates * 5, 4], [1, gates * 5, 5], [1, 2 * gates * 5], ...more],
  attributes: { hidden_size: 5, ...attributes },
  outputs: 2,
});
const RECURRENT: Readonly<Record<string, readonly Case[]>> = {
  RNN: [recurrent(1), recurrent(1, { direction: "reverse" }, ["", [1, 2, 5]])],
  GRU: [
    recurrent(3),
    recurrent(3, { linear_before_reset: 1 }, [i32(3, 2), [1, 2, 5]]),
    {
      given: [
        [3, 2, 4],
        [2, 15, 4],
        [2, 15, 5],
      ],
      attributes: { hidden_size: 5, direction: "bidirectional" },
      outputs: 2,
    },
  ],
  LSTM: [
    { ...recurrent(4, {}, ["", [1, 2, 5], [1, 2, 5], [1, 15]]), outputs: 3 },
    { ...recurrent(4, { direction: "reverse" }, [i32(3, 1)]), outputs: 3 },
  ],
};

const LOSSES: Readonly<Record<string, readonly Case[]>> = {
  NegativeLogLikelihoodLoss: [
    { given: [[3, 4], ints(1, 0, 3)] },
    {
      given: [[3, 4, 2], tensor("", [1, 0, 3, 1, 2, 2], [3, 2]), [4]],
      attributes: { reduction: "sum", ignore_index: 2 },
    },
  ],
  SoftmaxCrossEntropyLoss: [
    { given: [[3, 4], ints(1, 0, 3)], outputs: 2 },
    { given: [[3, 4], ints(1, 0, 3), floats(1, 2, 3, 4)], attributes: { reduction: "none" } },
    { given: [[3, 4], ints(1, 0, 3), floats(1, 2, 3, 4)], attributes: { ignore_index: 0 } },
  ],
};

const BITS: Readonly<Record<string, readonly Case[]>> = {
  ...Object.fromEntries(
    ["BitwiseAnd", "BitwiseOr", "BitwiseXor"].map((name) => [name, [{ given: [ints(12, -5), ints(10, 7)] }]]),
  ),
  BitwiseNot: [{ given: [u8([12, 0])] }, { given: [ints(12, -5)] }],
  BitShift: [
    { given: [u8([200, 3]), u8([1, 2])], attributes: { direction: "LEFT" } },
    { given: [u8([200, 3]), u8([1, 2])], attributes: { direction: "RIGHT" } },
  ],
};

const ALL: Readonly<Record<string, readonly Case[]>> = {
  ...CASES,
  ...QUANTIZED,
  ...FUSED,
  ...Object.fromEntries(Object.entries(LEARNED).map(([name, cases]) => [`ai.onnx.ml.${name}`, cases])),
  ...RECURRENT,
  ...LOSSES,
  ...BITS,
};

const scratch = mkdtempSync(join(tmpdir(), "alignprop-onnx-"));
afterAll(() => rmSync(scratch, { recursive: true }));
const rng = new Rng(3);

test("every operator has a case", () => {
  expect([...Object.keys(ALL), ...NOT_IN_RUNTIME].sort()).toEqual(Object.keys(OPERATORS).sort());
  expect(Object.values(ALL).every((cases) => cases.length > 0)).toBe(true);
});

/** Where the gradient of each floating point output along a random direction is not that of central differences. */
function gradientProblems(
  inputs: Readonly<Record<string, Value>>,
  outputs: Readonly<Record<string, Value>>,
  feeds: Readonly<Record<string, F64Array>>,
): string[] {
  const names = Object.keys(inputs);
  if (names.length === 0) return [];
  return Object.entries(outputs).flatMap(([result, y]) => {
    if (!isFloating(y.dtype)) return [];
    const upstream = Float64Array.from({ length: sizeOf(y.shape) }, () => rng.normal());
    const found = gradients([{ value: y, gradient: constant(upstream, y.shape) }], Object.values(inputs));
    const slopes = Object.fromEntries(
      found.flatMap((value, i) => (value ? [[names[i] as string, value] as const] : [])),
    );
    const computed = interpret({ name: "gradient", inputs, outputs: slopes }, feeds);
    const direction = Object.fromEntries(
      Object.entries(feeds).map(([name, { data }]) => [name, data.map(() => rng.normal())]),
    );
    const step = 1e-5;
    const at = (by: number) => {
      const moved = Object.fromEntries(
        Object.entries(feeds).map(([name, { shape, data }]) => [
          name,
          { shape, data: data.map((x, i) => x + by * (direction[name]?.[i] as number)) },
        ]),
      );
      const { data } = interpret({ name: "moved", inputs, outputs: { y } }, moved).y as F64Array;
      return data.reduce((sum, x, i) => sum + x * (upstream[i] as number), 0);
    };
    const numeric = (at(step) - at(-step)) / (2 * step);
    const analytic = Object.entries(computed).reduce(
      (total, [name, { data }]) => data.reduce((sum, x, i) => sum + x * (direction[name]?.[i] as number), total),
      0,
    );
    const isClose = Math.abs(numeric - analytic) <= 1e-5 * Math.max(1, Math.abs(numeric));
    return isClose ? [] : [`the slope of ${result} is ${analytic}, expected ${numeric}`];
  });
}

describe("the imported operator agrees with ONNX Runtime", () => {
  for (const [name, cases] of Object.entries(ALL)) {
    test(name, async () => {
      for (const one of cases) {
        const { given, attributes = {}, opset = 18, outputs = 1, range: [low, high] = [-1, 1] } = one;
        const names = given.map((one, i) => (one === "" ? "" : `x${i}`));
        const results = Array.from({ length: outputs }, (_, i) => `y${i}`);
        const varying = given.flatMap((one, i) =>
          Array.isArray(one) ? [[`x${i}`, one as readonly number[]] as const] : [],
        );
        const constants = given.flatMap((one, i) =>
          typeof one === "object" && "$typeName" in one ? [{ ...one, name: `x${i}` }] : [],
        );
        const bytes = model({
          nodes: [node(name, names, results, attributes)],
          inputs: Object.fromEntries(varying),
          outputs: results,
          initializers: constants,
          opset,
        });
        const path = join(scratch, "model.onnx");
        writeFileSync(path, bytes);
        const feeds = Object.fromEntries(
          varying.map(([at, shape]) => [
            at,
            {
              shape,
              data: Float64Array.from({ length: sizeOf(shape) }, () => Math.fround(low + (high - low) * rng.uniform())),
            },
          ]),
        );
        const session = await InferenceSession.create(bytes, { logSeverityLevel: 4 });
        const expected = await session.run(
          Object.fromEntries(
            Object.entries(feeds).map(([at, { shape, data }]) => [at, new Tensor(Float32Array.from(data), shape)]),
          ),
        );
        await session.release();
        const inputs = Object.fromEntries(varying.map(([at, shape]) => [at, input(shape)]));
        const imported = new OnnxImport(await openOnnx(path), inputs);
        const actual = interpret(
          { name, inputs, outputs: Object.fromEntries(results.map((result) => [result, imported.output(result)])) },
          feeds,
        );
        for (const result of results) {
          const what = `${name} ${JSON.stringify(attributes, (_, value) => (typeof value === "bigint" ? Number(value) : value))} ${result}`;
          expect(actual[result]?.shape, what).toEqual(expected[result]?.dims);
          const values = Array.from(expected[result]?.data as ArrayLike<number | bigint | boolean>, Number);
          const far = values.findIndex(
            (value, i) =>
              !(Math.abs((actual[result]?.data[i] as number) - value) <= 1e-5 * Math.max(1, Math.abs(value))),
          );
          expect(far < 0 ? "close" : `${actual[result]?.data[far]} instead of ${values[far]} at ${far}`, what).toBe(
            "close",
          );
        }
        if (one.isStraightThrough) continue;
        const built = Object.fromEntries(results.map((result) => [result, imported.output(result)]));
        for (const problem of gradientProblems(inputs, built, feeds)) throw new Error(`${name}: ${problem}`);
      }
    });
  }
});
