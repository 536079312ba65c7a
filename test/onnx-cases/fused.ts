/** Cases of the operators that ONNX Runtime fuses. */
import { tensor } from "../onnx-model.js";
import { type Case, f, image, one, two } from "./case.js";

export const FUSED: Readonly<Record<string, readonly Case[]>> = {
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
