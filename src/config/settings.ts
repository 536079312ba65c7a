/**
 * The settings of a run: one schema, whose keys are the keys of the YAML recipes, of `--set` and of a run's
 * `config.yaml`. The defaults are what AlignProp's published code does (K=1 release, March 2024), so an empty recipe is
 * the paper's aesthetic run.
 */
import { availableParallelism } from "node:os";
import { z } from "zod";
import { InputError } from "../errors/index.js";
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

  /** How long: in updates or in epochs, not both. */
  train: z
    .strictObject({ updates: count.nullable().default(null), epochs: count.nullable().default(null) })
    .refine(({ updates, epochs }) => updates === null || epochs === null, {
      error: "updates and epochs are both given; keep one",
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

  /** When a run ends before `train.updates`, and which checkpoint is its best (`early-stop.ts`); `null`: as `HIGHEST_REWARD`. */
  early_stop: z
    .strictObject({
      /** What has to rise: a reward's mean over the evaluation's pictures. */
      watch: z.enum(["held-out", "reward"]).default("held-out"),
      /** Evaluations without a gain after which it ends; `null`: never for that. */
      patience: count.nullable().default(3),
      /** A gain is more than this above the best so far. */
      least_gain: nonnegative.default(0),
      /** A share of the base model's diversity below which it ends. */
      least_diversity: z.number().gt(0).max(1).nullable().default(null),
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
  train: { updates: number };
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

/** The epochs of the paper's aesthetic run: 7 x 256 / 128 = 14 updates. */
export const defaultEpochs = 7;

/**
 * How many micro-batches make one update. The reference's bookkeeping: an epoch is a whole number of updates, an update
 * a whole number of micro-batches; numbers that don't divide are an error, with the nearest that do.
 */
export function accumulationSteps(batch: Settings["batch"], devices = 1): number {
  const atOnce = batch.per_device * devices;
  const problems: string[] = [];
  const total = roundToMultiple(batch.total, atOnce);
  if (batch.total % atOnce !== 0) {
    const each = devices === 1 ? `${atOnce} (batch.per_device)` : `${atOnce} (batch.per_device x ${devices} devices)`;
    const perDevice = nearestDivisor(batch.total / devices, batch.per_device);
    const other = perDevice === undefined ? "" : ` or batch.per_device ${perDevice}`;
    problems.push(`batch.total ${batch.total} is not a multiple of ${each}; try batch.total ${total}${other}`);
  }
  if (batch.samples_per_epoch % batch.total !== 0) {
    const samples = roundToMultiple(batch.samples_per_epoch, total);
    problems.push(
      `batch.samples_per_epoch ${batch.samples_per_epoch} is not a multiple of batch.total ${batch.total}; ` +
        `try batch.samples_per_epoch ${samples}${total === batch.total ? "" : ` with batch.total ${total}`}`,
    );
  }
  if (problems.length > 0) throw new InputError("setting-invalid", problems.join("\n"));
  return batch.total / atOnce;
}

export function updatesPerEpoch(batch: Settings["batch"]): number {
  return batch.samples_per_epoch / batch.total;
}

/**
 * Pictures that an evaluation within a run samples at once: as many as training where the sizes agree, which shares its
 * programs; else no more than there are.
 */
export function evaluationBatch({ batch, evaluation, prompts }: Settings): number {
  if (evaluation.batch === batch.per_device) return evaluation.batch;
  // A plan may have no prompts.
  return Math.max(1, Math.min(evaluation.batch, prompts.eval.length * evaluation.seeds_per_prompt));
}

/** Threads of the processor that the run uses. */
export function threadsOf({ threads }: Pick<Settings, "threads">): number {
  return threads ?? availableParallelism();
}

/** The settings of one of several lanes that share each batch (`lanes.ts`); what an update adds up to stays the same. */
export function laneSettings(settings: Settings, lanes: number): Settings {
  const { batch, evaluation } = settings;
  return {
    ...settings,
    batch: { ...batch, per_device: batch.per_device / lanes },
    evaluation: { ...evaluation, batch: Math.ceil(evaluationBatch(settings) / lanes) },
  };
}

/** What one of several ranks samples of each update, as settings of its own: for what depends on how many pictures there are. */
export function rankSettings(settings: Settings, ranks: number): Settings {
  const { batch } = settings;
  const [total, samples_per_epoch] = [batch.total / ranks, batch.samples_per_epoch / ranks];
  return { ...settings, batch: { ...batch, total, samples_per_epoch } };
}

function roundToMultiple(value: number, of: number): number {
  return Math.max(1, Math.round(value / of)) * of;
}

/** The divisor of `value` nearest to `wanted`; undefined when `value` is no whole number. */
function nearestDivisor(value: number, wanted: number): number | undefined {
  if (!Number.isInteger(value)) return undefined;
  for (let distance = 0; distance < Math.max(value, wanted); distance++) {
    for (const candidate of [wanted - distance, wanted + distance]) {
      if (candidate >= 1 && value % candidate === 0) return candidate;
    }
  }
  return undefined;
}

export function runtimeOptions({ device, threads }: Pick<Settings, "device" | "threads">) {
  return { device, ...(threads !== null && { threads }) };
}
