/**
 * The methods that are compared, and their settings. All other settings are those of the method's recipe, which is
 * `recipes/default.yaml` for AlignProp: the embedded model, the embedded aesthetic reward, the paper's 45 animals for training
 * and its 6 others for evaluation, 10 denoising steps with a guidance scale of 3.
 */
import { loadSettings, type Override, type Settings } from "../src/config/index.js";
import type { TruncationSettings } from "../src/estimators/index.js";

export interface Method {
  /** Name of its folder, and of `--only`. */
  readonly name: string;
  readonly label: string;
  readonly recipe: string;
  readonly overrides: Readonly<Record<string, unknown>>;
  /** The learning rates that the first seed tries. */
  readonly rates: readonly number[];
  /** Training steps with each rate. Training continues with the chosen one. */
  readonly tuningSteps: number;
  readonly steps: number;
  readonly seeds: readonly number[];
  /** Samples per training step. */
  readonly samples: number;
  /** U-Net calls for one sample, forward and backward. Used to estimate the remaining time. */
  readonly unetCalls: number;
  /** True if it appears in the curves of the comparison. */
  readonly compared: boolean;
}

/** The evaluation of all curves: the 6 held-out animals with 2 noises each, the same for all methods, seeds and steps. */
const evaluation = {
  "evaluation.every": 2,
  "evaluation.seeds_per_prompt": 2,
  "evaluation.batch": 12,
};

/** Methods that differentiate the reward. */
const differentiating = {
  rates: [1e-3, 2e-3, 5e-3, 1e-2],
  tuningSteps: 16,
  steps: 80,
  seeds: [0, 1, 2],
  samples: 8,
  compared: true,
};

/** All checkpoints are kept, because the mix of two rewards uses early ones. */
const checkpoint = { "checkpoint.keep_last": 1000, "checkpoint.keep_best": false };
/** Steps of 8 samples, for methods that differentiate the reward. */
const small = { "batch.total": differentiating.samples, "checkpoint.every": 8, ...checkpoint };
/** Steps of 64 samples, as in the recipes, for methods whose advantages and weights compare the samples of a step. */
const large = { "checkpoint.every": 4, ...checkpoint };

const alignprop = (
  name: string,
  label: string,
  truncation: TruncationSettings | { mode: "per-step" | "uniform" },
  unetCalls: number,
): Method => ({
  ...differentiating,
  name,
  label,
  recipe: "default",
  overrides: { ...small, "estimator.truncation": truncation },
  unetCalls,
});

/** In the order in which they run. */
export const METHODS: readonly Method[] = [
  alignprop("uniform", "AlignProp, uniform", { mode: "uniform" }, 15),
  {
    name: "ddpo",
    label: "DDPO",
    recipe: "ddpo",
    overrides: large,
    rates: [1e-3, 3e-3, 1e-2],
    tuningSteps: 16,
    steps: 252,
    seeds: [0],
    samples: 64,
    unetCalls: 30,
    compared: true,
  },
  {
    // As published, with equal weights of all denoising steps. 80 steps are enough to show that it does not improve.
    name: "ddpo-equal",
    label: "DDPO, equal weights",
    recipe: "ddpo",
    overrides: { ...large, "estimator.weighting": "equal", "estimator.clip_range": 1e-4 },
    rates: [1e-3, 3e-3, 1e-2],
    tuningSteps: 10,
    steps: 80,
    seeds: [0],
    samples: 64,
    unetCalls: 30,
    compared: false,
  },
  alignprop("k1", "K = 1", { mode: "fixed", k: 1 }, 11),
  // The paper's gaussian(42, 5) of 50 steps, scaled to 10 steps.
  alignprop("gaussian", "AlignProp, gaussian", { mode: "gaussian", mean: 8.4, std: 1 }, 12),
  alignprop("per-step", "AlignProp, per-step", { mode: "per-step" }, 17),
  alignprop("full", "K = 10, the full chain", { mode: "fixed", k: 10 }, 20),
  { ...differentiating, name: "draft-lv", label: "DRaFT-LV", recipe: "draft-lv", overrides: small, unetCalls: 15 },
  { ...differentiating, name: "refl", label: "ReFL", recipe: "refl", overrides: small, unetCalls: 10 },
  alignprop("k2", "K = 2", { mode: "fixed", k: 2 }, 12),
  alignprop("k5", "K = 5", { mode: "fixed", k: 5 }, 15),
  {
    ...alignprop("unet", "AlignProp, uniform, the whole U-Net", { mode: "uniform" }, 30),
    overrides: { ...small, "estimator.truncation": { mode: "uniform" }, trainable: "unet" },
    rates: [3e-5, 1e-4, 3e-4],
    tuningSteps: 8,
    steps: 24,
    seeds: [0],
    compared: false,
  },
  {
    name: "rwr",
    label: "Reward-weighted regression",
    recipe: "rwr",
    overrides: large,
    // One rate only, because a grid would take hours.
    rates: [3e-3],
    tuningSteps: 0,
    steps: 24,
    seeds: [0],
    samples: 64,
    unetCalls: 30,
    compared: true,
  },
  {
    // For the mix of two rewards. It has another reward, so it is not compared.
    ...alignprop("compressibility", "AlignProp, uniform, JPEG compressibility", { mode: "uniform" }, 15),
    overrides: {
      ...small,
      "estimator.truncation": { mode: "uniform" },
      reward: "compressibility",
      "loss.form": "maximize",
    },
    rates: [5e-3],
    steps: 8,
    seeds: [0],
    compared: false,
  },
];

export interface Run {
  readonly method: Method;
  readonly rate: number;
  readonly seed: number;
}

/** The settings of a run, without its folder and its number of steps. */
export async function settingsOf({ method, rate, seed }: Run): Promise<Settings> {
  const values = { name: method.name, seed, "optimizer.learning_rate": rate, ...evaluation, ...method.overrides };
  return await loadSettings({ recipe: method.recipe, overrides: overridesOf(values) });
}

export function overridesOf(values: Readonly<Record<string, unknown>>): Override[] {
  return Object.entries(values).map(([key, value]) => ({ path: key.split("."), value, origin: key }));
}
