/** Cases of the operators of ONNX itself, except for those of quantization, recurrence, losses and bits. */
import { type Attributes, tensor } from "../onnx-model.js";
import { type Case, f, floats, image, ints, one, scalar, two } from "./case.js";

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

export const STANDARD: Readonly<Record<string, readonly Case[]>> = {
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
