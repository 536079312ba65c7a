/** Cases of linear models, recurrent layers, losses and bits. */
import { type Attributes, tensor } from "../onnx-model.js";
import { type Case, f, floats, i32, ints, one, u8 } from "./case.js";

export const LEARNED: Readonly<Record<string, readonly Case[]>> = {
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
export const RECURRENT: Readonly<Record<string, readonly Case[]>> = {
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

export const LOSSES: Readonly<Record<string, readonly Case[]>> = {
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

export const BITS: Readonly<Record<string, readonly Case[]>> = {
  ...Object.fromEntries(
    ["BitwiseAnd", "BitwiseOr", "BitwiseXor"].map((name) => [name, [{ given: [ints(12, -5), ints(10, 7)] }]]),
  ),
  BitwiseNot: [{ given: [u8([12, 0])] }, { given: [ints(12, -5)] }],
  BitShift: [
    { given: [u8([200, 3]), u8([1, 2])], attributes: { direction: "LEFT" } },
    { given: [u8([200, 3]), u8([1, 2])], attributes: { direction: "RIGHT" } },
  ],
};
