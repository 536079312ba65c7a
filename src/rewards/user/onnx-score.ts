/** Turns an output of an ONNX model into rewards, and checks that they have a gradient. */
import { gradients, undifferentiable } from "../../autodiff/index.js";
import { InputError } from "../../errors/index.js";
import { topologicalOrder } from "../../graph/graph.js";
import { showType, type Value } from "../../graph/value.js";
import type { OnnxFile } from "../../onnx/import/file.js";
import type { OnnxImport } from "../../onnx/import/import.js";
import { div, filled, max, mul, reshape, sqrt, sum } from "../../ops/index.js";
import { straightThroughOp } from "../../ops/rounding.js";
import { sizeOf } from "../../tensor/shape.js";
import { ofClass } from "./onnx-class.js";
import { list } from "./onnx-inputs.js";
import { inRegion, reduced, type Site } from "./onnx-map.js";
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
  /** Whether the model was exported for a batch of 1. */
  readonly isForOne: boolean;
  /** Embedding [1, d] whose cosine similarity with the output is the reward. */
  readonly reference: Value | undefined;
  /** Names of the tensors before a value that have a gradient, for messages. */
  readonly before: (value: Value) => string[];
  /** If nothing selects one of several numbers: take the largest instead of an error. */
  readonly orLargest: boolean;
}

/**
 * Output y [b, …] → rewards [b].
 *
 * @throws InputError `reward-no-gradient` for an integer output, `reward-invalid` if its shape does not fit the settings.
 */
export function rewardsFrom(given: Value, batch: number, scoring: Scoring): Value {
  // What a model of one image computes belongs to that image, whether or not it has an axis for it.
  const isWithout = scoring.isForOne && batch === 1 && given.shape[0] !== 1;
  const y = isWithout ? reshape(given, [1, ...given.shape]) : given;
  const { path, output, chosen, settings, layout, reference, orLargest } = scoring;
  const found = showType(given);
  const what = `${path}: the output ${JSON.stringify(output)} is ${found}`;
  const facts = { path, output, found };
  if (y.dtype !== "float32") {
    const before = scoring.before(given);
    const remedy =
      before.length > 0
        ? `Choose a tensor before it with reward.output: ${list(before)}`
        : "Choose another output with reward.output";
    throw new InputError("reward-no-gradient", `${what}, which has no gradient. ${remedy}.`, { ...facts, before });
  }
  if (y.shape[0] !== batch && !(batch === 1 && given.shape.length === 0)) {
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
  if (chosen.index === null ? orLargest : y.shape.length === 3) return max(flat, 1);
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
  const before = model.before(rewards).filter((name) => name !== output);
  const remedy =
    before.length > 0
      ? `Choose a tensor before ${nodes.length > 1 ? "them" : "it"} with reward.output: ${list(before)}.`
      : outputs.length > 1
        ? `Choose another output with reward.output: ${list(outputs)}.`
        : "Choose another model.";
  const problem =
    nodes.length > 0
      ? `no gradient flows from the output ${JSON.stringify(output)} to the image, because ${nodes.join(", ")} ${nodes.length > 1 ? "have" : "has"} none`
      : `the output ${JSON.stringify(output)} does not depend on the image`;
  throw new InputError("reward-no-gradient", `${path}: ${problem}. ${remedy}`, {
    path,
    output,
    nodes,
    outputs,
    before,
  });
}

/** What to say once if the gradient passes through rounding; undefined if nothing rounds. */
export function roundingNote(rewards: Value, model: OnnxImport): string | undefined {
  const rounded = topologicalOrder([rewards]).filter(({ op }) => op.name === straightThroughOp.name);
  if (rounded.length === 0) return undefined;
  const kinds = new Set(rounded.map((node) => /\((\w+)\)$/.exec(model.originOf(node) ?? "")?.[1]));
  const names = [...kinds].map((kind) => kind ?? "the integer input");
  return `the gradient passes through rounding as if there were none (${list(names)}).`;
}
