/**
 * The model card of a checkpoint: a `README.md` with the metadata of the Hugging Face hub, results, and instructions
 * for use. It is made from the run's folder, and its images are copied beside it, so that the checkpoint's folder is
 * self-contained.
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

/** Keeps every string on one line, so that none can end the YAML block around it. */
const YAML = { lineWidth: 0, blockQuote: false } as const;

/** Limits the length of the card. */
const MAX = { images: 6, rows: 12 };

/** Writes the model card of a checkpoint and its images, with the results up to that step. */
export async function writeModelCard(run: string, step: number): Promise<void> {
  const folder = checkpointFolder(run, step);
  const evaluations = (await readEvaluations(run)).filter((evaluation) => evaluation.step <= step);
  const shown = evaluations.at(-1);
  const samples = shown === undefined ? [] : evenly(await readSamples(run, shown.step), MAX.images);
  const images = samples.map((sample, i) => ({
    ...sample,
    url: `${cardFiles.images}/${imageFileName(sample.prompt, i)}`,
  }));
  if (shown !== undefined) {
    await writeFolderAtomic(join(folder, cardFiles.images), async (imageFolder) => {
      for (const { file, url } of images) {
        await copyFile(join(samplesFolder(run, shown.step), basename(file)), join(imageFolder, basename(url)));
      }
    });
  }
  const card = renderCard({
    step,
    settings: await loadSettings({ recipe: join(run, runFiles.config) }),
    metrics: (await readMetrics(run)).filter((row) => row.step <= step),
    evaluations,
    images,
    kohya: (await readdir(folder)).find((name) => name.endsWith(".kohya.safetensors")),
  });
  await writeFileAtomic(join(folder, cardFiles.card), card);
}

interface Card {
  readonly step: number;
  readonly settings: RunRecord["settings"];
  readonly metrics: readonly StepMetrics[];
  /** Evaluations up to this step. The first one is of the base model. */
  readonly evaluations: readonly EvaluationRecord[];
  /** `url` is relative to the card. */
  readonly images: readonly (SampleEntry & { readonly url: string })[];
  /** Name of the file in kohya's format, if there is one. */
  readonly kohya: string | undefined;
}

function renderCard(card: Card): string {
  const { settings, step } = card;
  const { name, reward } = settings;
  const training = `${step} ${step === 1 ? "step" : "steps"} of ${settings.batch.total} images`;
  return `---
${frontMatter(card)}---

# ${name}

${settings.trainable === "unet" ? `The U-Net of ${code(modelName(settings))}` : `A LoRA adapter for ${code(modelName(settings))}`} that was fine-tuned on the **${rewardTitle(reward)}** reward with AlignProp, which
back-propagates the reward through the denoising chain ([Prabhudesai et al. 2023](https://arxiv.org/abs/2310.03739)). It was
trained for ${training}.

${outcome(card)}${gallery(card)}${curve(card)}${usage(card)}## Settings

\`\`\`yaml
${stringify(settingsOf(settings), YAML)}\`\`\`
`;
}

/** The hub's metadata (huggingface.co/docs/hub/model-cards). Only the user can choose the license. */
function frontMatter({ settings: { model, trainable }, images }: Card): string {
  const whole = trainable === "unet";
  const onHub = hubId(model);
  const metadata = {
    ...(onHub !== undefined && { base_model: onHub, base_model_relation: whole ? "finetune" : "adapter" }),
    library_name: "diffusers",
    pipeline_tag: "text-to-image",
    tags: ["text-to-image", "diffusers", ...(whole ? [] : ["lora"]), "stable-diffusion", "alignprop"],
    instance_prompt: null,
    ...(images.length > 0 && { widget: images.map(({ prompt, url }) => ({ text: prompt, output: { url } })) }),
  };
  const unknown = onHub === undefined ? "# base_model: the id of the base model on the hub\n" : "";
  const license = "# license: choose one that the license of the base model allows\n";
  return `${stringify(metadata, YAML)}${unknown}${license}`;
}

/** The model's id on the hub; undefined if the setting is a path. */
function hubId(model: string): string | undefined {
  return /^[\w-][\w.-]*\/[\w-][\w.-]*$/.test(model) && !existsSync(locate(model)) ? model : undefined;
}

/** The model's id, or the name of its folder. The card does not reveal paths of this machine. */
function modelName({ model }: SettingsPart<"model">): string {
  return hubId(model) ?? basename(model);
}

function outcome({ evaluations, settings }: Card): string {
  const [before, after] = [evaluations[0], evaluations.at(-1)];
  if (before === undefined || after === undefined || before === after) return "";
  return (
    `On the evaluation prompts, sampled from the same noise, the ${rewardTitle(settings.reward)} reward went from ${spread(before)} ` +
    `to ${spread(after)} (mean ± standard deviation over the images).${monitored(before, after, settings)}\n\n`
  );
}

/** Changes of the held-out reward and the diversity: a higher reward alone does not mean better images. */
function monitored(before: EvaluationRecord, after: EvaluationRecord, settings: RunRecord["settings"]): string {
  const held =
    before.heldOut && after.heldOut
      ? ` On the same images ${monitorTitle("held-out", settings)}, which was not trained on, went from ${format(before.heldOut.mean)} to ${format(after.heldOut.mean)}.`
      : "";
  const diverse =
    before.diversity && after.diversity
      ? ` Their diversity (mean cosine distance of the CLIP embeddings of a prompt's images) went from ${format(before.diversity.mean)} to ${format(after.diversity.mean)}.`
      : "";
  return held + diverse;
}

function gallery({ images, settings }: Card): string {
  if (images.length === 0) return "";
  const rows = images.map(
    ({ url, prompt, seed, reward }) =>
      `| ![${markdown(prompt)}](${encodeURI(url)}) | ${markdown(prompt)} | ${seed} | ${format(reward)} |`,
  );
  return `## Images\n\n| | prompt | seed | ${rewardTitle(settings.reward)} |\n| --- | --- | --- | --- |\n${rows.join("\n")}\n\n`;
}

function curve({ metrics, evaluations }: Card): string {
  const evaluated = new Map(evaluations.map((evaluation) => [evaluation.step, evaluation]));
  const first = evaluated.get(0);
  const rows = evenly(metrics, MAX.rows).map((row) => {
    const evaluation = evaluated.get(row.step);
    const training = spread({ mean: row.reward_mean, std: row.reward_std });
    return `| ${row.step} | ${training} | ${evaluation === undefined ? "" : spread(evaluation)} | ${format(row.loss)} |`;
  });
  if (first !== undefined) rows.unshift(`| 0 | | ${spread(first)} | |`);
  if (rows.length === 0) return "";
  return `## Reward\n\n| step | training | evaluation | loss |\n| --- | --- | --- | --- |\n${rows.join("\n")}\n\n`;
}

function usage({ settings, images, kohya }: Card): string {
  const { prompts, sampling } = settings;
  const model = hubId(settings.model) ?? `path/to/${modelName(settings)}`;
  const { prompt, seed } = images[0] ?? { prompt: prompts.eval[0] ?? "", seed: 0 };
  const python = (value: string) => JSON.stringify(value);
  const negative = prompts.negative === "" ? "" : `\n    negative_prompt=${python(prompts.negative)},`;
  const size = [
    ...(sampling.height === null ? [] : [`height=${sampling.height}`]),
    ...(sampling.width === null ? [] : [`width=${sampling.width}`]),
  ].join(", ");
  const others =
    kohya === undefined
      ? ""
      : `### ComfyUI and A1111

In ComfyUI, put \`${kohya}\` into \`models/loras\` and load it with "Load LoRA". In A1111, put it into \`models/Lora\` and write
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

/**
 * The settings that determine the result, as in the run's `config.yaml`, but with the number of prompts instead of a
 * list.
 */
function settingsOf(settings: RunRecord["settings"]) {
  const { seed, prompts, sampling, loss, trainable, lora, estimator, optimizer, ema, batch } = settings;
  // Only the file name of `start`: the card does not reveal paths of this machine.
  const { start, ...adapter } = lora;
  const loraSettings =
    trainable === "unet" ? {} : { lora: { ...adapter, ...(start !== null && { start: basename(start) }) } };
  const { template, negative } = prompts;
  const [model, reward] = [modelName(settings), rewardTitle(settings.reward)];
  const counts = { train: `${prompts.train.length} prompts`, eval: `${prompts.eval.length} prompts` };
  const shown = { ...counts, template, negative };
  const emaSettings = ema.decay === null ? {} : { ema };
  return {
    ...{ model, seed, prompts: shown, sampling, reward, loss, trainable, ...loraSettings, estimator, optimizer },
    ...{ ...emaSettings, batch },
  };
}

const spread = ({ mean, std }: { mean: number; std: number }) => `${format(mean)} ± ${format(std)}`;

const code = (text: string) => `\`${text.replaceAll("`", "'")}\``;

/** Escapes the special characters of Markdown and puts the text on one line. */
function markdown(text: string): string {
  return text.replaceAll(/\s+/g, " ").replaceAll(/[\\`*_{}[\]<>()#+!|~&$-]/g, "\\$&");
}

/** Quotes an argument for a POSIX shell and puts it on one line. */
const shell = (text: string) => `'${text.replaceAll(/\s+/g, " ").replaceAll("'", "'\\''")}'`;
