/** The scores of a class in an output, and the axis of the classes. */
import { type ErrorFacts, InputError } from "../../errors/index.js";
import type { Value } from "../../graph/value.js";
import { exp, log, max, reshape, sigmoid, slice, sub, sum } from "../../ops/index.js";
import type { Site } from "./onnx-map.js";
import type { ChosenClass } from "./onnx-output.js";
import type { OnnxSettings } from "./onnx-settings.js";

interface ClassSite extends Site {
  readonly chosen: ChosenClass;
  readonly settings: Pick<OnnxSettings, "score" | "class_axis">;
  readonly layout: "nchw" | "nhwc";
}

/** The scores of a class: y without the axis of the classes. */
export function ofClass(y: Value, index: number, { what, facts, ...scoring }: ClassSite): Value {
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
  { what, facts, chosen, settings, layout }: ClassSite,
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
  // The number of labels tells them apart. A detector may have one more, for "no object", after the classes. YOLO has 4 numbers
  // of the box before them; versions that also have a confidence there are ambiguous, because it belongs to the score.
  const known = candidates.flatMap((axis): Reading[] => {
    if (count === undefined || rank !== 3) return [];
    const before = [0, 1, 4].find((more) => extent(axis) === count + more);
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
