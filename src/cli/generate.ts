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
  imageFileName,
  openTuned,
  recipeOfAdapter,
  requireEmpty,
  requireWritable,
  writeImages,
} from "../runs/record/index.js";
import { fetchProgress } from "./fetch-progress.js";
import { interruptible } from "./interrupt.js";
import {
  annealOption,
  commonOptions,
  number,
  overridesOf,
  PRECISION,
  PROMPTS,
  requireTuned,
  type SettingsOptions,
} from "./options.js";
import type { Terminal } from "./terminal.js";

interface GenerateCommandOptions extends Omit<SettingsOptions, "steps" | "seed" | "out"> {
  prompt?: string[];
  adapter?: string;
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
    .summary("draw pictures, with an adapter or without")
    .description(
      "Draw pictures. The same prompt and seed give the same picture, and the noise of a seed is that of " +
        'torch.Generator("cpu").manual_seed(seed).',
    )
    .option("--prompt <text>", "what to draw; may be repeated", (text, before: string[] = []) => [...before, text])
    .option("--prompts <list>", PROMPTS)
    .option("--template <text>", 'the sentence around each prompt, such as "a photo of a {}"')
    .option("--negative-prompt <text>", "what to stay away from (default: as the adapter was trained, or nothing)")
    .option("--adapter <path>", "a run (its best checkpoint), one of its checkpoints, or a LoRA file")
    .option(
      "--model <model>",
      "a folder, a single file, or an id of the Hugging Face hub (default: the adapter's, or the embedded model)",
    )
    .option("--offline", "take models of the hub from its cache alone")
    .option(
      "--seed <n>",
      "the first picture's noise; the next ones count on",
      number({ min: 0, max: 2 ** 32 - 1, whole: true }),
      0,
    )
    .option("--count <n>", "pictures of each prompt", number({ min: 1, max: 10_000, whole: true }), 1)
    .option("--steps <n>", "denoising steps", number({ min: 1, max: 1000, whole: true }))
    .option("--guidance <x>", "how strictly the prompt is followed", number({ min: 0 }))
    .addOption(annealOption())
    .option("--out <path>", "a .png file (several pictures become one sheet), or a folder", "generated.png")
    .option("--device <name>", "cpu, cuda or webgpu")
    .option("--precision <name>", PRECISION)
    .option("--threads <n>", "processor threads (default: one per core)");
  commonOptions(command)
    .addHelpText(
      "after",
      `
Examples:
  alignprop generate --prompt octopus
  alignprop generate --prompt octopus --adapter runs/default-1 --seed 7 --out after.png
  alignprop generate --prompt octopus --adapter runs/default-1 --anneal 2
  alignprop generate --prompt fox --prompt wolf --count 4 --out pictures/
  alignprop generate --prompts held-out-animals --template "a photo of a {}" --negative-prompt blurry`,
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
      "usage",
      `--out ${out}: this is a folder, although its name is a picture's; name a file, or another folder`,
    );
  }
  // A run's adapter is drawn as it was trained; anything else as the default recipe does.
  const recipe = options.adapter === undefined ? undefined : await recipeOfAdapter(options.adapter);
  const warn = (message: string) => terminal.say(`warning: ${message}`);
  const settings = await loadSettings({
    recipe,
    warn,
    overrides: [
      ...overridesOf({
        model: options.model,
        offline: options.offline,
        device: options.device,
        precision: options.precision,
        threads: options.threads,
        negativePrompt: options.negativePrompt,
      }),
      ...(steps === undefined ? [] : [{ path: ["sampling", "steps"], value: steps, origin: "--steps" }]),
      ...(guidance === undefined
        ? []
        : [{ path: ["sampling", "guidance_scale"], value: guidance, origin: "--guidance" }]),
    ],
  });
  const { model, loading, device, precision, threads, sampling } = settings;
  const tuned = options.adapter === undefined ? {} : await openTuned(options.adapter, warn);
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
      onFetch: fetchProgress(terminal),
    }),
  );
  const files = asFile ? [await writePng(out, images, requests)] : await writeFolder(out, images, requests);
  if (options.json) {
    const shown = requests.map((request, i) => ({ ...request, file: files[i] ?? files[0] }));
    terminal.print(JSON.stringify({ pictures: shown }));
  } else terminal.print(`wrote ${asFile ? out : `${files.length} pictures to ${out}`}`);
}

/** `--prompt` as often as it was given, then the list, each in the template. */
async function promptsOf({ prompt = [], prompts, template = "{}" }: GenerateCommandOptions): Promise<string[]> {
  if (prompt.length === 0 && prompts === undefined) {
    throw new InputError("usage", "nothing to draw; add --prompt TEXT, or --prompts with a text file or a list's name");
  }
  if (!template.includes("{}"))
    throw new InputError("usage", `--template ${template}: must contain {} where the prompt goes`);
  const listed = prompts === undefined ? [] : await resolvePrompts(prompts, { setting: "--prompts" });
  return [...prompt, ...listed].map((text) => inTemplate(text, template));
}

async function writePng(path: string, images: readonly RgbImage[], pictures: readonly ImageRequest[]): Promise<string> {
  await mkdir(dirname(path), { recursive: true });
  const [only, ...others] = images;
  const png =
    only !== undefined && others.length === 0
      ? await encodePng(only)
      : await contactSheet(images.map((image, i) => ({ ...image, label: pictures[i]?.prompt ?? "" })));
  await writeFileAtomic(path, png);
  return path;
}

async function writeFolder(
  path: string,
  images: readonly RgbImage[],
  pictures: readonly ImageRequest[],
): Promise<string[]> {
  const entries = pictures.map((picture, i) => ({ file: imageFileName(picture.prompt, i), ...picture }));
  await fillFolder(path, (folder) => writeImages(folder, images, entries));
  return entries.map(({ file }) => join(path, file));
}
