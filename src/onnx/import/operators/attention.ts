/** Attention of opset 23 and later: https://onnx.ai/onnx/operators/onnx__Attention.html */
import type { Value } from "../../../graph/value.js";
import {
  add,
  broadcastTo,
  cast,
  concat,
  constant,
  gather,
  greater,
  matmul,
  mul,
  pad,
  reshape,
  slice,
  softmax,
  sub,
  tanh,
  transpose,
  where,
} from "../../../ops/index.js";
import { showShape } from "../../../tensor/shape.js";
import { numbersOf, type OnnxNode } from "../node.js";
import { MAX_ELEMENTS } from "./indexing.js";
import type { Operators } from "./operator.js";

/** The score of a pair that must not be attended. It is finite, so that softmax of a fully masked row is not NaN. */
const MASKED = -1e30;

/** x [b, n, heads · d] → [b, heads, n, d]; four axes stay as they are. */
export function splitHeads(x: Value, heads: number | undefined, node: OnnxNode): Value {
  if (x.shape.length === 4) return x;
  const [b, n, c] = x.shape as [number, number, number];
  if (x.shape.length !== 3 || !heads || c % heads !== 0) {
    return node.fail(`cannot split ${showShape(x.shape)} into ${heads ?? "an unknown number of"} heads`);
  }
  return transpose(reshape(x, [b, n, heads, c / heads]), [0, 2, 1, 3]);
}

/** x [b, heads, n, d] → [b, n, heads · d] */
export function joinHeads(x: Value): Value {
  const [b, heads, n, d] = x.shape as [number, number, number, number];
  return reshape(transpose(x, [0, 2, 1, 3]), [b, n, heads * d]);
}

interface AttentionParts {
  /** [b, heads, n, d] */
  readonly query: Value;
  /** [b, key heads, m, d]; several query heads may share a key head. */
  readonly key: Value;
  readonly value: Value;
  readonly scale: number;
  /** Scores become cap · tanh(score / cap); 0 for none. */
  readonly cap?: number;
  /** True where a key is attended, or a number that is added to the score. Broadcasts to [b, heads, n, m]. */
  readonly masks?: readonly Value[];
}

/** softmax(cap(q kᵀ · scale) + mask) v. A query that may attend no key gets 0, as does its gradient. */
export function scaledAttention({ query, key, value, scale, cap = 0, masks = [] }: AttentionParts): {
  readonly y: Value;
  readonly raw: Value;
  readonly capped: Value;
  readonly biased: Value;
  readonly weights: Value;
} {
  const [b, heads, n, d] = query.shape as [number, number, number, number];
  const [, keyHeads, m] = key.shape as [number, number, number, number];
  const group = heads / keyHeads;
  if (value.shape[1] !== keyHeads || value.shape[2] !== m) {
    throw new RangeError(`keys ${showShape(key.shape)} and values ${showShape(value.shape)} do not fit`);
  }
  if (!Number.isInteger(group)) throw new RangeError(`${keyHeads} key heads do not divide ${heads} query heads`);
  const grouped = (x: Value, last: number) => reshape(x, [b, keyHeads, group * n, last]);
  const raw = reshape(matmul(grouped(mul(query, scale), d), key, { transposeB: true }), [b, heads, n, m]);
  const capped = cap === 0 ? raw : mul(tanh(mul(raw, 1 / cap)), cap);
  const additive = masks.filter(({ dtype }) => dtype !== "bool");
  const conditions = [
    ...masks.filter(({ dtype }) => dtype === "bool"),
    // -∞ means the same as false.
    ...additive.flatMap((mask) => (hasOnlyFinite(mask) ? [] : [greater(mask, Number.NEGATIVE_INFINITY)])),
  ];
  const shifted = additive.reduce(
    (scores, mask) =>
      add(scores, hasOnlyFinite(mask) ? mask : where(greater(mask, Number.NEGATIVE_INFINITY), mask, constant([0], []))),
    capped,
  );
  const hidden = (scores: Value, by: number) =>
    conditions.reduce((kept, condition) => where(condition, kept, constant([by], [])), scores);
  const weights = hidden(softmax(hidden(shifted, MASKED)), 0);
  const y = reshape(matmul(grouped(weights, m), value), [b, heads, n, value.shape[3] as number]);
  return { y, raw, capped, biased: hidden(shifted, Number.NEGATIVE_INFINITY), weights };
}

const hasOnlyFinite = (mask: Value) => numbersOf(mask)?.data.every(Number.isFinite) ?? false;

/** Where key j may be attended by query i: start(i) ≤ j ≤ end(i), in each sample. bool [b or 1, 1, n, m] */
function span(
  node: OnnxNode,
  [n, m]: readonly [number, number],
  samples: readonly { readonly start: (i: number) => number; readonly end: (i: number) => number }[],
): Value {
  if (samples.length * n * m > MAX_ELEMENTS) node.fail(`a mask of ${n}x${m} is too large`);
  const rows = samples.flatMap(({ start, end }) =>
    Array.from({ length: n }, (_, i) =>
      Array.from({ length: m }, (_, j) => Number(j >= start(i) && j <= end(i))),
    ).flat(),
  );
  return constant(rows, [samples.length, 1, n, m], "bool");
}

/** Query i attends the keys up to i. */
export const causalMask = (node: OnnxNode, queries: number, keys: number): Value =>
  span(node, [queries, keys], [{ start: () => 0, end: (i) => i + keys - queries }]);

/** The causal mask and the window of a node whose first query is at the position `offset` of the keys of each sample. */
function positional(
  node: OnnxNode,
  size: readonly [number, number],
  valid: readonly number[] | undefined,
  past: number,
) {
  const causal = node.int("is_causal") === 1;
  const [left, right] = [node.int("left_window_size") ?? -1, node.int("right_window_size") ?? -1];
  if (!causal && left < 0 && right < 0 && !valid) return undefined;
  const reach = causal ? 0 : Number.POSITIVE_INFINITY;
  const forward = Math.min(reach, right < 0 ? Number.POSITIVE_INFINITY : right);
  return span(
    node,
    size,
    (valid ?? [Number.NaN]).map((length) => {
      const offset = valid ? length - size[0] : past;
      const last = valid ? length - 1 : Number.POSITIVE_INFINITY;
      return {
        start: (i) => (left < 0 ? 0 : i + offset - left),
        end: (i) => Math.min(last, i + offset + forward),
      };
    }),
  );
}

/** Q, K, V, mask, past key and value, and the number of valid keys → Y, present key and value, and one of the scores. */
function attention(node: OnnxNode): readonly Value[] {
  const [query, key, value, mask] = [node.input(0), node.input(1), node.input(2), node.optional(3)];
  const [pastKey, pastValue] = [node.optional(4), node.optional(5)];
  const [queryHeads, keyHeads] = [node.int("q_num_heads"), node.int("kv_num_heads")];
  // Everything is computed in float32, softmax too.
  node.ignore("softmax_precision");
  const q = splitHeads(query, queryHeads, node);
  const k = splitHeads(key, keyHeads, node);
  const v = splitHeads(value, keyHeads, node);
  const presentKey = pastKey ? concat([pastKey, k], 2) : k;
  const presentValue = pastValue ? concat([pastValue, v], 2) : v;
  const size = [q.shape[2] as number, presentKey.shape[2] as number] as const;
  const positions = positional(node, size, node.integers(6, "nonpad_kv_seqlen"), pastKey?.shape[2] ?? 0);
  const { y, raw, capped, biased, weights } = scaledAttention({
    query: q,
    key: presentKey,
    value: presentValue,
    scale: node.float("scale") ?? 1 / Math.sqrt(q.shape[3] as number),
    cap: node.float("softcap") ?? 0,
    masks: [...(mask ? [widened(mask, size[1])] : []), ...(positions ? [positions] : [])],
  });
  const mode = node.int("qk_matmul_output_mode") ?? 0;
  const scores = [raw, capped, biased, weights][mode] ?? node.fail(`qk_matmul_output_mode ${mode} is not known`);
  return [query.shape.length === 4 ? y : joinHeads(y), presentKey, presentValue, scores];
}

/** A mask that is shorter than the keys hides the rest of them. */
function widened(mask: Value, keys: number): Value {
  const found = mask.shape.at(-1) ?? 1;
  if (found === 1 || found >= keys) return mask;
  const growth = mask.shape.map((_, i): [number, number] => [0, i === mask.shape.length - 1 ? keys - found : 0]);
  if (mask.dtype === "bool") return cast(pad(cast(mask, "float32"), growth), "bool");
  const rest = [...mask.shape.slice(0, -1), keys - found];
  return concat([mask, broadcastTo(constant([Number.NEGATIVE_INFINITY], []), rest)], mask.shape.length - 1);
}

/** Rotates pairs of features by the angle of their token (Su et al. 2021). x [b, heads, n, d] or [b, n, heads · d] */
function rotaryEmbedding(node: OnnxNode): Value {
  const [given, positions] = [node.input(0), node.optional(3)];
  const x = splitHeads(given, node.int("num_heads"), node);
  const width = node.int("rotary_embedding_dim") || (x.shape[3] as number);
  const isInterleaved = node.int("interleaved") === 1;
  const half = width / 2;
  if (!Number.isInteger(half) || width > (x.shape[3] as number)) node.fail(`cannot rotate ${width} features`);
  // [b, 1, n, half]
  const angles = [1, 2].map((i) => {
    const table = positions ? node.ranked(i, 2) : node.ranked(i, 3);
    const rows = positions ? gather(table, cast(positions, "int64")) : table;
    return reshape(rows, [rows.shape[0] as number, 1, ...rows.shape.slice(1)]);
  });
  const [cosines, sines] = angles as [Value, Value];
  const pair = (i: number) =>
    isInterleaved ? slice(x, 3, [i, width], { step: 2 }) : slice(x, 3, [i * half, (i + 1) * half]);
  const [a, b] = [pair(0), pair(1)];
  const turned = [sub(mul(cosines, a), mul(sines, b)), add(mul(sines, a), mul(cosines, b))];
  const rotated = isInterleaved
    ? reshape(
        concat(
          turned.map((y) => reshape(y, [...y.shape, 1])),
          4,
        ),
        [...x.shape.slice(0, 3), width],
      )
    : concat(turned, 3);
  const y = concat([rotated, slice(x, 3, [width, x.shape[3] as number])], 3);
  return given.shape.length === 4 ? y : joinHeads(y);
}

export const attentions: Operators = { Attention: attention, RotaryEmbedding: rotaryEmbedding };
