/**
 * Any ONNX file as a reward: picture in, and out a number, one of several classes, or the likeness to an embedding. The file
 * is imported into a graph like every other, so its gradient comes from the rules that all gradients come from.
 *
 * - Input: what `preprocessing` says, else `preprocessor_config.json`, else the shape of the model's input.
 * - Range and licence: the file's.
 */

import { dirname, join } from "node:path";
import { z } from "zod";
import { gradients, undifferentiable } from "../../autodiff/index.js";
import { InputError, nearest } from "../../errors/index.js";
import { showType, type Value } from "../../graph/value.js";
import { readImage } from "../../images/read.js";
import { imageTensor } from "../../images/rgb.js";
import { exists, readText } from "../../io/files.js";
import { checkJson, parseJson, readJson } from "../../io/json.js";
import { type OnnxFile, type OnnxInput, openOnnx } from "../../onnx/import/file.js";
import { OnnxImport } from "../../onnx/import/import.js";
import {
  broadcastTo,
  concat,
  constant,
  div,
  exp,
  filled,
  input,
  log,
  max,
  mul,
  reshape,
  sigmoid,
  slice,
  sqrt,
  sub,
  sum,
} from "../../ops/index.js";
import { type HostTensor, toNumbers } from "../../tensor/host.js";
import { showShape, sizeOf } from "../../tensor/shape.js";
import { openSafetensors } from "../../weights/safetensors.js";
import { fromTensors, merge, readTensor, withPrefix } from "../../weights/source.js";
import { common, MAXIMIZE, rewardKind } from "../kind.js";
import type { Reward } from "../reward.js";
import {
  type Preprocessing,
  parsePreprocessor,
  preprocess,
  preprocessingSchema,
  resolvePreprocessing,
} from "./onnx-preprocessing.js";

const text = z.string().min(1).max(4096);
const MOST_CLASSES = 1_000_000;

export const onnxSchema = z.strictObject({
  name: z.literal("onnx"),
  ...common,
  file: text,
  /** The output that is the reward; needed where there are several. */
  output: text.nullable().default(null),
  /** The input that is the picture; needed where there are several with the shape of one. */
  input: text.nullable().default(null),
  /** Which of the output's numbers: counted from 0, or the label that `labels` has for it. */
  class: z
    .union([z.int().min(0).max(MOST_CLASSES), text])
    .nullable()
    .default(null),
  /** What of the chosen class: its logit as it is, or a probability among all classes or (sigmoid) by itself. */
  score: z.enum(["logit", "softmax", "log-softmax", "sigmoid"]).default("logit"),
  /** A text file with a label a line, or a config.json with id2label. `null`: the config.json beside the file. */
  labels: text.nullable().default(null),
  /** The cosine between the output and that of a picture, or a vector in a .json or .safetensors file. */
  similarity: z
    .union([z.strictObject({ picture: text }), z.strictObject({ embedding: text })])
    .nullable()
    .default(null),
  /** What further inputs are given: a number everywhere, or the numbers of one picture. */
  inputs: z.record(z.string(), z.union([z.number(), z.array(z.number()).max(1_000_000)])).default({}),
  /** transformers' preprocessor_config.json. `null`: the one beside the file, if it is there. */
  preprocessor: text.nullable().default(null),
  preprocessing: preprocessingSchema.prefault({}),
});

export type OnnxSettings = z.output<typeof onnxSchema>;

export interface OnnxOpening {
  /** Where a path of the settings lies. */
  find(path: string): Promise<string> | string;
  /** What the names of its tensors begin with. */
  readonly root?: string;
}

/** An ONNX file with all that its settings say about it, before it is asked for a reward. */
export interface OnnxJudge {
  readonly file: OnnxFile;
  /** The input that takes the picture. */
  readonly picture: OnnxInput;
  readonly preprocessing: Preprocessing;
  /** Where the preprocessing was read, if not in the settings alone. */
  readonly preprocessor: string | undefined;
  /** The output that the reward is made of. */
  readonly chosen: string;
  readonly reward: Reward;
  /** images [b, 3, h, w] in 0 … 1 → one of the file's outputs */
  output(images: Value, name: string): Value;
}

/** In a recipe or as `--reward`, a file of this name is an ONNX reward. */
export const ONNX_FILE = /\.onnx$/i;

export const onnx = rewardKind({
  schema: onnxSchema,
  loss: MAXIMIZE,
  async open(settings, { find, root }) {
    const named = (what: string) => async () => {
      throw new InputError("reward-invalid", `reward onnx: name the file in ${what}, such as ${what}/model.onnx`);
    };
    const reward = await onnxReward(settings, { find: (path) => find(path, named), root });
    return settings.batch === null ? reward : { ...reward, batch: settings.batch };
  },
});

export async function onnxReward(settings: OnnxSettings, opening: OnnxOpening): Promise<Reward> {
  const { reward, preprocessing } = await openOnnxJudge(settings, opening);
  // A picture of any size shows whether the graph can be built and differentiated.
  const [height, width] = preprocessing.size ?? preprocessing.crop ?? [224, 224];
  reward.build(input([1, 3, height, width]));
  return reward;
}

/** `whole`: where neither class nor similarity is chosen, the largest of the first output's numbers is the reward. */
export async function openOnnxJudge(
  settings: OnnxSettings,
  { find, root = "reward" }: OnnxOpening,
  { whole = false } = {},
): Promise<OnnxJudge> {
  const path = await find(settings.file);
  const where = `reward onnx: ${settings.file}`;
  const file = await openOnnx(path);
  const picture = pictureInput(file, settings, where);
  const beside = join(dirname(path), "preprocessor_config.json");
  const preprocessor = settings.preprocessor
    ? await find(settings.preprocessor)
    : (await exists(beside))
      ? beside
      : undefined;
  const read = preprocessor ? parsePreprocessor(await readJson(preprocessor, z.unknown()), preprocessor) : undefined;
  const preprocessing = resolvePreprocessing(settings.preprocessing, read, picture, where);
  const prefix = `${root}.onnx.`;
  const chosen =
    typeof settings.class === "string"
      ? await labelled(settings.class, settings.labels, path, find, where)
      : settings.class;
  const target = await openTarget(settings, find);
  if (chosen !== null && target)
    throw new InputError("reward-invalid", `${where}: class and similarity are both given; keep one`);
  const name = chosenOutput(file, settings, where, whole);

  const imported = (images: Value): OnnxImport => {
    const pixels = preprocess(images, preprocessing, where);
    checkPixels(pixels, picture, where);
    const others = file.inputs.filter((other) => other !== picture);
    const given = others.map((other) => [other.name, furtherInput(other, settings, pixels, where)] as const);
    return new OnnxImport(file, { [picture.name]: pixels, ...Object.fromEntries(given) }, prefix);
  };
  const output = (images: Value, asked: string) => inBatches(images, picture, (part) => imported(part).output(asked));
  const build = (images: Value): Value =>
    inBatches(images, picture, (part) => {
      const model = imported(part);
      const y = model.output(name);
      const reference =
        target && (target.kind === "picture" ? output(constantOf(target.tensor), name) : constantOf(target.tensor));
      const rewards = scoreOf(y, part.shape[0] as number, {
        name,
        chosen,
        score: settings.score,
        reference,
        whole,
        where,
      });
      requireGradient(rewards, part, model, file, name, where);
      return rewards;
    });
  const digest = fromTensors(new Map([["file", file.digest]]));
  return {
    file,
    picture,
    preprocessing,
    preprocessor,
    chosen: name,
    output,
    reward: {
      name: "onnx",
      weights: merge(withPrefix(file.weights, prefix), withPrefix(digest, `${root}.onnx:`)),
      build: (images) => ({ rewards: build(images), inputs: {} }),
      feeds: () => ({}),
      warnings: () => [],
    },
  };
}

function pictureInput({ inputs }: OnnxFile, { input: wanted }: OnnxSettings, where: string): OnnxInput {
  const names = inputs.map(({ name }) => name);
  if (wanted !== null) {
    const found = inputs.find(({ name }) => name === wanted);
    if (found) return found;
    const near = nearest(wanted, names);
    throw new InputError(
      "reward-invalid",
      `${where}: has no input ${JSON.stringify(wanted)}; ${near ? `did you mean ${near}? ` : ""}It has ${list(names)}`,
    );
  }
  const candidates = inputs.filter(({ shape, dtype }) => shape.length === 4 && dtype.startsWith("float"));
  if (candidates.length === 1) return candidates[0] as OnnxInput;
  const what =
    candidates.length === 0
      ? "no input is a picture of floating point numbers [n, 3, h, w]"
      : "several inputs could be the picture; name one with reward.input";
  throw new InputError("reward-invalid", `${where}: ${what}. It has ${list(names)}`);
}

function chosenOutput(
  { outputs }: OnnxFile,
  { output, class: chosen, similarity }: OnnxSettings,
  where: string,
  whole: boolean,
): string {
  if (output !== null) {
    if (outputs.includes(output)) return output;
    const near = nearest(output, outputs);
    throw new InputError(
      "reward-invalid",
      `${where}: has no output ${JSON.stringify(output)}; ${near ? `did you mean ${near}? ` : ""}It has ${list(outputs)}`,
    );
  }
  if (outputs.length === 1) return outputs[0] as string;
  const usual = chosen !== null ? ["logits"] : similarity ? ["image_embeds", "pooler_output"] : [];
  const found = usual.find((name) => outputs.includes(name));
  if (found) return found;
  if (whole && outputs[0] !== undefined) return outputs[0];
  throw new InputError(
    "reward-invalid",
    `${where}: has several outputs; name one with reward.output: ${list(outputs)}`,
  );
}

const list = (names: readonly string[]) => {
  const shown = names.slice(0, 12).map((name) => (name.length > 60 ? `${name.slice(0, 59)}…` : name));
  return `${shown.join(", ")}${names.length > 12 ? ` and ${names.length - 12} more` : ""}`;
};

/** The class with a label: a line of a text file, or config.json's id2label. */
async function labelled(
  label: string,
  labels: string | null,
  model: string,
  find: OnnxOpening["find"],
  where: string,
): Promise<number> {
  const path = labels === null ? join(dirname(model), "config.json") : await find(labels);
  if (labels === null && !(await exists(path))) {
    throw new InputError(
      "reward-invalid",
      `${where}: class ${JSON.stringify(label)} is a label, and no config.json beside the file has labels. Give the class's number, or reward.labels`,
    );
  }
  const content = await readText(path, 2 ** 24);
  const found = path.endsWith(".json")
    ? Object.entries(
        checkJson(z.looseObject({ id2label: z.record(z.string(), z.string()) }), parseJson(content, path), path)
          .id2label,
      )
    : content.split(/\r?\n/).map((line, i) => [String(i), line.trim()] as const);
  const same = (a: string) => a.trim().toLowerCase() === label.trim().toLowerCase();
  const [id] = found.find(([, name]) => same(name)) ?? [];
  if (id !== undefined && /^\d{1,7}$/.test(id)) return Number(id);
  const near = nearest(
    label,
    found.map(([, name]) => name),
  );
  throw new InputError(
    "reward-invalid",
    `${where}: ${path} has no label ${JSON.stringify(label)}${near ? `; did you mean ${JSON.stringify(near)}?` : ""}`,
  );
}

type Target = { readonly kind: "picture" | "embedding"; readonly tensor: HostTensor };

async function openTarget({ similarity }: OnnxSettings, find: OnnxOpening["find"]): Promise<Target | undefined> {
  if (similarity === null) return undefined;
  if ("picture" in similarity)
    return { kind: "picture", tensor: imageTensor(await readImage(await find(similarity.picture))) };
  const path = await find(similarity.embedding);
  if (path.endsWith(".json")) {
    const values = await readJson(path, z.array(z.number()).min(1).max(1_000_000), 2 ** 25);
    return {
      kind: "embedding",
      tensor: { dtype: "float32", shape: [1, values.length], data: Float32Array.from(values) },
    };
  }
  const source = await openSafetensors(path);
  const [name, ...more] = source.names();
  const stored = name === undefined ? undefined : source.get(name);
  if (!stored || more.length > 0)
    throw new InputError("reward-invalid", `${path}: must hold one tensor, the embedding`);
  const tensor = await readTensor(stored);
  return { kind: "embedding", tensor: { ...tensor, shape: [1, sizeOf(tensor.shape)] } };
}

const constantOf = (tensor: HostTensor): Value => constant(toNumbers(tensor), tensor.shape);

function checkPixels(pixels: Value, { name, shape }: OnnxInput, where: string): void {
  const wrong = shape.findIndex(
    (extent, axis) => axis > 0 && typeof extent === "number" && extent !== pixels.shape[axis],
  );
  if (wrong < 0) return;
  throw new InputError(
    "reward-invalid",
    `${where}: the input ${JSON.stringify(name)} is [${shape.map((extent) => extent ?? "?").join(", ")}], but preprocessing gives ${showShape(pixels.shape)}. Set preprocessing.size, or crop`,
  );
}

/** A value for an input that is not the picture, the same for each picture. */
function furtherInput(
  { name, dtype, shape }: OnnxInput,
  { inputs }: OnnxSettings,
  pixels: Value,
  where: string,
): Value {
  const given = Object.hasOwn(inputs, name) ? inputs[name] : undefined;
  const said = `${dtype}[${shape.map((extent) => extent ?? "?").join(", ")}]`;
  if (given === undefined) {
    throw new InputError(
      "reward-invalid",
      `${where}: also needs the input ${JSON.stringify(name)}, ${said}. Give it a number, or a list of numbers, under reward.inputs`,
    );
  }
  const batch = pixels.shape[0] as number;
  const open = shape.flatMap((extent, axis) => (typeof extent === "number" || axis === 0 ? [] : [axis]));
  const known = shape
    .slice(1)
    .reduce<number>((product, extent) => product * (typeof extent === "number" ? extent : 1), 1);
  const whole = shape.map((extent, axis) => {
    if (typeof extent === "number") return extent;
    if (axis === 0) return batch;
    // What is open on two axes is as large as the picture, such as a mask of its pixels.
    if (open.length === 2) return pixels.shape[axis === open[0] ? 2 : 3] as number;
    return Array.isArray(given) && open.length === 1 ? given.length / known : Number.NaN;
  });
  const one = sizeOf(whole.slice(1));
  if (!Number.isInteger(one) || one > 2 ** 24 || (Array.isArray(given) && given.length !== one)) {
    throw new InputError("reward-invalid", `${where}: reward.inputs.${name} does not fill the input, which is ${said}`);
  }
  if (dtype !== "bool" && !dtype.startsWith("float") && [given].flat().some((value) => !Number.isSafeInteger(value))) {
    throw new InputError(
      "reward-invalid",
      `${where}: reward.inputs.${name} must be whole numbers, the input is ${said}`,
    );
  }
  const type = dtype.startsWith("float") || dtype === "bfloat16" ? "float32" : dtype;
  const row = Array.isArray(given) ? given : new Array<number>(one).fill(given);
  const picture = constant(row, [1, ...whole.slice(1)], type);
  return whole.length === 0
    ? reshape(picture, [])
    : broadcastTo(picture, [whole[0] === 1 ? 1 : batch, ...whole.slice(1)]);
}

/** In the batches that the model was exported for, the last one filled up; a model with an open batch takes all at once. */
function inBatches(images: Value, { shape }: OnnxInput, judge: (images: Value) => Value): Value {
  const batch = images.shape[0] as number;
  const own = typeof shape[0] === "number" ? shape[0] : batch;
  const parts: Value[] = [];
  for (let start = 0; start < batch; start += own) {
    const count = Math.min(own, batch - start);
    const part = slice(images, 0, start, start + count);
    const last = slice(part, 0, count - 1, count);
    const full = concat([part, ...new Array<Value>(own - count).fill(last)], 0);
    parts.push(slice(judge(full), 0, 0, count));
  }
  return concat(parts, 0);
}

interface Scoring {
  readonly name: string;
  readonly chosen: number | null;
  readonly score: OnnxSettings["score"];
  readonly reference: Value | undefined;
  readonly whole: boolean;
  readonly where: string;
}

/** y [b, …] → rewards [b] */
function scoreOf(y: Value, batch: number, { name, chosen, score, reference, whole, where }: Scoring): Value {
  const said = `the output ${JSON.stringify(name)} is ${showType(y)}`;
  if (y.dtype !== "float32")
    throw new InputError(
      "reward-invalid",
      `${where}: ${said}, which has no gradient. Choose another with reward.output`,
    );
  const each = sizeOf(y.shape) / batch;
  if (y.shape[0] !== batch && !(batch === 1 && y.shape.length === 0)) {
    throw new InputError(
      "reward-invalid",
      `${where}: ${said}; it must have one row for each of ${batch} pictures. Export the model with a dynamic batch axis, or with a batch of 1`,
    );
  }
  if (reference) {
    const embedding = reshape(y, [batch, each]);
    const target = reshape(reference, [1, sizeOf(reference.shape)]);
    if (target.shape[1] !== each) {
      throw new InputError(
        "reward-invalid",
        `${where}: ${said}, of ${each} numbers a picture; the embedding to compare with has ${target.shape[1]}`,
      );
    }
    return sum(mul(unit(embedding), unit(target)), 1);
  }
  if (chosen === null) {
    if (each === 1) return reshape(y, [batch]);
    if (whole) return max(reshape(y, [batch, each]), 1);
    throw new InputError(
      "reward-invalid",
      `${where}: ${said}; a reward is one number. Choose one with reward.class, or compare the output with reward.similarity`,
    );
  }
  const classes = y.shape.at(-1) as number;
  if (y.shape.length < 2 || y.shape.length > 3 || chosen >= classes) {
    throw new InputError("reward-invalid", `${where}: ${said}; there is no class ${chosen}`);
  }
  const rows = reshape(y, [batch, each / classes, classes]);
  const one = reshape(slice(scored(rows, score), 2, chosen, chosen + 1), [batch, each / classes]);
  // Of a detector's queries the surest counts.
  return each === classes ? reshape(one, [batch]) : max(one, 1);
}

function scored(logits: Value, score: OnnxSettings["score"]): Value {
  if (score === "logit") return logits;
  if (score === "sigmoid") return sigmoid(logits);
  const shifted = sub(logits, max(logits, -1, { keepDims: true }));
  const logs = sub(shifted, log(sum(exp(shifted), -1, { keepDims: true })));
  return score === "softmax" ? exp(logs) : logs;
}

const unit = (rows: Value) => div(rows, sqrt(sum(mul(rows, rows), 1, { keepDims: true })));

function requireGradient(
  rewards: Value,
  images: Value,
  model: OnnxImport,
  file: OnnxFile,
  name: string,
  where: string,
): void {
  const [gradient] = gradients([{ value: rewards, gradient: filled(rewards.shape, 1) }], [images]);
  if (gradient) return;
  const stops = new Set(undifferentiable([rewards], [images]).map((node) => model.originOf(node)));
  const named = [...stops].filter((origin) => origin !== undefined).slice(0, 5);
  const remedy =
    file.outputs.length > 1
      ? `Choose another output: ${list(file.outputs)}`
      : "Export the model up to the node before it";
  throw new InputError(
    "reward-invalid",
    named.length > 0
      ? `${where}: no gradient reaches the picture from the output ${JSON.stringify(name)}: ${named.join(", ")} ${named.length > 1 ? "have" : "has"} none. ${remedy}`
      : `${where}: the output ${JSON.stringify(name)} does not depend on the picture. ${remedy}`,
  );
}
