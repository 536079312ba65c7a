import { mkdir, writeFile } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { type Command, Option } from "commander";
import { evaluationPrompts, loadSettings } from "../config/index.js";
import { InputError } from "../errors/index.js";
import { fillFolder } from "../io/atomic-folder.js";
import { generateEach, KOHYA_ENDING, type MixForm, mixAdapters } from "../pipeline/index.js";
import { openAdapter, recipeOfAdapter, requireEmpty, requireWritable } from "../runs/record/index.js";
import { mixStrip } from "../runs/report/index.js";
import { type LoraAdapter, PEFT_FILE, writeKohyaLora, writePeftLora } from "../weights/lora-files.js";
import { fetchProgress } from "./fetch-progress.js";
import { interruptible } from "./interrupt.js";
import { annealOption, type CommonOptions, commonOptions, number, overridesOf, PRECISION } from "./options.js";
import type { Terminal } from "./terminal.js";

/** Those that `evaluate` has as well. */
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
  out: string;
}

const STRIP_FILE = "strip.png";

/** Rows of a strip that nobody named prompts for. */
const MOST_PROMPTS = 4;

export function mixCommand(root: Command, terminal: Terminal): void {
  const command = root
    .command("mix")
    .summary("blend two adapters, or one with the base model")
    .description(
      "Write the adapter that changes the weights by X times what A does plus 1 - X times what B does. " +
        "The coefficient weighs A, the first one. Several coefficients give a folder each, and a strip of pictures.",
    )
    .argument("<a>", "a run (its best checkpoint), one of its checkpoints, or a LoRA file")
    .argument("<b>", "another one, or base: the model without an adapter")
    .requiredOption(
      "--coefficient <x...>",
      "the share of A: 1 is all of A and nothing of B, 0 the other way round",
      (text, before: number[] = []) => [...before, number({ min: -100, max: 100 })(text)],
    )
    .requiredOption("--out <folder>", "where the adapters go")
    .addOption(formOption())
    .option(
      "--rank <r>",
      "cut the mix to this rank (default: the sum of both ranks)",
      number({ min: 1, max: 4096, whole: true }),
    )
    .option("--no-strip", "draw no pictures")
    .addOption(annealOption())
    .option(
      "--prompt <text>",
      "a row of the strip; may be repeated (default: the run's held-out ones)",
      (text, before: string[] = []) => [...before, text],
    )
    .option("--seed <n>", "the strip's noise", number({ min: 0, max: 2 ** 32 - 1, whole: true }), 0)
    .option("--model <model>", "what the strip is drawn with (default: A's model, or the embedded one)")
    .option("--offline", "take models of the hub from its cache alone")
    .option("--device <name>", "cpu, cuda or webgpu")
    .option("--precision <name>", PRECISION)
    .option("--threads <n>", "processor threads (default: one per core)");
  commonOptions(command)
    .addHelpText(
      "after",
      `
Examples:
  alignprop mix runs/default-1 base --coefficient 0.5 --out half
  alignprop mix runs/aesthetic-1 runs/clip-1 --coefficient 0.7 --out both     0.7 of the first, 0.3 of the second
  alignprop mix runs/aesthetic-1 runs/clip-1 --coefficient 0 0.25 0.5 0.75 1 --rank 4 --out slide`,
    )
    .action((a: string, b: string, options: MixOptions) => mixInto(a, b, options, terminal));
}

export function formOption(): Option {
  return new Option(
    "--form <name>",
    "linear mixes the changes of the weights, reference the factors as AlignProp's code",
  )
    .choices(["linear", "reference"] satisfies MixForm[])
    .default("linear");
}

async function mixInto(a: string, b: string, options: MixOptions, terminal: Terminal): Promise<void> {
  const { form, rank, out, json } = options;
  const coefficients = [...new Set(options.coefficient)];
  if (a === "base") {
    const turned = coefficients.map((x) => Number((1 - x).toPrecision(6))).join(" ");
    const instead = `alignprop mix ${b} base --coefficient ${turned}`;
    throw new InputError("usage", `mix base ${b}: the base model has no adapter and comes second; try ${instead}`);
  }
  await requireEmpty(out);
  await requireWritable(out);
  const warn = (message: string) => terminal.say(`warning: ${message}`);
  const open = (path: string) => openAdapter(path, "mix blends adapters", warn);
  const first = await open(a);
  const second = b === "base" ? b : await open(b);
  const mixes = coefficients.map((x) => mixAdapters(first, second, x, { form, rank }));
  const several = coefficients.length > 1;
  const strip =
    options.strip && (several || options.prompt !== undefined)
      ? await drawStrip(a, coefficients, mixes, options, terminal)
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
  const picture = strip && join(out, STRIP_FILE);
  if (json) {
    terminal.print(JSON.stringify({ out, coefficients, files, modules, strip: picture ?? null }));
    return;
  }
  terminal.print(`wrote ${several ? `${mixes.length} mixes` : "the mix"} of ${modules} layers to ${out}`);
  if (picture) terminal.print(`pictures  ${picture}`);
}

/** A row for each prompt, a column for each coefficient. */
async function drawStrip(
  a: string,
  coefficients: readonly number[],
  mixes: readonly LoraAdapter[],
  options: MixOptions,
  terminal: Terminal,
): Promise<Buffer> {
  const overrides = overridesOf({
    model: options.model,
    offline: options.offline,
    device: options.device,
    precision: options.precision,
    threads: options.threads,
  });
  const warn = (message: string) => terminal.say(`warning: ${message}`);
  const settings = await loadSettings({ recipe: await recipeOfAdapter(a), overrides, warn });
  const { model, loading, device, precision, threads, sampling } = settings;
  const prompts = options.prompt ?? [...new Set(evaluationPrompts(settings))].slice(0, MOST_PROMPTS);
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
