/**
 * `README.md` beside an adapter: what the Hugging Face hub shows of it, and what a person needs to use it. It is made from
 * the run's folder alone, and its pictures lie beside it, so that the checkpoint's folder can go anywhere.
 */

import { existsSync } from "node:fs";
import { copyFile, readdir } from "node:fs/promises";
import { basename, join } from "node:path";
import { stringify } from "yaml";
import { loadSettings, type SettingsPart } from "../../config/index.js";
import { writeFileAtomic } from "../../io/atomic.js";
import { writeFolderAtomic } from "../../io/atomic-folder.js";
import { locate } from "../../io/package.js";
import { rewardTitle } from "../../rewards/index.js";
import type { StepMetrics } from "../../train/index.js";
import { PEFT_FILE } from "../../weights/lora-files.js";
import {
  cardFiles,
  checkpointFolder,
  type EvaluationRecord,
  evenly,
  imageFileName,
  type RunRecord,
  readEvaluations,
  readMetrics,
  readSamples,
  runFiles,
  type SampleEntry,
  samplesFolder,
} from "../record/index.js";
import { format, monitorTitle } from "../report/index.js";

/** Texts stay on one line, so that none can end the block that it stands in. */
const YAML = { lineWidth: 0, blockQuote: false } as const;

/** A card is looked at, not studied. */
const most = { pictures: 6, rows: 12 };

/** Writes the card of the checkpoint of `step`. */
export async function writeModelCard(run: string, step: number): Promise<void> {
  const folder = checkpointFolder(run, step);
  const evaluations = (await readEvaluations(run)).filter((evaluation) => evaluation.step <= step);
  const shown = evaluations.at(-1);
  const samples = shown === undefined ? [] : evenly(await readSamples(run, shown.step), most.pictures);
  const pictures = samples.map((sample, i) => ({
    ...sample,
    url: `${cardFiles.images}/${imageFileName(sample.prompt, i)}`,
  }));
  if (shown !== undefined) {
    await writeFolderAtomic(join(folder, cardFiles.images), async (images) => {
      for (const { file, url } of pictures) {
        await copyFile(join(samplesFolder(run, shown.step), basename(file)), join(images, basename(url)));
      }
    });
  }
  const card = renderCard({
    step,
    settings: await loadSettings({ recipe: join(run, runFiles.config) }),
    metrics: (await readMetrics(run)).filter((row) => row.step <= step),
    evaluations,
    pictures,
    kohya: (await readdir(folder)).find((name) => name.endsWith(".kohya.safetensors")),
  });
  await writeFileAtomic(join(folder, cardFiles.card), card);
}

interface Card {
  readonly step: number;
  readonly settings: RunRecord["settings"];
  readonly metrics: readonly StepMetrics[];
  /** Up to this step; the first is the model as it was. */
  readonly evaluations: readonly EvaluationRecord[];
  readonly pictures: readonly (SampleEntry & { readonly url: string })[];
  readonly kohya: string | undefined;
}

export function renderCard(card: Card): string {
  const { settings, step } = card;
  const { name, reward } = settings;
  const updates = `${step} ${step === 1 ? "update" : "updates"} of ${settings.batch.total} pictures`;
  return `---
${frontMatter(card)}---

# ${name}

${settings.trainable === "unet" ? `The U-Net of ${code(modelName(settings))}` : `A LoRA adapter for ${code(modelName(settings))}`} that was fine-tuned on the **${rewardTitle(reward)}** reward with AlignProp: the gradient of the
reward, sent back through the denoising chain ([Prabhudesai et al. 2023](https://arxiv.org/abs/2310.03739)). It has had
${updates}.

${outcome(card)}${gallery(card)}${curve(card)}${usage(card)}## Settings

\`\`\`yaml
${stringify(settingsOf(settings), YAML)}\`\`\`
`;
}

/** The hub's metadata (huggingface.co/docs/hub/model-cards). The licence is not ours to choose. */
function frontMatter({ settings: { model, trainable }, pictures }: Card): string {
  const whole = trainable === "unet";
  const onHub = hubId(model);
  const metadata = {
    ...(onHub !== undefined && { base_model: onHub, base_model_relation: whole ? "finetune" : "adapter" }),
    library_name: "diffusers",
    pipeline_tag: "text-to-image",
    tags: ["text-to-image", "diffusers", ...(whole ? [] : ["lora"]), "stable-diffusion", "alignprop"],
    instance_prompt: null,
    ...(pictures.length > 0 && { widget: pictures.map(({ prompt, url }) => ({ text: prompt, output: { url } })) }),
  };
  const unknown = onHub === undefined ? "# base_model: the id of the base model on the hub\n" : "";
  const licence = "# license: yours to name, within what the base model's licence allows\n";
  return `${stringify(metadata, YAML)}${unknown}${licence}`;
}

/** The model as the hub names it, where it was named so. */
function hubId(model: string): string | undefined {
  return /^[\w-][\w.-]*\/[\w-][\w.-]*$/.test(model) && !existsSync(locate(model)) ? model : undefined;
}

/** Where a folder lies on this machine is nobody's business. */
function modelName({ model }: SettingsPart<"model">): string {
  return hubId(model) ?? basename(model);
}

function outcome({ evaluations, settings }: Card): string {
  const [before, after] = [evaluations[0], evaluations.at(-1)];
  if (before === undefined || after === undefined || before === after) return "";
  return (
    `On the evaluation's prompts, drawn on the same noise, the ${rewardTitle(settings.reward)} reward went from ${spread(before)} ` +
    `to ${spread(after)} (mean ± standard deviation over the pictures).${watched(before, after, settings)}\n\n`
  );
}

/** What was not trained, so that nobody takes a reward alone for quality. */
function watched(before: EvaluationRecord, after: EvaluationRecord, settings: RunRecord["settings"]): string {
  const held =
    before.heldOut && after.heldOut
      ? ` On the same pictures ${monitorTitle("held-out", settings)}, which nothing was trained on, went from ${format(before.heldOut.mean)} to ${format(after.heldOut.mean)}.`
      : "";
  const diverse =
    before.diversity && after.diversity
      ? ` Their diversity (mean cosine distance of the CLIP embeddings of a prompt's pictures) went from ${format(before.diversity.mean)} to ${format(after.diversity.mean)}.`
      : "";
  return held + diverse;
}

function gallery({ pictures, settings }: Card): string {
  if (pictures.length === 0) return "";
  const rows = pictures.map(
    ({ url, prompt, seed, reward }) =>
      `| ![${markdown(prompt)}](${encodeURI(url)}) | ${markdown(prompt)} | ${seed} | ${format(reward)} |`,
  );
  return `## Pictures\n\n| | prompt | seed | ${rewardTitle(settings.reward)} |\n| --- | --- | --- | --- |\n${rows.join("\n")}\n\n`;
}

function curve({ metrics, evaluations }: Card): string {
  const evaluated = new Map(evaluations.map((evaluation) => [evaluation.step, evaluation]));
  const first = evaluated.get(0);
  const rows = evenly(metrics, most.rows).map((row) => {
    const evaluation = evaluated.get(row.step);
    const training = spread({ mean: row.reward_mean, std: row.reward_std });
    return `| ${row.step} | ${training} | ${evaluation === undefined ? "" : spread(evaluation)} | ${format(row.loss)} |`;
  });
  if (first !== undefined) rows.unshift(`| 0 | | ${spread(first)} | |`);
  if (rows.length === 0) return "";
  return `## Reward\n\n| update | training | evaluation | loss |\n| --- | --- | --- | --- |\n${rows.join("\n")}\n\n`;
}

function usage({ settings, pictures, kohya }: Card): string {
  const { prompts, sampling } = settings;
  const model = hubId(settings.model) ?? `path/to/${modelName(settings)}`;
  const { prompt, seed } = pictures[0] ?? { prompt: prompts.eval[0] ?? "", seed: 0 };
  const python = (text: string) => JSON.stringify(text);
  const negative = prompts.negative === "" ? "" : `\n    negative_prompt=${python(prompts.negative)},`;
  const size = [
    ...(sampling.height === null ? [] : [`height=${sampling.height}`]),
    ...(sampling.width === null ? [] : [`width=${sampling.width}`]),
  ].join(", ");
  const others =
    kohya === undefined
      ? ""
      : `### ComfyUI and A1111

Put \`${kohya}\` into ComfyUI's \`models/loras\` and load it with "Load LoRA", or into A1111's \`models/Lora\` and write
\`<lora:${kohya.replace(/\.safetensors$/, "")}:1>\` into the prompt. Sample with DDIM, ${sampling.steps} steps, CFG ${sampling.guidance_scale}.

`;
  const loading =
    settings.trainable === "unet"
      ? `unet = UNet2DConditionModel.from_pretrained(".", subfolder="unet")  # this folder, or its id on the hub
pipe = DiffusionPipeline.from_pretrained(${python(model)}, unet=unet)
pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)`
      : `pipe = DiffusionPipeline.from_pretrained(${python(model)})
pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
pipe.load_lora_weights(".", weight_name=${python(PEFT_FILE)})  # this folder, or its id on the hub`;
  const classes = [
    "DDIMScheduler",
    "DiffusionPipeline",
    ...(settings.trainable === "unet" ? ["UNet2DConditionModel"] : []),
  ];
  return `## How to use it

### diffusers

\`\`\`python
import torch
from diffusers import ${classes.join(", ")}

${loading}
image = pipe(
    ${python(prompt)},${negative}
    num_inference_steps=${sampling.steps},
    guidance_scale=${sampling.guidance_scale},
    eta=${sampling.eta},${size === "" ? "" : `\n    ${size},`}
    generator=torch.Generator("cpu").manual_seed(${seed}),
).images[0]
\`\`\`

${others}### alignprop

\`\`\`sh
alignprop generate --adapter . --model ${shell(model)} --prompt ${shell(prompt)} --seed ${seed} --steps ${sampling.steps} --guidance ${sampling.guidance_scale}
\`\`\`

`;
}

/** What decides what was learnt, as in the run's `config.yaml`, but for lists of prompts that may be long. */
function settingsOf(settings: RunRecord["settings"]) {
  const { seed, prompts, sampling, loss, trainable, lora, estimator, optimizer, ema, batch } = settings;
  // The adapter's own file says where it started; where that lay on this machine, nobody needs to know.
  const { start, ...adapter } = lora;
  const learnt =
    trainable === "unet" ? {} : { lora: { ...adapter, ...(start !== null && { start: basename(start) }) } };
  const { template, negative } = prompts;
  const [model, reward] = [modelName(settings), rewardTitle(settings.reward)];
  const counted = { train: `${prompts.train.length} prompts`, eval: `${prompts.eval.length} prompts` };
  const shown = { ...counted, template, negative };
  const averaged = ema.decay === null ? {} : { ema };
  return {
    ...{ model, seed, prompts: shown, sampling, reward, loss, trainable, ...learnt, estimator, optimizer },
    ...{ ...averaged, batch },
  };
}

const spread = ({ mean, std }: { mean: number; std: number }) => `${format(mean)} ± ${format(std)}`;

const code = (text: string) => `\`${text.replaceAll("`", "'")}\``;

/** Text that Markdown leaves as it is, on one line. */
function markdown(text: string): string {
  return text.replaceAll(/\s+/g, " ").replaceAll(/[\\`*_{}[\]<>()#+!|~&$-]/g, "\\$&");
}

/** One argument of a POSIX shell, on one line. */
const shell = (text: string) => `'${text.replaceAll(/\s+/g, " ").replaceAll("'", "'\\''")}'`;
