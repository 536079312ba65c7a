/** Linear models and kernels of scikit-learn, on features [b, n]: https://onnx.ai/onnx/operators/index_onnx.html#ai-onnx-ml */
import type { Value } from "../../../graph/value.js";
import {
  abs,
  add,
  cast,
  concat,
  constant,
  div,
  equal,
  exp,
  gather,
  greater,
  matmul,
  max,
  mul,
  neg,
  pow,
  reshape,
  sigmoid,
  softmax,
  sub,
  sum,
  tanh,
  topK,
  where,
} from "../../../ops/index.js";
import { showShape } from "../../../tensor/shape.js";
import { integers, type OnnxNode } from "../node.js";
import { take } from "./indexing.js";
import { sqrtOrZero } from "./norm.js";
import type { Operators } from "./operator.js";

/** x [b, n], or one row [n] → [b, n] */
function featuresOf(node: OnnxNode): Value {
  const x = cast(node.input(0), "float32");
  if (x.shape.length === 1) return reshape(x, [1, -1]);
  return x.shape.length === 2 ? x : node.fail(`expects rows of features, found ${showShape(x.shape)}`);
}

/** x · coefficientsᵀ + intercepts, with a row of coefficients per output */
function linearScores(node: OnnxNode, x: Value): Value {
  const [coefficients, intercepts] = [node.floats("coefficients") ?? [], node.floats("intercepts") ?? []];
  const features = x.shape[1] as number;
  const rows = coefficients.length / features;
  if (!Number.isInteger(rows) || rows < 1)
    node.fail(`${coefficients.length} coefficients do not fit ${features} features`);
  const y = matmul(x, constant(coefficients, [rows, features]), { transposeB: true });
  return intercepts.length === 0 ? y : add(y, constant(intercepts, [intercepts.length]));
}

function transformed(node: OnnxNode, y: Value): Value {
  const kind = node.choice("post_transform", ["NONE", "LOGISTIC", "SOFTMAX"], "NONE");
  return kind === "LOGISTIC" ? sigmoid(y) : kind === "SOFTMAX" ? softmax(y) : y;
}

function linearRegressor(node: OnnxNode): Value {
  const y = linearScores(node, featuresOf(node));
  const targets = node.int("targets") ?? 1;
  if (y.shape[1] !== targets) node.fail(`has coefficients for ${y.shape[1]} targets, but names ${targets}`);
  return transformed(node, y);
}

/** The label of the largest score, if labels are numbers, and the scores [b, classes]. */
function linearClassifier(node: OnnxNode): readonly (Value | undefined)[] {
  // How it was trained.
  node.ignore("multi_class", "classlabels_strings");
  const labels = node.ints("classlabels_ints");
  const y = linearScores(node, featuresOf(node));
  const kind = node.choice("post_transform", ["NONE", "LOGISTIC", "SOFTMAX"], "NONE");
  // One row for two classes is the score of the second.
  const isBinary = y.shape[1] === 1;
  if (isBinary && kind === "SOFTMAX")
    node.fail("SOFTMAX of one score is not supported", { attribute: "post_transform" });
  const both = isBinary ? concat([neg(y), y], 1) : y;
  const scores = transformed(node, both);
  const best = topK(both, 1, 1).indices;
  const label = labels && reshape(gather(integers(labels), reshape(best, [-1])), [-1]);
  return [label, scores];
}

function normalizer(node: OnnxNode): Value {
  const x = featuresOf(node);
  const kind = node.choice("norm", ["MAX", "L1", "L2"], "MAX");
  const options = { keepDims: true };
  const norm =
    kind === "MAX"
      ? max(x, 1, options)
      : kind === "L1"
        ? sum(abs(x), 1, options)
        : sqrtOrZero(sum(mul(x, x), 1, options));
  const isZero = equal(norm, 0);
  return where(isZero, x, div(x, where(isZero, 1, norm)));
}

/** Σ αᵢ k(xᵢ, x) + ρ over the support vectors */
function svmRegressor(node: OnnxNode): Value {
  const x = featuresOf(node);
  const features = x.shape[1] as number;
  const coefficients = node.floats("coefficients") ?? [];
  const [rho = 0] = node.floats("rho") ?? [];
  const [gamma = 0, offset = 0, degree = 3] = node.floats("kernel_params") ?? [];
  const kernel = node.choice("kernel_type", ["LINEAR", "RBF", "POLY", "SIGMOID"], "LINEAR");
  const count = node.int("n_supports") ?? 0;
  const vectors = node.floats("support_vectors") ?? [];
  if (count === 0) {
    if (kernel !== "LINEAR" || coefficients.length !== features) node.fail("has no support vectors");
    const y = add(matmul(x, constant(coefficients, [features, 1])), rho);
    return transformed(node, ofOneClass(node, y));
  }
  if (vectors.length !== count * features || coefficients.length !== count) {
    node.fail(`has ${vectors.length} numbers for ${count} support vectors of ${features} features`);
  }
  const support = constant(vectors, [count, features]);
  const products = matmul(x, support, { transposeB: true });
  const kernels = {
    LINEAR: () => products,
    // |x - s|² = |x|² - 2 x s + |s|²
    RBF: () => {
      const lengths = sum(mul(x, x), 1, { keepDims: true });
      const own = sum(mul(support, support), 1);
      return exp(mul(add(sub(lengths, mul(products, 2)), own), -gamma));
    },
    POLY: () => pow(add(mul(products, gamma), offset), degree),
    SIGMOID: () => tanh(add(mul(products, gamma), offset)),
  };
  const y = add(matmul(kernels[kernel](), constant(coefficients, [count, 1])), rho);
  return transformed(node, ofOneClass(node, y));
}

/** With `one_class`, only the sign counts. */
const ofOneClass = (node: OnnxNode, y: Value): Value =>
  node.int("one_class") === 1 ? where(greater(y, 0), 1, add(mul(y, 0), -1)) : y;

function scaler(node: OnnxNode): Value {
  const x = featuresOf(node);
  const row = (name: string, otherwise: number) => {
    const values = node.floats(name) ?? [otherwise];
    return constant(values, [values.length]);
  };
  return mul(sub(x, row("offset", 0)), row("scale", 1));
}

export const machineLearning: Operators = {
  "ai.onnx.ml.LinearRegressor": linearRegressor,
  "ai.onnx.ml.LinearClassifier": linearClassifier,
  "ai.onnx.ml.Scaler": scaler,
  "ai.onnx.ml.Normalizer": normalizer,
  "ai.onnx.ml.SVMRegressor": svmRegressor,
  "ai.onnx.ml.Binarizer": (node) => cast(greater(node.input(0), node.float("threshold") ?? 0), "float32"),
  "ai.onnx.ml.ArrayFeatureExtractor": (node) => {
    const x = node.input(0);
    const y = take(x, x.shape.length - 1, node.integers(1, "indices") ?? []);
    return x.shape.length === 1 ? reshape(y, [1, -1]) : y;
  },
};
