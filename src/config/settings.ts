/**
 * The settings of a run: one schema, whose keys are the keys of the YAML recipes, of `--set` and of a run's
 * `config.yaml`. The defaults are what AlignProp's published code does (K=1 release, March 2024), so an empty recipe is
 * the paper's aesthetic run.
 */
import { z } from "zod";
import { estimatorSettings } from "../estimators/index.js";
import { parseBytes } from "../io/bytes.js";
import { isRecord } from "../io/record.js";
import { defaultLoss, rewardSettings } from "../rewards/index.js";
import { trackerSettings } from "./trackers.js";

/** Of an adapter's factors. */
export const MOST_RANK = 4096;

const count = z.int().min(1).max(1_000_000_000);
const nonnegative = z.number().min(0);
const text = z.string().max(4096);
const path = text.min(1);
const promptSource = z.union([text.min(1), z.array(text).min(1).max(100_000)]);

/** What a recipe leaves out of `lora` is the starting adapter's where there is one. */
function asStarted(lora: unknown): unknown {
  return isRecord(lora) && typeof lora.start === "string" ? { rank: null, targets: null, ...lora } : lora;
}

export const settingsSchema = z.strictObject({
  /** The name of the run's folder and of its exported adapter; the recipe's own name when left out. */
  name: text
    .max(100)
    .regex(/^[\w][\w.-]*$/, "letters, digits, dots, dashes and underscores only")
    .nullable()
    .default(null),
  /** A folder in the diffusers layout, a single file in the original layout, or an id of the Hugging Face hub. */
  model: path.default("models/emoji-64"),
  /** How it is found and read, where the model alone does not say. */
  loading: z
    .strictObject({
      /** Of a hub id: a branch, a tag or a commit. */
      revision: path.nullable().default(null),
      /** Never ask the hub; only what its cache holds. */
      offline: z.boolean().default(false),
      /** What the U-Net predicts; `null`: as the model's scheduler says. */
      prediction_type: z.enum(["epsilon", "v_prediction", "sample"]).nullable().default(null),
      /** CLIP's vocabulary for a single file: a folder or a hub id. */
      tokenizer: path.nullable().default(null),
      /** A diffusers folder or hub id whose configurations and tokenizers a single file is read with. */
      config: path.nullable().default(null),
    })
    .prefault({}),
  seed: z
    .int()
    .min(0)
    .max(2 ** 32 - 1)
    .default(0),
  device: z.enum(["cpu", "cuda", "webgpu"]).default("cpu"),
  /** What the U-Net computes in; `auto`: float16 on a GPU that does, else float32. */
  precision: z.enum(["auto", "float32", "float16"]).default("auto"),
  /** `null`: as many as the machine has cores. */
  threads: count.max(1024).nullable().default(null),
  /**
   * The peak of the process's memory to stay within, such as `4GB`; what it leaves is used to spare time. `null`: half of
   * what is free when the run starts.
   */
  memory: z
    .preprocess(
      (value) => (typeof value === "string" ? (parseBytes(value) ?? value) : value),
      z.custom<number | null>((value) => value === null || (Number.isSafeInteger(value) && Number(value) > 0), {
        error: "must be a size such as 4GB or 800MiB",
      }),
    )
    .default(null),
  /** The run's folder. `null`: `runs/<name>-<n>`, the first that is free. */
  out: path.nullable().default(null),

  prompts: z
    .strictObject({
      /** A built-in list (`animals`, `held-out-animals`), a text file with a prompt a line, or the prompts themselves. */
      train: promptSource.default("animals"),
      eval: promptSource.default("held-out-animals"),
      /** The sentence around each prompt; `{}` is where it goes. */
      template: text.includes("{}", { error: "must contain {} where the prompt goes" }).default("{}"),
      negative: text.default(""),
    })
    .prefault({}),

  sampling: z
    .strictObject({
      steps: count.max(1000).default(50),
      /** 0 is deterministic DDIM, 1 has DDPM's noise. */
      eta: z.number().min(0).max(1).default(0),
      guidance_scale: nonnegative.default(7.5),
      /** Pixels; `null`: the model's own size. */
      height: count.max(8192).nullable().default(null),
      width: count.max(8192).nullable().default(null),
    })
    .prefault({}),

  /** `reward: clip` is short for `reward: { name: clip }`; a list of rewards stands for their weighted sum. */
  reward: rewardSettings.prefault("aesthetic"),

  loss: z
    .strictObject({
      /** `target` is |reward - target|, `maximize` is -reward; the mean over the batch is multiplied by `scale`. */
      form: z.enum(["target", "maximize"]).nullable().default(null),
      /** `null`, for both: as the reward is commonly trained on (`docs/rewards.md`). */
      target: z.number().nullable().default(null),
      scale: z.number().positive().default(0.01),
    })
    .prefault({}),

  /** What learns: an adapter, or every weight of the U-Net. */
  trainable: z.enum(["lora", "unet"]).default("lora"),

  lora: z
    .preprocess(
      asStarted,
      z.strictObject({
        /** An adapter to go on from: its ranks, alphas and layers are kept, and settings that are given must match. */
        start: path.nullable().default(null),
        rank: count.max(MOST_RANK).nullable().default(4),
        /** The adapter is scaled by alpha / rank; `null`: by 1. */
        alpha: z.number().positive().nullable().default(null),
        /** Groups of layers (`attention`, `feed-forward`, `projections`, `convolutions`), or ends of their names. */
        targets: z.array(text.min(1)).min(1).nullable().default(["attention"]),
      }),
    )
    .prefault({}),

  /** How a reward becomes a gradient; `estimator: ddpo` is short for `estimator: { name: ddpo }`. */
  estimator: estimatorSettings.prefault({}),

  /** A pull of the predicted noise towards the base model's, against over-optimisation (`docs/training.md`). */
  kl: z.strictObject({ weight: nonnegative.default(0) }).prefault({}),

  /** AdamW. */
  optimizer: z
    .strictObject({
      learning_rate: nonnegative.default(1e-3),
      beta1: z.number().min(0).lt(1).default(0.9),
      beta2: z.number().min(0).lt(1).default(0.999),
      epsilon: z.number().positive().default(1e-8),
      weight_decay: nonnegative.default(0.1),
      /** The L2 norm that gradients are clipped to. */
      max_grad_norm: z.number().positive().default(5),
    })
    .prefault({}),

  /** What is evaluated and exported: the weights as they are, or with a decay their moving average (`ema.ts`). */
  ema: z.strictObject({ decay: z.number().gt(0).lt(1).nullable().default(null) }).prefault({}),

  batch: z
    .strictObject({
      samples_per_epoch: count.default(256),
      /** Pictures in one update, over all devices and accumulated micro-batches. */
      total: count.default(128),
      /** Pictures that go through the model at once. */
      per_device: count.default(4),
    })
    .prefault({}),

  /** Length of the run, in training steps or in epochs. */
  train: z
    .strictObject({ steps: count.nullable().default(null), epochs: count.nullable().default(null) })
    .refine(({ steps, epochs }) => steps === null || epochs === null, {
      error: "steps and epochs are both given; keep one",
    })
    .prefault({}),

  evaluation: z
    .strictObject({
      /** In steps; the first and the last step are evaluated as well. */
      every: count.default(10),
      seeds_per_prompt: count.default(1),
      /** The noise of the evaluation, the same at every step. */
      seed: z
        .int()
        .min(0)
        .max(2 ** 32 - 1)
        .default(0),
      batch: count.default(4),
      /** A reward that nothing learns from, given as `reward` is: whether it follows tells over-optimisation from progress. */
      held_out: rewardSettings.nullable().default(null),
      /** A CLIPModel in whose eyes the pictures of a prompt are compared with each other (`diversity.ts`); `null`: they are not. */
      diversity: path.nullable().default(null),
    })
    .prefault({}),

  /** When a run ends before `train.steps`, and which checkpoint is its best (`early-stop.ts`). `null`: the highest evaluation reward is best. */
  early_stop: z
    .strictObject({
      /** The reward that has to rise: the mean over the evaluation's images. */
      monitor: z.enum(["held-out", "reward"]).default("held-out"),
      /** Number of evaluations without an improvement after which the run ends; `null`: no limit. */
      patience: count.nullable().default(3),
      /** An improvement is more than this above the best so far. */
      min_delta: nonnegative.default(0),
      /** The run ends when diversity falls below this share of the base model's. */
      min_diversity: z.number().gt(0).max(1).nullable().default(null),
    })
    .nullable()
    .default(null),

  checkpoint: z
    .strictObject({
      /** In steps; the last step and an interrupted one are saved as well. */
      every: count.default(10),
      keep_last: count.default(2),
      /** Also save whenever an evaluation is the best so far, and keep that one. */
      keep_best: z.boolean().default(true),
    })
    .prefault({}),

  /** Where a run is watched from, beside its folder: `[tensorboard, { name: mlflow, uri: … }]`. */
  trackers: trackerSettings.prefault([]),
});

type Parsed = z.output<typeof settingsSchema>;

/** A run's settings with nothing left to look up: prompts are lists, epochs have become updates, the run has a name. */
export type Settings = Omit<Parsed, "name" | "prompts" | "train" | "loss"> & {
  loss: { form: "target" | "maximize"; target: number; scale: number };
  name: string;
  prompts: { train: string[]; eval: string[]; template: string; negative: string };
  train: { steps: number };
};

/** What may be written in a recipe. */
export type SettingsInput = z.input<typeof settingsSchema>;
export type ParsedSettings = Parsed;

/** The loss that a recipe asks for, or leaves to its reward. A target alone says the form. */
export function resolvedLoss({ loss, reward }: Pick<Parsed, "loss" | "reward">): Settings["loss"] {
  const usual = defaultLoss(reward);
  const form = loss.form ?? (loss.target === null ? usual.form : "target");
  return { form, target: loss.target ?? usual.target, scale: loss.scale };
}

/** Some sections of the settings. A function takes the sections that it needs. */
export type SettingsPart<K extends keyof Settings> = Pick<Settings, K>;
export type ModelSettings = Pick<Settings, "model"> & { readonly loading?: LoadingSettings };
export type LoadingSettings = Settings["loading"];
export type SamplingSettings = Settings["sampling"];
export type BatchSettings = Settings["batch"];
export type LossSettings = Settings["loss"];
export type EarlyStopSettings = NonNullable<Settings["early_stop"]>;
export type DeviceSettings = Pick<Settings, "device" | "threads">;
