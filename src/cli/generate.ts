import { mkdir, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { Command } from "commander";
import { inTemplate, loadSettings, resolvePrompts } from "../config/index.js";
import { InputError } from "../errors/index.js";
import { contactSheet, encodePng } from "../images/contact-sheet.js";
import type { RgbImage } from "../images/rgb.js";
import { writeFileAtomic } from "../io/atomic.js";
import { fillFolder } from "../io/atomic-folder.js";
import { generate, type ImageRequest } from "../pipeline/index.js";
import {
  type AdapterChoice,
  imageFileName,
  openAllTuned,
  recipeOfAdapters,
  requireEmpty,
  requireWritable,
  writeImages,
} from "../runs/record/index.js";
import { fetchProgress } from "./fetch-progress.js";
import { interruptible } from "./interrupt.js";
import {
  annealOption,
  collect,
  collectAdapter,
  collectSet,
  commonOptions,
  HELP,
  number,
  overridesOf,
  requireTuned,
  type SettingsOptions,
} from "./options.js";
import type { Terminal } from "./terminal.js";
import { count as counted } from "./text.js";

interface GenerateCommandOptions extends Omit<SettingsOptions, "adapter" | "steps" | "seed" | "out"> {
  prompt?: string[];
  adapter?: AdapterChoice[];
  seed: number;
  count: number;
  steps?: number;
  guidance?: number;
  anneal?: number;
  out: string;
}

export function generateCommand(root: Command, terminal: Terminal): void {
  const command = root
    .command("generate")
    .summary("generate images, with or without an adapter")
    .description(
      "Generate images. The same prompt and seed give the same image. The noise of a seed is that of " +
        'torch.Generator("cpu").manual_seed(seed).',
    )
    .option("--prompt <text>", "prompt; repeatable", collect)
    .option("--prompts <list>", HELP.prompts)
    .option("--template <text>", HELP.template)
    .option("--negative-prompt <text>", "what the images should not show (default: that of the adapter's run, or none)")
    .option("--adapter <path>", HELP.adapters, collectAdapter)
    .option("--model <model>", `${HELP.model} (default: that of the adapter's run, or the embedded model)`)
    .option("--offline", HELP.offline)
    .option(
      "--seed <n>",
      "seed of the first image of each prompt; the next images use the next seeds",
      number({ min: 0, max: 2 ** 32 - 1, whole: true }),
      0,
    )
    .option("--count <n>", "number of images per prompt", number({ min: 1, max: 10_000, whole: true }), 1)
    .option("--steps <n>", "number of denoising steps", number({ min: 1, max: 1000, whole: true }))
    .option("--guidance <x>", "scale of classifier-free guidance", number({ min: 0 }))
    .addOption(annealOption())
    .option("--out <path>", "a .png file (several images become one contact sheet), or a folder", "generated.png")
    .option("--device <name>", HELP.device)
    .option("--precision <name>", HELP.precision)
    .option("--threads <n>", HELP.threads)
    .option("--set <path=value>", HELP.set, collectSet);
  commonOptions(command)
    .addHelpText(
      "after",
      `
Examples:
  npx alignprop generate --prompt octopus
  npx alignprop generate --prompt octopus --adapter runs/default-1 --seed 7 --out after.png
  npx alignprop generate --prompt octopus --adapter runs/default-1 --anneal 2
  npx alignprop generate --prompt octopus --adapter style.safetensors:0.7 --adapter runs/default-1:0.5
  npx alignprop generate --prompt octopus --model old.ckpt --set loading.prediction_type=v_prediction
  npx alignprop generate --prompt fox --prompt wolf --count 4 --out images/
  npx alignprop generate --prompts held-out-animals --template "a photo of a {}" --negative-prompt blurry`,
    )
    .action((options: GenerateCommandOptions) => generateInto(options, terminal));
}

async function generateInto(options: GenerateCommandOptions, terminal: Terminal): Promise<void> {
  const { seed, count, steps, guidance, anneal, out } = options;
  requireTuned(options);
  const prompts = await promptsOf(options);
  const asFile = /\.png$/i.test(out);
  await requireWritable(asFile ? dirname(out) : out);
  if (!asFile) await requireEmpty(out);
  else if ((await stat(out).catch(() => undefined))?.isDirectory()) {
    throw new InputError(
      "output-exists",
      `--out ${out}: a folder has this name, but the name ends in .png. Name another file or folder.`,
      { option: "--out", path: out },
    );
  }
  // The adapter of a run samples with the settings of the run, anything else with the default recipe.
  const recipe = await recipeOfAdapters(options.adapter);
  const warn = (message: string) => terminal.say(`warning: ${message}`);
  const settings = await loadSettings({
    recipe,
    overrides: [
      ...overridesOf({
        model: options.model,
        offline: options.offline,
        device: options.device,
        precision: options.precision,
        threads: options.threads,
        negativePrompt: options.negativePrompt,
        set: options.set,
      }),
      ...(steps === undefined ? [] : [{ path: ["sampling", "steps"], value: steps, origin: "--steps" }]),
      ...(guidance === undefined
        ? []
        : [{ path: ["sampling", "guidance_scale"], value: guidance, origin: "--guidance" }]),
    ],
    warn,
  });
  const { model, loading, device, precision, threads, sampling } = settings;
  const onFetch = fetchProgress(terminal);
  const tuned = await openAllTuned(options.adapter ?? [], { loading, warn, onFetch });
  const requests = prompts.flatMap((prompt) =>
    Array.from({ length: count }, (_, i): ImageRequest => ({ prompt, seed: (seed + i) % 2 ** 32 })),
  );
  const images = await interruptible(terminal, "Stopping after this batch", (signal) =>
    generate({
      model,
      loading,
      device,
      precision,
      threads,
      sampling,
      images: requests,
      negative: settings.prompts.negative,
      ...tuned,
      anneal,
      signal,
      warn,
      onFetch,
    }),
  );
  const files = asFile ? [await writePng(out, images, requests)] : await writeFolder(out, images, requests);
  if (options.json) {
    const shown = requests.map((request, i) => ({ ...request, file: files[i] ?? files[0] }));
    terminal.print(JSON.stringify({ images: shown }));
  } else terminal.print(`wrote ${asFile ? out : `${counted(files.length, "image")} to ${out}`}`);
}

/** The prompts of `--prompt`, then those of `--prompts`, all in the template. */
async function promptsOf({ prompt = [], prompts, template = "{}" }: GenerateCommandOptions): Promise<string[]> {
  if (prompt.length === 0 && prompts === undefined) {
    throw new InputError(
      "usage",
      "There is no prompt. Add --prompt <text>, or --prompts with a text file or the name of a list.",
      { missing: ["--prompt", "--prompts"] },
    );
  }
  if (!template.includes("{}"))
    throw new InputError("usage", `--template ${template}: must contain {}, the place of the prompt.`, {
      option: "--template",
      found: template,
      expected: "{}",
    });
  const listed = prompts === undefined ? [] : await resolvePrompts(prompts, { setting: "--prompts" });
  return [...prompt, ...listed].map((text) => inTemplate(text, template));
}

async function writePng(path: string, images: readonly RgbImage[], requests: readonly ImageRequest[]): Promise<string> {
  await mkdir(dirname(path), { recursive: true });
  const [only, ...others] = images;
  const png =
    only !== undefined && others.length === 0
      ? await encodePng(only)
      : await contactSheet(images.map((image, i) => ({ ...image, label: requests[i]?.prompt ?? "" })));
  await writeFileAtomic(path, png);
  return path;
}

async function writeFolder(
  path: string,
  images: readonly RgbImage[],
  requests: readonly ImageRequest[],
): Promise<string[]> {
  const entries = requests.map((request, i) => ({ file: imageFileName(request.prompt, i), ...request }));
  await fillFolder(path, (folder) => writeImages(folder, images, entries));
  return entries.map(({ file }) => join(path, file));
}
