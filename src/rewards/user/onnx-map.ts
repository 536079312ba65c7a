/** How the numbers of a map become one. */
import { InputError } from "../../errors/index.js";
import type { Value } from "../../graph/value.js";
import { add, max, mean, mul, reshape, slice, sum, topK } from "../../ops/index.js";
import { showShape } from "../../tensor/shape.js";
import type { OnnxSettings } from "./onnx-settings.js";

/** The output that a message is about. */
export interface Site {
  readonly what: string;
  readonly facts: { readonly path: string; readonly output: string; readonly found: string };
}

/** The part of a map [b, h, w], [b, c, h, w] or [b, h, w, c] that counts. */
export function inRegion(y: Value, region: readonly number[], layout: "nchw" | "nhwc", { what, facts }: Site): Value {
  const [top, left, bottom, right] = region as [number, number, number, number];
  const rank = y.shape.length;
  const first = rank === 4 && layout === "nhwc" ? 1 : rank - 2;
  if (rank < 3 || rank > 4 || !(top < bottom && left < right)) {
    throw new InputError(
      "reward-invalid",
      `${what}, from which the region ${showShape(region)} cannot be taken. A region is [top, left, bottom, right] of a map, in shares from 0 to 1.`,
      { ...facts, setting: "reward.region", region },
    );
  }
  const cut = (value: Value, axis: number, from: number, to: number) => {
    const extent = value.shape[axis] as number;
    const start = Math.min(Math.floor(from * extent), extent - 1);
    return slice(value, axis, [start, Math.max(start + 1, Math.ceil(to * extent))]);
  };
  return cut(cut(y, first, top, bottom), first + 1, left, right);
}

/** numbers [b, n] → one per image [b] */
export function reduced(numbers: Value, reduce: NonNullable<OnnxSettings["reduce"]>): Value {
  if (reduce === "mean") return mean(numbers, 1);
  if (reduce === "sum") return sum(numbers, 1);
  if (reduce === "max") return max(numbers, 1);
  if (reduce === "min") return mul(max(mul(numbers, -1), 1), -1);
  const [b, n] = numbers.shape as [number, number];
  // Linear between the two nearest numbers, as torch.quantile. They come in descending order.
  const place = (1 - reduce.quantile) * (n - 1);
  const [low, high] = [Math.floor(place), Math.ceil(place)];
  const { values } = topK(numbers, high + 1, 1);
  const at = (i: number) => reshape(slice(values, 1, [i, i + 1]), [b]);
  return low === high ? at(low) : add(mul(at(low), high - place), mul(at(high), place - low));
}
