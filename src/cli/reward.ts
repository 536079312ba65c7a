import { mkdir } from "node:fs/promises";
import { dirname } from "node:path";
import type { Command } from "commander";
import { loadSettings, type Override } from "../config/index.js";
import { InputError } from "../errors/index.js";
import { encodePng } from "../images/contact-sheet.js";
import { readImage } from "../images/read.js";
import { imageTensor, type RgbImage } from "../images/rgb.js";
import { writeFileAtomic } from "../io/atomic.js";
import { generate } from "../pipeline/index.js";
import { type OnnxSettings, showPreprocessing } from "../rewards/index.js";
import { requireWritable } from "../runs/record/index.js";
import { format } from "../runs/report/index.js";
import { type CheckedOutput, checkReward, type OnnxCheck } from "../scoring/index.js";
import { interruptible } from "./interrupt.js";
import { type CommonOptions, collectSet, commonOptions, HELP, overridesOf } from "./options.js";
import { changedSettings, inline } from "./reward-recipe.js";
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

/** The image of the embedded model that `--image` replaces. */
const SAMPLE = { prompt: "fox", seed: 0 };

export function rewardCommand(root: Command, terminal: Terminal): void {
  const rewards = root
    .command("reward")
    .summary("inspect a reward")
    .description("Inspect a reward before training on it.");
  const command = rewards
    .command("check")
    .summary("check an ONNX file as a reward")
    .description(
      "Show what an ONNX file contains and which of its outputs can be a reward. Compute the reward of an image and its " +
        "gradient, write the gradient as a heat map beside the image, and time both.",
    )
    .argument("<file>", "ONNX model")
    .option("--image <file>", "image to score (default: one from the embedded model)")
    .option("--output <name>", "output, or any other tensor of the file, that is the reward")
    .option("--class <class>", "class of that output: an index from 0, or a label")
    .option("--similar <image>", "use the similarity to this image as the reward")
    .option("--preprocessor <file>", "preprocessor_config.json of the model")
    .option("--set <path=value>", "any setting of the reward, such as preprocessing.size=224; repeatable", collectSet)
    .option("--out <file>", "file of the heat map", "reward-gradient.png")
    .option("--device <name>", HELP.device)
    .option("--threads <n>", HELP.threads);
  commonOptions(command)
    .addHelpText(
      "after",
      `
Examples:
  npx alignprop reward check model.onnx
  npx alignprop reward check model.onnx --image photo.jpg --class "tabby cat" --set score=softmax
  npx alignprop reward check depth.onnx --set reduce=mean --set region='[0.5, 0, 1, 1]'
  npx alignprop reward check clip-vision.onnx --output image_embeds --similar target.png`,
    )
    .action((file: string, options: CheckOptions) => check(file, options, terminal));
}

async function check(file: string, options: CheckOptions, terminal: Terminal): Promise<void> {
  if (!/\.png$/i.test(options.out))
    throw new InputError("usage", `--out ${options.out}: the heat map is a PNG image. Name a .png file.`, {
      option: "--out",
      found: options.out,
      expected: ".png",
    });
  await requireWritable(dirname(options.out));
  const warn = (message: string) => terminal.say(`warning: ${message}`);
  const { reward, device, threads, model, sampling } = await loadSettings({
    overrides: [
      ...rewardOverrides(file, options),
      ...overridesOf({ device: options.device, threads: options.threads }),
    ],
    warn,
  });
  if (reward.name !== "onnx") {
    throw new InputError("usage", `--set name=${reward.name}: this command checks ONNX files only. Leave it out.`, {
      option: "--set",
      setting: "reward.name",
      found: reward.name,
      expected: "onnx",
    });
  }
  const image =
    options.image === undefined
      ? await interruptible(terminal, "Stopping", (signal) =>
          generate({ model, device, threads, sampling, images: [SAMPLE], signal }),
        ).then(([sample]) => sample as RgbImage)
      : await readImage(options.image);
  const checked = await checkReward(reward, imageTensor(image), { device, ...(threads !== null && { threads }) });
  await mkdir(dirname(options.out), { recursive: true });
  await writeFileAtomic(options.out, await encodePng(beside(image, checked.heatMap)));
  const recipe = changedSettings(reward, file);
  if (options.json) {
    terminal.print(JSON.stringify(asJson(checked, recipe, options.out)));
    return;
  }
  for (const message of checked.warnings) warn(message);
  for (const [name, value] of asLines(checked, reward, options.out)) terminal.print(`${name.padEnd(15)}${value}`);
}

/** The options as settings, so that they are validated as in a recipe. */
function rewardOverrides(
  file: string,
  { output, class: chosen, similar, preprocessor, set = [] }: CheckOptions,
): Override[] {
  const override = (option: string, key: string, value: unknown): Override[] =>
    value === undefined ? [] : [{ path: ["reward", key], value, origin: option }];
  return [
    { path: ["reward"], value: { name: "onnx", file }, origin: file },
    ...override("--output", "output", output),
    ...override("--class", "class", chosen !== undefined && /^\d+$/.test(chosen) ? Number(chosen) : chosen),
    ...override("--similar", "similarity", similar === undefined ? undefined : { picture: similar }),
    ...override("--preprocessor", "preprocessor", preprocessor),
    ...set.map(({ path, ...given }): Override => ({ ...given, path: ["reward", ...path] })),
  ];
}

/** The image with the heat map to its right. */
function beside({ width, height, pixels }: RgbImage, heat: RgbImage): RgbImage {
  const both = new Uint8Array(6 * width * height);
  for (let row = 0; row < height; row++) {
    const line = pixels.subarray(3 * row * width, 3 * (row + 1) * width);
    both.set(line, 6 * row * width);
    both.set(heat.pixels.subarray(3 * row * width, 3 * (row + 1) * width), 6 * row * width + 3 * width);
  }
  return { width: 2 * width, height, pixels: both };
}

function asJson(
  { reward, outputs, value, gradientNorm, warnings, seconds }: OnnxCheck,
  recipe: object,
  heatMap: string,
): object {
  const { file, image, preprocessing, preprocessor, chosen } = reward;
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
    image_input: image.name,
    output: chosen,
    preprocessing: { size: size ?? null, shortest_edge: shortestEdge?.edge ?? null, crop: crop ?? null, ...rest },
    preprocessor: preprocessor ?? null,
    value,
    gradient_norm: gradientNorm,
    warnings,
    recipe: { reward: recipe },
    seconds,
    heat_map: heatMap,
  };
}

function asLines(
  { reward, outputs, value, gradientNorm, seconds }: OnnxCheck,
  settings: OnnxSettings,
  out: string,
): [string, string][] {
  const { file, image, preprocessing, preprocessor } = reward;
  const operators = [...file.operators].sort(([, a], [, b]) => b - a).map(([name, count]) => `${name} ${count}`);
  const shape = (extents: readonly (number | string | undefined)[]) =>
    `[${extents.map((extent) => extent ?? "?").join(", ")}]`;
  const largest =
    outputs.find(({ name }) => name === reward.chosen)?.use !== "number" &&
    settings.class === null &&
    settings.similarity === null &&
    settings.reduce === null;
  return [
    ["file", `${file.path}, by ${file.producer || "an unnamed exporter"}, opset ${file.opset}`],
    ["parameters", `${file.parameters}`],
    ["operators", operators.join(", ")],
    ...file.inputs.map((one): [string, string] => [
      one === image ? "image input" : "input",
      `${one.name} ${one.dtype}${shape(one.shape)}`,
    ]),
    ...outputs.map((one): [string, string] => ["output", describeOutput(one)]),
    ["preprocessing", showPreprocessing(preprocessing)],
    [
      "",
      preprocessor
        ? `from ${preprocessor}`
        : "from the settings and the shape of the input; to change it, add --preprocessor or --set preprocessing.mean=…",
    ],
    [
      "reward",
      `${format(value)}${largest ? `, the largest value of ${reward.chosen} (no class, reduce or similarity was chosen)` : ` from ${reward.chosen}`}`,
    ],
    ["gradient", `norm ${gradientNorm.toPrecision(3)}, heat map in ${out}`],
    [
      "time",
      `${milliseconds(seconds.value)} for the reward, ${milliseconds(seconds.gradient)} with its gradient, ${milliseconds(seconds.compile)} to compile`,
    ],
    [
      "recipe",
      largest
        ? "choose what the reward is with --class, --similar or --set reduce=mean"
        : `reward: ${inline(changedSettings(settings, settings.file))}`,
    ],
  ];
}

function describeOutput({ name, shape, use, reason }: CheckedOutput): string {
  const title = shape ? `${name} [${shape.join(", ")}]` : name;
  switch (use) {
    case "number":
      return `${title}: can be the reward`;
    case "class":
      return `${title}: can be the reward with class (0 … ${(shape?.at(-1) ?? 1) - 1}) or similarity`;
    case "map":
      return `${title}: can be the reward with reduce (mean, max, …), class or similarity`;
    case "similarity":
      return `${title}: can be the reward with similarity or reduce${shape?.length === 3 ? ", or class" : ""}`;
    case "none":
      return `${title}: cannot be the reward: ${reason}`;
  }
}

const milliseconds = (seconds: number) => `${(seconds * 1000).toFixed(0)} ms`;
