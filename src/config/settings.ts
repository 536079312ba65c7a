/**
 * The settings of a run. The keys of this schema are the keys of recipes (YAML), of `--set` and of a run's `config.yaml`. The
 * defaults are those of AlignProp's published code (K=1 release, March 2024), so an empty recipe is the paper's aesthetic run.
 */
import { z } from "zod";
import { estimatorSettings } from "../estimators/index.js";
import { parseBytes } from "../io/bytes.js";
import { isRecord } from "../io/record.js";
import { defaultLoss, rewardSettings } from "../rewards/index.js";
import { trackerSettings } from "./trackers.js";

/** The largest rank of an adapter. */
export const MOST_RANK = 4096;

const count = z.int().min(1).max(1_000_000_000);
const nonnegative = z.number().min(0);
const seed = z
  .int()
  .min(0)
  .max(2 ** 32 - 1);
const string = z.string().max(4096);
const path = string.min(1);
const promptSource = z.union([string.min(1), z.array(string).min(1).max(100_000)]);

/** With a starting adapter, settings that the recipe leaves out are those of that adapter. */
function withDefaultsOfStart(lora: unknown): unknown {
  return isRecord(lora) && typeof lora.start === "string" ? { rank: null, targets: null, ...lora } : lora;
}

export const settingsSchema = z.strictObject({
  /** Name of the run's folder and of its exported adapter. `null`: the file name of the recipe. */
  name: string
    .max(100)
    .regex(/^[\w][\w.-]*$/, "letters, digits, dots, dashes and underscores only")
    .nullable()
    .default(null),
  /** The model: a folder in the diffusers layout, a single file in the original layout, or an id of the Hugging Face hub. */
  model: path.default("models/emoji-64"),
  /** How the model is found and read. */
  loading: z
    .strictObject({
      /** Branch, tag or commit of a hub id. `null`: the one in the id, or `main`. */
      revision: path.nullable().default(null),
      /** Use only files that the hub's cache has already. */
      offline: z.boolean().default(false),
      /** What the U-Net predicts. `null`: as the model's scheduler configuration says. */
      prediction_type: z.enum(["epsilon", "v_prediction", "sample"]).nullable().default(null),
      /** CLIP's tokenizer for a single file: a folder or a hub id. `null`: the one beside the file, or else the hub's. */
      tokenizer: path.nullable().default(null),
      /**
       * Model with the configurations and tokenizers for a single file: a diffusers folder or a hub id. `null`: the
       * configurations are derived from the file's tensors.
       */
      config: path.nullable().default(null),
    })
    .prefault({}),
  /** Seed of all random numbers in training: initial adapter, prompts, noise and truncation. */
  seed: seed.default(0),
  /** Where the model runs: the CPU, an NVIDIA GPU with CUDA, or any GPU with WebGPU. */
  device: z.enum(["cpu", "cuda", "webgpu"]).default("cpu"),
  /** Floating-point type in which the U-Net computes. `auto`: float16 on a GPU that supports it, otherwise float32. */
  precision: z.enum(["auto", "float32", "float16"]).default("auto"),
  /** Number of CPU threads. `null`: one per core. */
  threads: count.max(1024).nullable().default(null),
  /**
   * Limit of the process's peak memory, in bytes or as a size such as `4GB`. Memory that is left over stores residuals of U-Net
   * calls, so that their forward pass is not recomputed. `null`: half of the memory that is free when the run starts.
   */
  memory: z
    .preprocess(
      (value) => (typeof value === "string" ? (parseBytes(value) ?? value) : value),
      z.custom<number | null>((value) => value === null || (Number.isSafeInteger(value) && Number(value) > 0), {
        error: "must be a size such as 4GB or 800MiB",
      }),
    )
    .default(null),
  /** The run's folder. `null`: `runs/<name>-<n>` with the first free number. */
  out: path.nullable().default(null),

  prompts: z
    .strictObject({
      /**
       * Training prompts: a built-in list (`animals`, `held-out-animals`), a text file with one prompt per line, or a list of
       * prompts.
       */
      train: promptSource.default("animals"),
      /** Prompts of the evaluations, given like `train`. */
      eval: promptSource.default("held-out-animals"),
      /** Text around each prompt. `{}` stands for the prompt. */
      template: string.includes("{}", { error: "must contain {} where the prompt goes" }).default("{}"),
      /** Negative prompt of classifier-free guidance. An empty one means none. */
      negative: string.default(""),
    })
    .prefault({}),

  sampling: z
    .strictObject({
      /** Number of denoising steps. */
      steps: count.max(1000).default(50),
      /** Noise of the DDIM sampler: 0 is deterministic, 1 adds as much noise as DDPM. */
      eta: z.number().min(0).max(1).default(0),
      /** Scale of classifier-free guidance. Up to 1, there is no guidance. */
      guidance_scale: nonnegative.default(7.5),
      /** Height of the images in pixels. `null`: the height that the model was trained at. */
      height: count.max(8192).nullable().default(null),
      /** Width of the images in pixels. `null`: the width that the model was trained at. */
      width: count.max(8192).nullable().default(null),
    })
    .prefault({}),

  /** The reward to train on. `reward: clip` is short for `reward: { name: clip }`. A list of rewards is their weighted sum. */
  reward: rewardSettings.prefault("aesthetic"),

  loss: z
    .strictObject({
      /** `target` is |reward − target|, `maximize` is −reward. `null`: the usual form of the reward (`docs/rewards.md`). */
      form: z.enum(["target", "maximize"]).nullable().default(null),
      /** Value that the reward should reach, in the reward's unit. `null`: the usual target of the reward. */
      target: z.number().nullable().default(null),
      /** Factor of the loss. */
      scale: z.number().positive().default(0.01),
    })
    .prefault({}),

  /** The trainable parameters: a LoRA adapter, or all weights of the U-Net. */
  trainable: z.enum(["lora", "unet"]).default("lora"),

  lora: z
    .preprocess(
      withDefaultsOfStart,
      z.strictObject({
        /**
         * An adapter to start from. It keeps its ranks, alphas and layers; `rank`, `alpha` and `targets` must match if given.
         * `null`: a new adapter.
         */
        start: path.nullable().default(null),
        /** Rank of the factors. `null`: that of the starting adapter. */
        rank: count.max(MOST_RANK).nullable().default(4),
        /** The adapter's output is scaled by alpha / rank. `null`: the scale is 1, or that of the starting adapter. */
        alpha: z.number().positive().nullable().default(null),
        /**
         * The layers to adapt: groups (`attention`, `feed-forward`, `projections`, `convolutions`) or the ends of layer names.
         * `null`: those of the starting adapter.
         */
        targets: z.array(string.min(1)).min(1).nullable().default(["attention"]),
      }),
    )
    .prefault({}),

  /** How rewards become a gradient (`docs/training.md`). `estimator: ddpo` is short for `estimator: { name: ddpo }`. */
  estimator: estimatorSettings.prefault({}),

  /** Penalty against over-optimization: the distance of the predicted noise from the base model's (`docs/training.md`). */
  kl: z
    .strictObject({
      /** Factor of the penalty in the loss. 0 means none. */
      weight: nonnegative.default(0),
    })
    .prefault({}),

  /** The AdamW optimizer. */
  optimizer: z
    .strictObject({
      learning_rate: nonnegative.default(1e-3),
      /** Decay of the running mean of the gradient. */
      beta1: z.number().min(0).lt(1).default(0.9),
      /** Decay of the running mean of the squared gradient. */
      beta2: z.number().min(0).lt(1).default(0.999),
      /** Added to the denominator of the update. */
      epsilon: z.number().positive().default(1e-8),
      /** Decoupled weight decay per update, as a multiple of the learning rate. */
      weight_decay: nonnegative.default(0.1),
      /** Gradients with a larger L2 norm are scaled down to it. */
      max_grad_norm: z.number().positive().default(5),
    })
    .prefault({}),

  ema: z
    .strictObject({
      /**
       * Decay of an exponential moving average of the trainable parameters (`ema.ts`), which is then evaluated and exported in
       * their place. `null`: no average.
       */
      decay: z.number().gt(0).lt(1).nullable().default(null),
    })
    .prefault({}),

  batch: z
    .strictObject({
      /** Samples per epoch; a multiple of `total`. */
      samples_per_epoch: count.default(256),
      /** Samples per training step, over all devices and accumulated micro-batches. */
      total: count.default(128),
      /** Samples per micro-batch: the batch size of a model call on one device. */
      per_device: count.default(4),
    })
    .prefault({}),

  /** Length of the run. If both are `null`, it is 7 epochs. */
  train: z
    .strictObject({
      /** Number of training steps. `null`: given by `epochs`. */
      steps: count.nullable().default(null),
      /** Number of epochs of `batch.samples_per_epoch` samples. `null`: given by `steps`. */
      epochs: count.nullable().default(null),
    })
    .prefault({}),

  evaluation: z
    .strictObject({
      /** Training steps between evaluations. The base model and the last step are evaluated as well. */
      every: count.default(10),
      /** Images per prompt. */
      seeds_per_prompt: count.default(1),
      /** Seed of the first image; image i has the seed `seed` + i. The images of all evaluations have the same noise. */
      seed: seed.default(0),
      /** Images generated at once. */
      batch: count.default(4),
      /**
       * A reward that is not trained on, given like `reward`. If it falls while the reward rises, the run over-optimizes.
       * `null`: none.
       */
      held_out: rewardSettings.nullable().default(null),
      /**
       * A CLIP model, whose image embeddings measure the diversity of the images of a prompt (`diversity.ts`). `null`: diversity
       * is not measured.
       */
      diversity: path.nullable().default(null),
    })
    .prefault({}),

  /**
   * When to end the run before `train.steps`, and which checkpoint is the best (`early-stop.ts`). `null`: the run does not end
   * early, and the highest evaluation reward is best.
   */
  early_stop: z
    .strictObject({
      /** The reward that has to improve: the mean of `evaluation.held_out` or of `reward` over the evaluation's images. */
      monitor: z.enum(["held-out", "reward"]).default("held-out"),
      /** Number of evaluations without an improvement after which the run ends. `null`: no limit. */
      patience: count.nullable().default(3),
      /** An improvement exceeds the best value so far by more than this, in the unit of the reward. */
      min_delta: nonnegative.default(0),
      /** The run ends when diversity falls below this fraction of the base model's. `null`: no limit. */
      min_diversity: z.number().gt(0).max(1).nullable().default(null),
    })
    .nullable()
    .default(null),

  checkpoint: z
    .strictObject({
      /** Training steps between checkpoints. The last step and the step of an interruption are saved as well. */
      every: count.default(10),
      /** Number of latest checkpoints to keep. */
      keep_last: count.default(2),
      /** Save a checkpoint after each evaluation that is the best so far, and keep the best one. */
      keep_best: z.boolean().default(true),
    })
    .prefault({}),

  /** Experiment trackers that record the run besides its folder, such as `[tensorboard, { name: mlflow, uri: … }]`. */
  trackers: trackerSettings.prefault([]),
});

/** Checked settings, before prompts, loss and length of the run are resolved. */
export type ParsedSettings = z.output<typeof settingsSchema>;

/** Resolved settings of a run: prompts are lists, the length is a number of steps, and the run has a name. */
export type Settings = Omit<ParsedSettings, "name" | "prompts" | "train" | "loss"> & {
  loss: { form: "target" | "maximize"; target: number; scale: number };
  name: string;
  prompts: { train: string[]; eval: string[]; template: string; negative: string };
  train: { steps: number };
};

/** Settings as a recipe contains them. */
export type SettingsInput = z.input<typeof settingsSchema>;

/** The loss of the recipe, with the usual one of the reward for what is left out. With only a target, the form is `target`. */
export function resolvedLoss({ loss, reward }: Pick<ParsedSettings, "loss" | "reward">): Settings["loss"] {
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
