/** Compares each imported operator, computed in float64, with ONNX Runtime's result for the original ONNX node. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TensorProto } from "onnx-buf";
import { InferenceSession, Tensor } from "onnxruntime-node";
import { afterAll, describe, expect, test } from "vitest";
import { type Attributes, model, node, tensor } from "../../../test/onnx-model.js";
import { interpret } from "../../graph/interpret.js";
import { input } from "../../ops/index.js";
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
}

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
  ],
  Round: [{ given: [floats(0.5, 1.5, 2.5, -0.5, -1.5, 1.2, 1.7, -3)] }],
  Atan: [{ given: [floats(0.5, -2)] }],
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
  EyeLike: [{ ...one(3, 4), attributes: { k: 1 } }],
  Conv: [
    { given: [image, [4, 3, 3, 3], [4]], attributes: { pads: [1, 0, 2, 1], strides: [2, 2] } },
    { given: [image, [4, 3, 3, 2]], attributes: { auto_pad: "SAME_UPPER", strides: [2, 2] } },
    { given: [image, [4, 3, 2, 2]], attributes: { auto_pad: "SAME_LOWER" } },
    { given: [image, [4, 3, 2, 2]], attributes: { dilations: [2, 2] } },
    { given: [image, [3, 1, 3, 3]], attributes: { group: 3, pads: [1, 1, 1, 1], strides: [1, 2] } },
    { given: [image, [2, 3, 1, 3]], attributes: { dilations: [1, 2] } },
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
  ],
  MaxPool: [
    { given: [image], attributes: { kernel_shape: [3, 2], strides: [2, 2], pads: [1, 0, 1, 1] } },
    { given: [[1, 2, 6, 7]], attributes: { kernel_shape: [3, 3], strides: [2, 2], ceil_mode: 1 } },
    { given: [[1, 2, 7, 7]], attributes: { kernel_shape: [2, 2], dilations: [2, 2] } },
    { given: [[1, 2, 7]], attributes: { kernel_shape: [3], strides: [2] } },
  ],
  AveragePool: [
    { given: [[1, 2, 4, 6]], attributes: { kernel_shape: [2, 2], strides: [2, 2] } },
    { given: [image], attributes: { kernel_shape: [3, 3], strides: [2, 2], pads: [1, 1, 1, 1] } },
    { given: [image], attributes: { kernel_shape: [3, 3], pads: [1, 1, 1, 1], count_include_pad: 1 } },
    { given: [image], attributes: { kernel_shape: [2, 2], strides: [2, 2], ceil_mode: 1 }, opset: 19 },
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
  ],
  RMSNormalization: [{ given: [[2, 3, 4], [4]], attributes: { epsilon: f(0.01) }, opset: 23 }],
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
  ReduceProd: [{ given: [ints(2, 3, 4)] }],
  ArgMax: [
    { ...one(3, 5), attributes: { axis: 1 } },
    { ...one(3, 5), attributes: { axis: 0, keepdims: 0 } },
  ],
  ArgMin: [{ ...one(3, 5), attributes: { axis: 1 } }],
  TopK: [
    { given: [[3, 6], ints(2)], outputs: 2 },
    { given: [[3, 6], ints(2)], attributes: { axis: 0, largest: 0 }, outputs: 2 },
  ],
};

const scratch = mkdtempSync(join(tmpdir(), "alignprop-onnx-"));
afterAll(() => rmSync(scratch, { recursive: true }));
const rng = new Rng(3);

test("every operator has a case", () => {
  expect(Object.keys(CASES).sort()).toEqual(Object.keys(OPERATORS).sort());
  expect(Object.values(CASES).every((cases) => cases.length > 0)).toBe(true);
});

describe("the imported operator agrees with ONNX Runtime", () => {
  for (const [name, cases] of Object.entries(CASES)) {
    test(name, async () => {
      for (const { given, attributes = {}, opset = 18, outputs = 1, range: [low, high] = [-1, 1] } of cases) {
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
      }
    });
  }
});
