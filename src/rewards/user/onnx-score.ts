/** Turns an output of an ONNX model into rewards, and checks that they have a gradient. */
import { gradients, undifferentiable } from "../../autodiff/index.js";
import { type ErrorFacts, InputError } from "../../errors/index.js";
import { topologicalOrder } from "../../graph/graph.js";
import { showType, type Value } from "../../graph/value.js";
import type { OnnxFile } from "../../onnx/import/file.js";
import type { OnnxImport } from "../../onnx/import/import.js";
import { straightThroughOp } from "../../ops/elementwise.js";
import {
  add,
  div,
  exp,
  filled,
  log,
  max,
  mean,
  mul,
  reshape,
  sigmoid,
  slice,
  sqrt,
  sub,
  sum,
  topK,
} from "../../ops/index.js";
import { showShape, sizeOf } from "../../tensor/shape.js";
import { list } from "./onnx-inputs.js";
import type { ChosenClass } from "./onnx-output.js";
import type { OnnxSettings } from "./onnx-settings.js";

export interface Scoring {
  /** The model, for messages. */
  readonly path: string;
  /** Name of the output, for messages. */
  readonly output: string;
  readonly chosen: ChosenClass;
  readonly settings: Pick<OnnxSettings, "score" | "class_axis" | "reduce" | "region">;
  /** The layout of the model's input, which is that of maps too. */
  readonly layout: "nchw" | "nhwc";
  /** Embedding [1, d] whose cosine similarity with the output is the reward. */
  readonly reference: Value | undefined;
  /** If nothing selects one of several numbers: take the largest instead of an error. */
  readonly orLargest: boolean;
}

/**
 * Output y [b, …] → rewards [b].
 *
 * @throws InputError `reward-no-gradient` for an integer output, `reward-invalid` if its shape does not fit the settings.
 */
export function rewardsFrom(y: Value, batch: number, scoring: Scoring): Value {
  const { path, output, chosen, settings, layout, reference, orLargest } = scoring;
  const found = showType(y);
  const what = `${path}: the output ${JSON.stringify(output)} is ${found}`;
  const facts = { path, output, found };
  if (y.dtype !== "float32") {
    throw new InputError(
      "reward-no-gradient",
      `${what}, which has no gradient. Choose another output, or any tensor before it, with reward.output.`,
      facts,
    );
  }
  if (y.shape[0] !== batch && !(batch === 1 && y.shape.length === 0)) {
    throw new InputError(
      "reward-invalid",
      `${what}, but must have ${batch} rows, one per image. Export the model with a dynamic batch axis, or with a batch of 1.`,
      { ...facts, expected: batch },
    );
  }
  if (reference) return similarity(y, batch, reference, { what, facts });
  const cut = settings.region === null ? y : inRegion(y, settings.region, layout, { what, facts });
  const numbers = chosen.index === null ? cut : ofClass(cut, chosen.index, { ...scoring, what, facts });
  const perImage = sizeOf(numbers.shape) / batch;
  const flat = reshape(numbers, [batch, perImage]);
  if (settings.reduce !== null) return reduced(flat, settings.reduce);
  if (perImage === 1) return reshape(flat, [batch]);
  // A detector has a row per query: the most confident one counts.
  if (orLargest || (chosen.index !== null && y.shape.length === 3)) return max(flat, 1);
  const isMap = y.shape.length > 3;
  const remedy = isMap
    ? "Say with reward.reduce how they become one (mean, max, min, sum or { quantile: 0.9 })"
    : "Choose a number with reward.class, say with reward.reduce how they become one (mean, max, …), or compare the output with reward.similarity";
  throw new InputError(
    "reward-invalid",
    `${what}, so an image has ${perImage} numbers, but a reward is one number per image. ${remedy}.`,
    { ...facts, perImage, expected: 1, setting: isMap ? "reward.reduce" : "reward.class" },
  );
}

interface Site {
  readonly what: string;
  readonly facts: { readonly path: string; readonly output: string; readonly found: string };
}

/** Cosine similarity of each embedding with the reference. */
function similarity(y: Value, batch: number, reference: Value, { what, facts }: Site): Value {
  const perImage = sizeOf(y.shape) / batch;
  const embedding = reshape(y, [batch, perImage]);
  const target = reshape(reference, [1, sizeOf(reference.shape)]);
  const expected = target.shape[1] as number;
  if (expected !== perImage) {
    throw new InputError(
      "reward-invalid",
      `${what}, ${perImage} numbers per image, but the embedding to compare with has ${expected}. Use an embedding of the same model.`,
      { ...facts, perImage, expected, setting: "reward.similarity" },
    );
  }
  return sum(mul(normalize(embedding), normalize(target)), 1);
}

/** The part of a map [b, h, w], [b, c, h, w] or [b, h, w, c] that counts. */
function inRegion(y: Value, region: readonly number[], layout: Scoring["layout"], { what, facts }: Site): Value {
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

/** The scores of a class: y without the axis of the classes. */
function ofClass(y: Value, index: number, { what, facts, ...scoring }: Scoring & Site): Value {
  const { axis, position } = classPlace(y, index, { what, facts, ...scoring });
  const rest = y.shape.filter((_, i) => i !== axis);
  if (scoring.settings.score === "logit") return reshape(slice(y, axis, [position, position + 1]), rest);
  const scores = classScores(y, axis, scoring.settings.score);
  return reshape(slice(scores, axis, [position, position + 1]), rest);
}

/** A way to read an output: the axis of the classes, and how many numbers stand before them on it. */
interface Reading {
  readonly axis: number;
  readonly before: number;
}

/** Where the class is. An output [b, n, c] that could be read in two ways is refused with both. */
function classPlace(
  y: Value,
  index: number,
  { what, facts, chosen, settings, layout }: Scoring & Site,
): { axis: number; position: number } {
  const rank = y.shape.length;
  const extent = (axis: number) => y.shape[axis] as number;
  const wrong = (problem: string, more: ErrorFacts = {}) =>
    new InputError("reward-invalid", `${what}; ${problem}`, {
      ...facts,
      setting: "reward.class",
      class: index,
      ...more,
    });
  if (settings.class_axis !== null) {
    const axis = settings.class_axis < 0 ? settings.class_axis + rank : settings.class_axis;
    if (axis < 1 || axis >= rank) {
      throw wrong(`it has no axis ${settings.class_axis} of classes. Change reward.class_axis.`, {
        setting: "reward.class_axis",
        found: settings.class_axis,
      });
    }
    if (index >= extent(axis)) throw wrong(`there is no class ${index} on axis ${axis}. Change reward.class.`);
    return { axis, position: index };
  }
  const { count } = chosen;
  if (rank < 2 || rank > 4) throw wrong("it has no axis of classes. Choose another output with reward.output.");
  const candidates = rank === 2 ? [1] : rank === 4 ? [layout === "nhwc" ? 3 : 1] : [1, 2];
  // The number of labels tells them apart. A detector may have one more for "no object"; YOLO has 4 numbers of the box, and
  // some versions a confidence, before the classes.
  const known = candidates.flatMap((axis): Reading[] => {
    if (count === undefined || rank !== 3) return [];
    const before = [0, 1, 4, 5].find((more) => extent(axis) === count + more);
    return before === undefined ? [] : [{ axis, before: before < 4 ? 0 : before }];
  });
  const possible = candidates.filter((axis) => index < extent(axis)).map((axis): Reading => ({ axis, before: 0 }));
  const [reading, ...others] = known.length > 0 ? known : possible;
  if (!reading) throw wrong(`there is no class ${index}. Change reward.class.`);
  if (others.length === 0) return { axis: reading.axis, position: reading.before + index };
  const readings = candidates.map(
    (axis) => `class_axis: ${axis} takes number ${index} of ${extent(axis)} in each of ${extent(3 - axis)} rows`,
  );
  throw wrong(
    `classes could be on two of its axes. Set reward.class_axis: ${readings.join("; ")}. In a YOLO output [b, 4 + C, n], the axis is 1 and class k is number 4 + k, after the box.`,
    { setting: "reward.class_axis", candidates },
  );
}

/** logits → scores over the axis of the classes, same shape */
function classScores(logits: Value, axis: number, score: OnnxSettings["score"]): Value {
  if (score === "logit") return logits;
  if (score === "sigmoid") return sigmoid(logits);
  const shifted = sub(logits, max(logits, axis, { keepDims: true }));
  const logProbabilities = sub(shifted, log(sum(exp(shifted), axis, { keepDims: true })));
  return score === "softmax" ? exp(logProbabilities) : logProbabilities;
}

/** numbers [b, n] → one per image [b] */
function reduced(numbers: Value, reduce: NonNullable<OnnxSettings["reduce"]>): Value {
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

const normalize = (rows: Value) => div(rows, sqrt(sum(mul(rows, rows), 1, { keepDims: true })));

/** Whether a gradient reaches the images. */
export const hasGradient = (rewards: Value, images: Value): boolean =>
  gradients([{ value: rewards, gradient: filled(rewards.shape, 1) }], [images])[0] !== undefined;

/**
 * Checks that a gradient reaches the images, and names the ONNX nodes that block it.
 *
 * @throws InputError `reward-no-gradient`
 */
export function requireGradient(
  rewards: Value,
  images: Value,
  model: OnnxImport,
  { path, output, outputs }: { readonly path: string; readonly output: string; readonly outputs: OnnxFile["outputs"] },
): void {
  if (hasGradient(rewards, images)) return;
  const blocking = new Set(undifferentiable([rewards], [images]).map((node) => model.originOf(node)));
  const nodes = [...blocking].filter((origin) => origin !== undefined).slice(0, 5);
  const remedy =
    outputs.length > 1
      ? `Choose another output with reward.output: ${list(outputs)}.`
      : "Choose a tensor before it with reward.output.";
  const problem =
    nodes.length > 0
      ? `no gradient flows from the output ${JSON.stringify(output)} to the image, because ${nodes.join(", ")} ${nodes.length > 1 ? "have" : "has"} none`
      : `the output ${JSON.stringify(output)} does not depend on the image`;
  throw new InputError("reward-no-gradient", `${path}: ${problem}. ${remedy}`, { path, output, nodes, outputs });
}

/** What to say once if the gradient passes through rounding; undefined if nothing rounds. */
export function roundingNote(rewards: Value, model: OnnxImport): string | undefined {
  const rounded = topologicalOrder([rewards]).filter(({ op }) => op.name === straightThroughOp.name);
  if (rounded.length === 0) return undefined;
  const kinds = new Set(rounded.map((node) => /\((\w+)\)$/.exec(model.originOf(node) ?? "")?.[1]));
  const names = [...kinds].map((kind) => kind ?? "the integer input");
  return `the gradient passes through rounding as if there were none (${list(names)}).`;
}
