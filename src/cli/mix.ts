import { mkdir, writeFile } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { type Command, Option } from "commander";
import { evaluationPrompts, loadSettings, type Override } from "../config/index.js";
import { InputError } from "../errors/index.js";
import { fillFolder } from "../io/atomic-folder.js";
import { generateEach, KOHYA_ENDING, type MixForm, mixAdapters } from "../pipeline/index.js";
import { openAdapter, recipeOfAdapter, requireEmpty, requireWritable } from "../runs/record/index.js";
import { mixStrip } from "../runs/report/index.js";
import { type LoraAdapter, PEFT_FILE, writeKohyaLora, writePeftLora } from "../weights/lora-files.js";
import { fetchProgress } from "./fetch-progress.js";
import { interruptible } from "./interrupt.js";
import {
  annealOption,
  type CommonOptions,
  collect,
  collectSet,
  commonOptions,
  HELP,
  number,
  overridesOf,
} from "./options.js";
import { shellCommand } from "./shell.js";
import type { Terminal } from "./terminal.js";
import { count } from "./text.js";

/** Options that `evaluate` has too. */
export interface MixingOptions extends CommonOptions {
  coefficient: number;
  form: MixForm;
}

interface MixOptions extends Omit<MixingOptions, "coefficient"> {
  coefficient: number[];
  rank?: number;
  strip: boolean;
  anneal?: number;
  prompt?: string[];
  seed: number;
  model?: string;
  offline?: boolean;
  device?: string;
  precision?: string;
  threads?: string;
  set?: Override[];
  out: string;
}

const STRIP_FILE = "strip.png";

/** Maximum number of rows of the strip without `--prompt`. */
const MAX_DEFAULT_PROMPTS = 4;

export function mixCommand(root: Command, terminal: Terminal): void {
  const command = root
    .command("mix")
    .summary("mix two adapters, or one with the base model")
    .description(
      "Write an adapter whose weight change is X times that of A plus 1 - X times that of B, where X is the coefficient. " +
        "Several coefficients write a folder each, and a strip of images to compare them.",
    )
    .argument("<a>", HELP.adapter)
    .argument("<b>", "another adapter, or base for the base model")
    .requiredOption(
      "--coefficient <x...>",
      "weight of A: 1 is A alone, 0 is B alone",
      (text, before: number[] = []) => [...before, number({ min: -100, max: 100 })(text)],
    )
    .requiredOption("--out <folder>", "folder for the adapters")
    .addOption(formOption())
    .option(
      "--rank <r>",
      "reduce the mix to this rank (default: the sum of both ranks)",
      number({ min: 1, max: 4096, whole: true }),
    )
    .option("--no-strip", "do not generate the strip of images")
    .addOption(annealOption())
    .option(
      "--prompt <text>",
      "prompt of a row of the strip; repeatable (default: held-out prompts of A's run)",
      collect,
    )
    .option("--seed <n>", "seed of the images of the strip", number({ min: 0, max: 2 ** 32 - 1, whole: true }), 0)
    .option("--model <model>", "model that generates the strip (default: that of A's run, or the embedded one)")
    .option("--offline", HELP.offline)
    .option("--device <name>", HELP.device)
    .option("--precision <name>", HELP.precision)
    .option("--threads <n>", HELP.threads)
    .option("--set <path=value>", HELP.set, collectSet);
  commonOptions(command)
    .addHelpText(
      "after",
      `
Examples:
  npx alignprop mix runs/default-1 base --coefficient 0.5 --out half
  npx alignprop mix runs/aesthetic-1 runs/clip-1 --coefficient 0.7 --out both
  npx alignprop mix runs/aesthetic-1 runs/clip-1 --coefficient 0 0.25 0.5 0.75 1 --rank 4 --out slide`,
    )
    .action((a: string, b: string, options: MixOptions) => mixInto(a, b, options, terminal));
}

export function formOption(): Option {
  return new Option(
    "--form <name>",
    "linear mixes the weight changes; reference mixes the LoRA factors, as the AlignProp code does",
  )
    .choices(["linear", "reference"] satisfies MixForm[])
    .default("linear");
}

async function mixInto(a: string, b: string, options: MixOptions, terminal: Terminal): Promise<void> {
  const { form, rank, out, json } = options;
  const coefficients = [...new Set(options.coefficient)];
  if (a === "base") {
    const turned = coefficients.map((x) => String(Number((1 - x).toPrecision(6))));
    const suggestion = shellCommand("mix", b, "base", "--coefficient", ...turned, "--out", out);
    throw new InputError("usage", `mix base ${b}: the base model has to come second. Run ${suggestion}`, {
      argument: "a",
      found: a,
      suggestion,
    });
  }
  await requireEmpty(out);
  await requireWritable(out);
  const warn = (message: string) => terminal.say(`warning: ${message}`);
  const loading = options.offline ? { offline: true } : undefined;
  const opening = { loading, warn, onFetch: fetchProgress(terminal) };
  const open = (path: string) => openAdapter(path, "mix blends adapters", opening);
  const first = await open(a);
  const second = b === "base" ? b : await open(b);
  const mixes = coefficients.map((x) => mixAdapters(first, second, x, { form, rank }));
  const several = coefficients.length > 1;
  const strip =
    options.strip && (several || options.prompt !== undefined)
      ? await generateStrip({ a, coefficients, mixes }, options, terminal)
      : undefined;

  const name = basename(resolve(out));
  const files: string[] = [];
  await fillFolder(out, async (folder) => {
    for (const [i, x] of coefficients.entries()) {
      const inside = several ? String(x) : "";
      const kohya = `${name}${several ? `-${x}` : ""}${KOHYA_ENDING}`;
      await mkdir(join(folder, inside), { recursive: true });
      await writePeftLora(join(folder, inside, PEFT_FILE), mixes[i] as LoraAdapter);
      await writeKohyaLora(join(folder, inside, kohya), mixes[i] as LoraAdapter);
      files.push(join(out, inside, PEFT_FILE), join(out, inside, kohya));
    }
    if (strip) await writeFile(join(folder, STRIP_FILE), strip);
  });
  const modules = mixes[0]?.size ?? 0;
  const stripFile = strip && join(out, STRIP_FILE);
  if (json) {
    terminal.print(JSON.stringify({ out, coefficients, files, modules, strip: stripFile ?? null }));
    return;
  }
  terminal.print(`wrote ${several ? `${mixes.length} mixes` : "the mix"} of ${count(modules, "layer")} to ${out}`);
  if (stripFile) terminal.print(`images    ${stripFile}`);
}

interface Strip {
  /** The first adapter, whose run has the model and the prompts. */
  readonly a: string;
  readonly coefficients: readonly number[];
  /** One adapter per coefficient. */
  readonly mixes: readonly LoraAdapter[];
}

/** A PNG with one row per prompt and one column per coefficient. */
async function generateStrip(
  { a, coefficients, mixes }: Strip,
  options: MixOptions,
  terminal: Terminal,
): Promise<Buffer> {
  const overrides = overridesOf({
    model: options.model,
    offline: options.offline,
    device: options.device,
    precision: options.precision,
    threads: options.threads,
    set: options.set,
  });
  const warn = (message: string) => terminal.say(`warning: ${message}`);
  const settings = await loadSettings({ recipe: await recipeOfAdapter(a), overrides, warn });
  const { model, loading, device, precision, threads, sampling } = settings;
  const prompts = options.prompt ?? [...new Set(evaluationPrompts(settings))].slice(0, MAX_DEFAULT_PROMPTS);
  const columns = await interruptible(terminal, "Stopping after this batch", (signal) =>
    generateEach(
      {
        ...{ model, loading, device, precision, threads, sampling },
        images: prompts.map((prompt) => ({ prompt, seed: options.seed })),
        negative: settings.prompts.negative,
        anneal: options.anneal,
        signal,
        warn,
        onFetch: fetchProgress(terminal),
      },
      mixes,
    ),
  );
  return mixStrip(prompts, coefficients, columns);
}
