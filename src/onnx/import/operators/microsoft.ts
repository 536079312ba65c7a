/**
 * Operators that ONNX Runtime puts into files that it optimised, or that its tools for transformers fuse:
 * https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
 */
import type { Value } from "../../../graph/value.js";
import {
  add,
  concat,
  gelu,
  layerNorm,
  matmul,
  maximum,
  mean,
  minimum,
  mul,
  pow,
  reshape,
  sigmoid,
  slice,
  sub,
  tanh,
} from "../../../ops/index.js";
import { showShape } from "../../../tensor/shape.js";
import type { OnnxNode } from "../node.js";
import { tanhGelu } from "./activations.js";
import { causalMask, joinHeads, scaledAttention, splitHeads } from "./attention.js";
import { convolve } from "./convolution.js";
import { gemm } from "./matmul.js";
import type { Operators } from "./operator.js";
import { plain } from "./quantization.js";
import { repeated } from "./repeated.js";

/** The activation that a product or a convolution was fused with. */
function activated(node: OnnxNode, y: Value, parameters: readonly number[]): Value {
  const name = node.string("activation") ?? "";
  const [first, second] = parameters;
  switch (name) {
    case "":
      return y;
    case "Relu":
      return maximum(0, y);
    case "Tanh":
      return tanh(y);
    case "Sigmoid":
      return sigmoid(y);
    case "LeakyRelu":
      return maximum(y, mul(y, first ?? 0.01));
    case "Clip":
      return minimum(maximum(y, first ?? Number.NEGATIVE_INFINITY), second ?? Number.POSITIVE_INFINITY);
    case "HardSigmoid":
      return minimum(maximum(add(mul(y, first ?? 0.2), second ?? 0.5), 0), 1);
    default:
      return node.fail(`its activation ${name.slice(0, 40)} is not supported`, {
        attribute: "activation",
        found: name,
      });
  }
}

function fusedMatMul(node: OnnxNode): Value {
  const [a, b] = [node.input(0), node.input(1)];
  if (node.int("transBatchA") === 1 || node.int("transBatchB") === 1) {
    node.fail("transBatchA and transBatchB are not supported", { attribute: "transBatchA" });
  }
  const [transposeA, transposeB] = [node.int("transA") === 1, node.int("transB") === 1];
  const y = matmul(a, b, { transposeA, transposeB });
  const alpha = node.float("alpha") ?? 1;
  return alpha === 1 ? y : mul(y, alpha);
}

/** Normalizes the sum of both inputs and a bias. The fourth output is that sum. */
const skipNorm =
  (hasBias: boolean) =>
  (node: OnnxNode): readonly (Value | undefined)[] => {
    const [x, skip, scale] = [node.ranked(0, 2, 3), node.input(1), node.ranked(2, 1)];
    const [beta, bias] = hasBias ? [node.optional(3), node.optional(4)] : [undefined, node.optional(3)];
    const total = [skip, ...(bias ? [bias] : [])].reduce(add, x);
    const epsilon = node.float("epsilon") ?? 1e-12;
    const features = total.shape.at(-1) as number;
    const y = hasBias
      ? layerNorm(total, scale, beta ?? repeated([features], 0), epsilon)
      : rootMeanSquare(total, scale, epsilon);
    return [y, undefined, undefined, total];
  };

const rootMeanSquare = (x: Value, scale: Value, epsilon: number) =>
  mul(mul(x, pow(add(mean(mul(x, x), -1, { keepDims: true }), epsilon), -0.5)), scale);

function simplifiedNorm(node: OnnxNode): readonly (Value | undefined)[] {
  const x = node.ranked(0, 1, 2, 3, 4);
  node.ignore("stash_type");
  if (node.axis("axis", -1, x.shape.length) !== x.shape.length - 1) node.fail("only the last axis is supported");
  return [rootMeanSquare(x, node.input(1), node.float("epsilon") ?? 1e-5), undefined];
}

/** What is added to the scores of keys that a mask of 1 and 0 hides. [b, keys] or [b, queries, keys] */
function filter(node: OnnxNode, mask: Value): Value {
  const value = node.float("mask_filter_value") ?? -10_000;
  const [b, ...rest] = mask.shape as [number, ...number[]];
  if (rest.length < 1 || rest.length > 2) node.fail(`a mask of ${showShape(mask.shape)} is not supported`);
  return mul(sub(1, plain(reshape(mask, [b, ...(rest.length === 1 ? [1, 1] : [1]), ...rest]))), value);
}

/** Query, key and value of one projection, [b, n, q + k + v] → heads */
function attention(node: OnnxNode): readonly (Value | undefined)[] {
  const [x, weight, bias, mask] = [node.ranked(0, 3), node.ranked(1, 2), node.optional(2), node.optional(3)];
  const projected = bias ? add(matmul(x, weight), bias) : matmul(x, weight);
  const heads = node.int("num_heads");
  const width = projected.shape[2] as number;
  const sizes = node.ints("qkv_hidden_sizes") ?? [width / 3, width / 3, width / 3];
  const [q, k, v] = partsOf(projected, 2, sizes).map((part) => splitHeads(part, heads, node)) as [Value, Value, Value];
  if (node.int("do_rotary") === 1) node.fail("do_rotary is not supported", { attribute: "do_rotary" });
  node.ignore("past_present_share_buffer");
  const position = node.optional(5);
  const { y } = scaledAttention({
    query: q,
    key: k,
    value: v,
    scale: node.float("scale") || 1 / Math.sqrt(q.shape[3] as number),
    masks: [
      ...(mask ? [filter(node, mask)] : []),
      ...(position ? [position] : []),
      ...(node.int("unidirectional") === 1 ? [causalMask(node, q.shape[2] as number, k.shape[2] as number)] : []),
    ],
  });
  node.ignore("mask_filter_value");
  return [joinHeads(y), undefined];
}

/** Consecutive parts of an axis. */
function partsOf(x: Value, axis: number, sizes: readonly number[]): Value[] {
  let end = 0;
  return sizes.map((size) => {
    end += size;
    return slice(x, axis, [end - size, end]);
  });
}

function multiHeadAttention(node: OnnxNode): readonly (Value | undefined)[] {
  const [query, bias, mask, position] = [node.ranked(0, 3, 5), node.optional(3), node.optional(4), node.optional(5)];
  const heads = node.int("num_heads");
  // Packed: [b, n, heads, 3, d]
  const packed =
    query.shape.length === 5
      ? [0, 1, 2].map((i) => {
          const [b, n, count, , d] = query.shape as [number, number, number, number, number];
          return reshape(slice(query, 3, [i, i + 1]), [b, n, count * d]);
        })
      : undefined;
  const given = packed ?? [query, node.ranked(1, 3, 4), node.ranked(2, 3, 4)];
  const biases =
    bias &&
    partsOf(
      bias,
      0,
      given.map((x) =>
        x.shape.length === 4 ? (x.shape[1] as number) * (x.shape[3] as number) : (x.shape[2] as number),
      ),
    );
  const [q, k, v] = given.map((x, i) => {
    const own = biases?.[i];
    return splitHeads(own && x.shape.length === 3 ? add(x, own) : x, heads, node);
  }) as [Value, Value, Value];
  const [pastKey, pastValue] = [node.optional(6), node.optional(7)];
  const keys = pastKey ? concat([pastKey, k], 2) : k;
  const values = pastValue ? concat([pastValue, v], 2) : v;
  const { y } = scaledAttention({
    query: q,
    key: keys,
    value: values,
    scale: node.float("scale") || 1 / Math.sqrt(q.shape[3] as number),
    masks: [
      ...(mask ? [filter(node, mask)] : []),
      ...(position ? [position] : []),
      ...(node.int("unidirectional") === 1 ? [causalMask(node, q.shape[2] as number, keys.shape[2] as number)] : []),
    ],
  });
  node.ignore("mask_filter_value");
  return [joinHeads(y), keys, values];
}

export const microsoft: Operators = {
  SimplifiedLayerNormalization: simplifiedNorm,
  "com.microsoft.SkipLayerNormalization": skipNorm(true),
  "com.microsoft.SkipSimplifiedLayerNormalization": skipNorm(false),
  "com.microsoft.FusedMatMul": fusedMatMul,
  "com.microsoft.FusedGemm": (node) => {
    const parameters = ["activation_alpha", "activation_beta"].map((name) => node.float(name));
    node.ignore("activation_gamma");
    return activated(
      node,
      gemm(node),
      parameters.filter((value) => value !== undefined),
    );
  },
  "com.microsoft.FusedConv": (node) => {
    const y = convolve(node, node.input(0), node.input(1), node.optional(2));
    const more = node.optional(3);
    return activated(node, more ? add(y, more) : y, node.floats("activation_params") ?? []);
  },
  "com.microsoft.BiasGelu": (node) => gelu(add(node.input(0), node.input(1))),
  "com.microsoft.FastGelu": (node) => {
    const [x, bias] = [node.input(0), node.optional(1)];
    return tanhGelu(bias ? add(x, bias) : x);
  },
  "com.microsoft.Attention": attention,
  "com.microsoft.MultiHeadAttention": multiHeadAttention,
};
