/** The inputs of an ONNX reward: which one takes the image, and the values of the others. */
import { InputError, nearest } from "../../errors/index.js";
import type { Value } from "../../graph/value.js";
import { type OnnxFile, type OnnxInput, showInputShape } from "../../onnx/import/file.js";
import { broadcastTo, cast, concat, constant, reshape, round, slice, straightThrough } from "../../ops/index.js";
import { isFloating } from "../../tensor/dtype.js";
import { showShape, sizeOf } from "../../tensor/shape.js";
import type { OnnxSettings } from "./onnx-settings.js";

/** Names for a message, cut to a readable length. */
export function list(names: readonly string[]): string {
  const shown = names.slice(0, 12).map((name) => (name.length > 60 ? `${name.slice(0, 59)}…` : name));
  return `${shown.join(", ")}${names.length > 12 ? ` and ${names.length - 12} more` : ""}`;
}

/**
 * The input that takes the image: the one that the settings name, or the only one with four axes. Of several, the only one of
 * floating point.
 */
export function selectImageInput(
  { inputs }: OnnxFile,
  { file, input }: Pick<OnnxSettings, "file" | "input">,
): OnnxInput {
  const names = inputs.map(({ name }) => name);
  const facts = { path: file, setting: "reward.input", inputs: names };
  if (input !== null) {
    const found = inputs.find(({ name }) => name === input);
    if (found) return found;
    const suggestion = nearest(input, names);
    throw new InputError(
      "reward-invalid",
      `${file}: the model has no input ${JSON.stringify(input)} (reward.input).${suggestion ? ` Did you mean ${suggestion}?` : ""} Its inputs are ${list(names)}.`,
      { ...facts, found: input, suggestion },
    );
  }
  const images = inputs.filter(({ shape, dtype }) => shape.length === 4 && dtype !== "bool");
  const floating = images.filter(({ dtype }) => isFloating(dtype));
  const candidates = floating.length > 0 ? floating : images;
  if (candidates.length === 1) return candidates[0] as OnnxInput;
  const problem =
    candidates.length === 0
      ? "no input of the model is an image [n, 3, h, w] or [n, h, w, 3]. Choose a model that takes images."
      : "several inputs of the model could take the image. Name one with reward.input.";
  throw new InputError("reward-invalid", `${file}: ${problem} Its inputs are ${list(names)}.`, {
    ...facts,
    candidates: candidates.map(({ name }) => name),
  });
}

/** The preprocessed images in the type of the input. An integer input gets whole numbers; the gradient passes the rounding. */
export function inTypeOf({ dtype }: Pick<OnnxInput, "dtype">, pixels: Value): Value {
  return isFloating(dtype) ? pixels : cast(straightThrough(round(pixels), pixels), dtype);
}

/** Checks the preprocessed images against the fixed axes of the model's input. */
export function requireFit(pixels: Value, { name, shape }: OnnxInput, path: string): void {
  const fits = shape.every((extent, axis) => axis === 0 || typeof extent !== "number" || extent === pixels.shape[axis]);
  if (fits) return;
  const [found, expected] = [showShape(pixels.shape), showInputShape(shape)];
  throw new InputError(
    "reward-invalid",
    `${path}: the input ${JSON.stringify(name)} has the shape ${expected}, but preprocessing outputs ${found}. Set preprocessing.size or preprocessing.crop.`,
    { path, input: name, found, expected, setting: "reward.preprocessing" },
  );
}

/** The value of an input that does not take the image, from the settings. It is the same for every image. */
export function furtherInput(
  { name, dtype, shape }: OnnxInput,
  { file, inputs }: Pick<OnnxSettings, "file" | "inputs">,
  pixels: Value,
): Value {
  const given = Object.hasOwn(inputs, name) ? inputs[name] : undefined;
  const expected = `${dtype}${showInputShape(shape)}`;
  const setting = `reward.inputs.${name}`;
  const facts = { path: file, setting, input: name, expected };
  if (given === undefined) {
    throw new InputError(
      "reward-invalid",
      `${file}: the model also needs the input ${JSON.stringify(name)}, which is ${expected}. Set ${setting} to a number or a list of numbers.`,
      facts,
    );
  }
  const batch = pixels.shape[0] as number;
  const dynamic = shape.flatMap((extent, axis) => (typeof extent === "number" || axis === 0 ? [] : [axis]));
  const known = shape
    .slice(1)
    .reduce<number>((product, extent) => product * (typeof extent === "number" ? extent : 1), 1);
  const fullShape = shape.map((extent, axis) => {
    if (typeof extent === "number") return extent;
    if (axis === 0) return batch;
    // Two dynamic axes are height and width, as in a mask of the image's pixels.
    if (dynamic.length === 2) return pixels.shape[axis === dynamic[0] ? 2 : 3] as number;
    return Array.isArray(given) && dynamic.length === 1 ? given.length / known : Number.NaN;
  });
  const size = sizeOf(fullShape.slice(1));
  if (!Number.isInteger(size) || size > 2 ** 24 || (Array.isArray(given) && given.length !== size)) {
    const found = Array.isArray(given) ? given.length : 1;
    throw new InputError(
      "reward-invalid",
      `${file}: ${setting} has ${found} numbers, which do not fill the input of ${expected}. Give one number, or as many as the input has for one image.`,
      { ...facts, found },
    );
  }
  const fraction = [given].flat().find((value) => !Number.isSafeInteger(value));
  if (dtype !== "bool" && !dtype.startsWith("float") && fraction !== undefined) {
    throw new InputError(
      "reward-invalid",
      `${file}: ${setting} contains ${fraction}, but the input is ${expected}. Give integers.`,
      { ...facts, found: fraction },
    );
  }
  const type = dtype.startsWith("float") || dtype === "bfloat16" ? "float32" : dtype;
  const row = Array.isArray(given) ? given : new Array<number>(size).fill(given);
  const forOneImage = constant(row, [1, ...fullShape.slice(1)], type);
  return fullShape.length === 0
    ? reshape(forOneImage, [])
    : broadcastTo(forOneImage, [fullShape[0] === 1 ? 1 : batch, ...fullShape.slice(1)]);
}

/**
 * Applies `f` in batches of the size that the model was exported for, and concatenates the results. The last batch is filled
 * with copies of the last image. A model with a dynamic batch axis takes all images at once.
 */
export function inBatches(images: Value, { shape }: OnnxInput, f: (images: Value) => Value): Value {
  const batch = images.shape[0] as number;
  const modelBatch = typeof shape[0] === "number" ? shape[0] : batch;
  const parts: Value[] = [];
  for (let start = 0; start < batch; start += modelBatch) {
    const count = Math.min(modelBatch, batch - start);
    const part = slice(images, 0, [start, start + count]);
    const last = slice(part, 0, [count - 1, count]);
    const full = concat([part, ...new Array<Value>(modelBatch - count).fill(last)], 0);
    parts.push(slice(f(full), 0, [0, count]));
  }
  return concat(parts, 0);
}
