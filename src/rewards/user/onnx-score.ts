/** Turns an output of an ONNX model into rewards, and checks that they have a gradient. */
import { gradients, undifferentiable } from "../../autodiff/index.js";
import { InputError } from "../../errors/index.js";
import { showType, type Value } from "../../graph/value.js";
import type { OnnxFile } from "../../onnx/import/file.js";
import type { OnnxImport } from "../../onnx/import/import.js";
import { div, exp, filled, log, max, mul, reshape, sigmoid, slice, sqrt, sub, sum } from "../../ops/index.js";
import { sizeOf } from "../../tensor/shape.js";
import { list } from "./onnx-inputs.js";
import type { OnnxSettings } from "./onnx-settings.js";

export interface Scoring {
  /** The model, for messages. */
  readonly path: string;
  /** Name of the output, for messages. */
  readonly output: string;
  /** Index of the class on the last axis; null if the output is one number per image, or is compared with `reference`. */
  readonly classIndex: number | null;
  readonly score: OnnxSettings["score"];
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
  const { path, output, classIndex, score, reference, orLargest } = scoring;
  const found = showType(y);
  const what = `${path}: the output ${JSON.stringify(output)} is ${found}`;
  const facts = { path, output, found };
  if (y.dtype !== "float32") {
    throw new InputError(
      "reward-no-gradient",
      `${what}, which has no gradient. Choose another output with reward.output.`,
      facts,
    );
  }
  const perImage = sizeOf(y.shape) / batch;
  if (y.shape[0] !== batch && !(batch === 1 && y.shape.length === 0)) {
    throw new InputError(
      "reward-invalid",
      `${what}, but must have ${batch} rows, one per image. Export the model with a dynamic batch axis, or with a batch of 1.`,
      { ...facts, expected: batch },
    );
  }
  if (reference) {
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
  if (classIndex === null) {
    if (perImage === 1) return reshape(y, [batch]);
    if (orLargest) return max(reshape(y, [batch, perImage]), 1);
    throw new InputError(
      "reward-invalid",
      `${what}, but a reward is one number per image. Choose a number with reward.class, or compare the output with reward.similarity.`,
      { ...facts, perImage, expected: 1, setting: "reward.class" },
    );
  }
  const classes = y.shape.at(-1) as number;
  if (y.shape.length < 2 || y.shape.length > 3 || classIndex >= classes) {
    throw new InputError("reward-invalid", `${what}; there is no class ${classIndex}. Change reward.class.`, {
      ...facts,
      setting: "reward.class",
      class: classIndex,
    });
  }
  const rows = reshape(y, [batch, perImage / classes, classes]);
  const ofClass = slice(classScores(rows, score), 2, [classIndex, classIndex + 1]);
  const scores = reshape(ofClass, [batch, perImage / classes]);
  // A detector has a row per query: the most confident one counts.
  return perImage === classes ? reshape(scores, [batch]) : max(scores, 1);
}

/** logits [b, n, classes] → scores, same shape */
function classScores(logits: Value, score: OnnxSettings["score"]): Value {
  if (score === "logit") return logits;
  if (score === "sigmoid") return sigmoid(logits);
  const shifted = sub(logits, max(logits, -1, { keepDims: true }));
  const logProbabilities = sub(shifted, log(sum(exp(shifted), -1, { keepDims: true })));
  return score === "softmax" ? exp(logProbabilities) : logProbabilities;
}

const normalize = (rows: Value) => div(rows, sqrt(sum(mul(rows, rows), 1, { keepDims: true })));

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
  const [gradient] = gradients([{ value: rewards, gradient: filled(rewards.shape, 1) }], [images]);
  if (gradient) return;
  const blocking = new Set(undifferentiable([rewards], [images]).map((node) => model.originOf(node)));
  const nodes = [...blocking].filter((origin) => origin !== undefined).slice(0, 5);
  const remedy =
    outputs.length > 1
      ? `Choose another output with reward.output: ${list(outputs)}.`
      : "Export the model up to the node before it.";
  const problem =
    nodes.length > 0
      ? `no gradient flows from the output ${JSON.stringify(output)} to the image, because ${nodes.join(", ")} ${nodes.length > 1 ? "have" : "has"} none`
      : `the output ${JSON.stringify(output)} does not depend on the image`;
  throw new InputError("reward-no-gradient", `${path}: ${problem}. ${remedy}`, { path, output, nodes, outputs });
}
