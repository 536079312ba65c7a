import { mkdir } from "node:fs/promises";
import { dirname } from "node:path";
import type { Command } from "commander";
import { loadSettings, type Override, parseSet } from "../config/index.js";
import { InputError } from "../errors/index.js";
import { encodePng } from "../images/contact-sheet.js";
import { readImage } from "../images/read.js";
import { imageTensor, type RgbImage } from "../images/rgb.js";
import { writeFileAtomic } from "../io/atomic.js";
import { checkJson } from "../io/json.js";
import { generate } from "../pipeline/index.js";
import { onnxSchema, showPreprocessing } from "../rewards/index.js";
import { requireWritable } from "../runs/record/index.js";
import { format } from "../runs/report/index.js";
import { type CheckedOutput, checkReward, type OnnxCheck } from "../scoring/index.js";
import { interruptible } from "./interrupt.js";
import { type CommonOptions, commonOptions } from "./options.js";
import type { Terminal } from "./terminal.js";

interface CheckOptions extends CommonOptions {
  image?: string;
  output?: string;
  class?: string;
  similar?: string;
  preprocessor?: string;
  out: string;
  device?: string;
  threads?: string;
  set?: Override[];
}

/** What is drawn by the embedded model where no picture is given. */
const SAMPLE = { prompt: "fox", seed: 0 };

export function rewardCommand(root: Command, terminal: Terminal): void {
  const rewards = root
    .command("reward")
    .summary("look into a reward")
    .description("Look into a reward before training on it.");
  const command = rewards
    .command("check")
    .summary("what an ONNX file is as a reward")
    .description(
      "Say what an ONNX file holds and which of its outputs can be a reward, run it on a picture, show its gradient as a " +
        "heat map beside the picture, and time both.",
    )
    .argument("<file>", "a model in the ONNX format")
    .option("--image <file>", "the picture (default: one of the embedded model)")
    .option("--output <name>", "which output is the reward")
    .option("--class <class>", "which of its numbers: counted from 0, or a label")
    .option("--similar <picture>", "the reward is the likeness to this picture")
    .option("--preprocessor <file>", "a preprocessor_config.json")
    .option(
      "--set <path=value>",
      "a setting of the reward, such as preprocessing.size=224; may be repeated",
      (text, before: Override[] = []) => [...before, parseSet(text)],
    )
    .option("--out <file>", "where the heat map goes", "reward-gradient.png")
    .option("--device <name>", "cpu, cuda or webgpu")
    .option("--threads <n>", "processor threads (default: one per core)");
  commonOptions(command)
    .addHelpText(
      "after",
      `
Examples:
  alignprop reward check model.onnx
  alignprop reward check model.onnx --image photo.jpg --class "tabby cat" --set score=softmax
  alignprop reward check clip-vision.onnx --output image_embeds --similar target.png`,
    )
    .action((file: string, options: CheckOptions) => check(file, options, terminal));
}

async function check(file: string, options: CheckOptions, terminal: Terminal): Promise<void> {
  if (!/\.png$/i.test(options.out))
    throw new InputError("usage", `--out ${options.out}: the heat map is a picture; name a .png file`);
  await requireWritable(dirname(options.out));
  const settings = checkJson(onnxSchema, written(file, options), "reward check");
  const { device, threads, model, sampling } = await loadSettings({
    overrides: [
      ...(options.device === undefined ? [] : [{ path: ["device"], value: options.device, origin: "--device" }]),
      ...(options.threads === undefined
        ? []
        : [{ path: ["threads"], value: Number(options.threads), origin: "--threads" }]),
    ],
  });
  const picture =
    options.image === undefined
      ? await interruptible(terminal, "Stopping", (signal) =>
          generate({ model, device, threads, sampling, images: [SAMPLE], signal }),
        ).then(([image]) => image as RgbImage)
      : await readImage(options.image);
  const checked = await checkReward(settings, imageTensor(picture), { device, ...(threads !== null && { threads }) });
  await mkdir(dirname(options.out), { recursive: true });
  await writeFileAtomic(options.out, await encodePng(beside(picture, checked.heatMap)));
  if (options.json) terminal.print(JSON.stringify(asJson(checked, options.out)));
  else for (const [name, value] of asLines(checked, options)) terminal.print(`${name.padEnd(15)}${value}`);
}

/** The settings as a recipe would have them under `reward`. */
function written(file: string, { output, class: chosen, similar, preprocessor, set = [] }: CheckOptions): unknown {
  const reward: Record<string, unknown> = {
    name: "onnx",
    file,
    ...(output !== undefined && { output }),
    ...(chosen !== undefined && { class: /^\d+$/.test(chosen) ? Number(chosen) : chosen }),
    ...(similar !== undefined && { similarity: { picture: similar } }),
    ...(preprocessor !== undefined && { preprocessor }),
  };
  for (const { path, value, origin } of set) {
    let at = reward;
    for (const key of path.slice(0, -1)) {
      if (!Object.hasOwn(at, key)) at[key] = {};
      const next = at[key];
      if (typeof next !== "object" || next === null)
        throw new InputError("usage", `${origin}: ${key} holds no further settings`);
      at = next as Record<string, unknown>;
    }
    Object.defineProperty(at, path.at(-1) as string, { value, enumerable: true, configurable: true, writable: true });
  }
  return reward;
}

/** The picture, and the heat map to its right. */
function beside({ width, height, pixels }: RgbImage, heat: RgbImage): RgbImage {
  const both = new Uint8Array(6 * width * height);
  for (let row = 0; row < height; row++) {
    const line = pixels.subarray(3 * row * width, 3 * (row + 1) * width);
    both.set(line, 6 * row * width);
    both.set(heat.pixels.subarray(3 * row * width, 3 * (row + 1) * width), 6 * row * width + 3 * width);
  }
  return { width: 2 * width, height, pixels: both };
}

function asJson({ judge, outputs, value, gradientNorm, seconds }: OnnxCheck, heatMap: string): object {
  const { file, picture, preprocessing, preprocessor, chosen } = judge;
  const { size, shortestEdge, crop, ...rest } = preprocessing;
  return {
    file: file.path,
    producer: file.producer,
    opset: file.opset,
    parameters: file.parameters,
    operators: Object.fromEntries(file.operators),
    inputs: file.inputs.map(({ name, dtype, shape }) => ({
      name,
      dtype,
      shape: shape.map((extent) => extent ?? null),
    })),
    outputs: outputs.map(({ name, shape, use, reason }) => ({
      name,
      shape: shape ?? null,
      use,
      reason: reason ?? null,
    })),
    picture_input: picture.name,
    output: chosen,
    preprocessing: { size: size ?? null, shortest_edge: shortestEdge?.edge ?? null, crop: crop ?? null, ...rest },
    preprocessor: preprocessor ?? null,
    value,
    gradient_norm: gradientNorm,
    seconds,
    heat_map: heatMap,
  };
}

function asLines(
  { judge, outputs, value, gradientNorm, seconds }: OnnxCheck,
  { out, class: chosen, similar }: CheckOptions,
): [string, string][] {
  const { file, picture, preprocessing, preprocessor } = judge;
  const operators = [...file.operators].sort(([, a], [, b]) => b - a).map(([name, count]) => `${name} ${count}`);
  const shape = (extents: readonly (number | string | undefined)[]) =>
    `[${extents.map((extent) => extent ?? "?").join(", ")}]`;
  const largest =
    outputs.find(({ name }) => name === judge.chosen)?.use !== "number" &&
    chosen === undefined &&
    similar === undefined;
  return [
    ["file", `${file.path}, by ${file.producer || "an unnamed exporter"}, opset ${file.opset}`],
    ["parameters", `${file.parameters}`],
    ["operators", operators.join(", ")],
    ...file.inputs.map((one): [string, string] => [
      one === picture ? "picture" : "input",
      `${one.name} ${one.dtype}${shape(one.shape)}`,
    ]),
    ...outputs.map((one): [string, string] => ["output", describeOutput(one)]),
    ["preprocessing", showPreprocessing(preprocessing)],
    [
      "",
      preprocessor
        ? `from ${preprocessor}`
        : "from the settings and the input's shape; give --preprocessor, or --set preprocessing.mean=…",
    ],
    [
      "reward",
      `${format(value)}${largest ? `, the largest number of ${judge.chosen} (nothing was chosen)` : ` from ${judge.chosen}`}`,
    ],
    ["gradient", `norm ${gradientNorm.toPrecision(3)}; heat map in ${out}`],
    [
      "time",
      `${milliseconds(seconds.value)} for the value, ${milliseconds(seconds.gradient)} with the gradient, ${milliseconds(seconds.compile)} to compile`,
    ],
  ];
}

function describeOutput({ name, shape, use, reason }: CheckedOutput): string {
  const what = shape ? `${name} [${shape.join(", ")}]` : name;
  switch (use) {
    case "number":
      return `${what}: a reward as it is`;
    case "class":
      return `${what}: a reward with class (0 … ${(shape?.at(-1) ?? 1) - 1}) or similarity`;
    case "similarity":
      return `${what}: a reward with similarity${shape?.length === 3 ? ", or with class" : ""}`;
    case "none":
      return `${what}: no reward; ${reason}`;
  }
}

const milliseconds = (seconds: number) => `${(seconds * 1000).toFixed(0)} ms`;
