import { basename, join, resolve } from "node:path";
import { type Command, Option } from "commander";
import { fillFolder } from "../runs/atomic-folder.js";
import { openAdapter } from "../runs/checkpoints.js";
import { requireEmpty, requireWritable } from "../runs/output-folder.js";
import { InputError } from "../tensor/errors.js";
import { type MixForm, mixAdapters } from "../train/mix.js";
import { PEFT_FILE, writeKohyaLora, writePeftLora } from "../weights/lora-files.js";
import { type CommonOptions, commonOptions, number } from "./options.js";
import type { Terminal } from "./terminal.js";

export interface MixOptions extends CommonOptions {
  coefficient: number;
  form: MixForm;
}

export function mixCommand(root: Command, terminal: Terminal): void {
  const command = root
    .command("mix")
    .summary("blend two adapters, or one with the base model")
    .description("Write the adapter that changes the weights by X times what A does plus 1 - X times what B does.")
    .argument("<a>", "a run, one of its checkpoints, or a LoRA file")
    .argument("<b>", "another one, or base: the model without an adapter")
    .requiredOption("--coefficient <x>", "the share of A: 1 is all of it", number({ min: -100, max: 100 }))
    .requiredOption("--out <folder>", "where the adapter goes")
    .addOption(formOption());
  commonOptions(command)
    .addHelpText(
      "after",
      `
Examples:
  alignprop mix runs/default-1 base --coefficient 0.5 --out half
  alignprop mix runs/aesthetic-1 runs/clip-1 --coefficient 0.7 --out both`,
    )
    .action((a: string, b: string, options: MixOptions & { out: string }) => mixInto(a, b, options, terminal));
}

export function formOption(): Option {
  return new Option(
    "--form <name>",
    "linear mixes the changes of the weights, reference the factors as AlignProp's code",
  )
    .choices(["linear", "reference"] satisfies MixForm[])
    .default("linear");
}

async function mixInto(a: string, b: string, options: MixOptions & { out: string }, terminal: Terminal): Promise<void> {
  const { coefficient, form, out, json } = options;
  if (a === "base") {
    const instead = `alignprop mix ${b} base --coefficient ${Number((1 - coefficient).toPrecision(6))}`;
    throw new InputError(`mix base ${b}: the base model has no adapter and comes second; try ${instead}`);
  }
  await requireEmpty(out);
  await requireWritable(out);
  const first = await openAdapter(a);
  const mixed = mixAdapters(first, b === "base" ? b : await openAdapter(b), coefficient, { form });
  const names = [PEFT_FILE, `${basename(resolve(out))}.kohya.safetensors`] as const;
  await fillFolder(out, async (folder) => {
    await writePeftLora(join(folder, names[0]), mixed);
    await writeKohyaLora(join(folder, names[1]), mixed);
  });
  const files = names.map((name) => join(out, name));
  if (json) terminal.print(JSON.stringify({ out, files, modules: mixed.size }));
  else terminal.print(`wrote the mix of ${mixed.size} layers to ${out}`);
}
