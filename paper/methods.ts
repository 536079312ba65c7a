/**
 * What is compared, and how long each is trained. Everything that is not here is in the recipe of the method's name or, of
 * AlignProp's truncations, in `recipes/default.yaml`: the embedded model, the embedded aesthetic reward, the paper's 45 animals
 * to train on and its 6 others to evaluate, 10 denoising steps with a guidance of 3.
 */

import { loadSettings, type Override, type Settings } from "../src/config/index.js";
import type { TruncationSettings } from "../src/estimators/index.js";

export interface Method {
  /** Of its folder, and as `--only` knows it. */
  readonly name: string;
  readonly label: string;
  readonly recipe: string;
  readonly overrides: Readonly<Record<string, unknown>>;
  /** The learning rates that are tried on the first seed. */
  readonly rates: readonly number[];
  /** As many updates each; the one that is chosen goes on. Of a method that learns in rounds, rounds. */
  readonly tuning: number;
  readonly updates: number;
  readonly seeds: readonly number[];
  /** In an update, or in a round. */
  readonly pictures: number;
  /** Calls of the U-Net for a picture of an update, forward and back; for the time that is left. */
  readonly calls: number;
  /** In the curves of the comparison. */
  readonly compared: boolean;
}

/** How curves are made: the 6 held-out animals with 2 noises each, the same for all methods, seeds and updates. */
const evaluation = {
  "evaluation.every": 2,
  "evaluation.seeds_per_prompt": 2,
  "evaluation.batch": 12,
};

const pathWise = {
  rates: [1e-3, 2e-3, 5e-3, 1e-2],
  tuning: 16,
  updates: 80,
  seeds: [0, 1, 2],
  pictures: 8,
  compared: true,
};

/** All of them are kept: what is mixed is an early one. */
const checkpoint = { "checkpoint.keep_last": 1000, "checkpoint.keep_best": false };
/** Of all that differentiates the reward. */
const small = { "batch.total": pathWise.pictures, "checkpoint.every": 8, ...checkpoint };
/** 64 pictures, the recipes' own: their advantages and weights compare pictures of one round. */
const rounds = { "checkpoint.every": 4, ...checkpoint };

const alignprop = (
  name: string,
  label: string,
  truncation: TruncationSettings | { mode: "per-step" | "uniform" },
  calls: number,
): Method => ({
  ...pathWise,
  name,
  label,
  recipe: "default",
  overrides: { ...small, "estimator.truncation": truncation },
  calls,
});

/** In this order they run: what the claim is about first. */
export const METHODS: readonly Method[] = [
  alignprop("uniform", "AlignProp, uniform", { mode: "uniform" }, 15),
  {
    name: "ddpo",
    label: "DDPO",
    recipe: "ddpo",
    overrides: rounds,
    rates: [1e-3, 3e-3, 1e-2],
    tuning: 16,
    updates: 252,
    seeds: [0],
    pictures: 64,
    calls: 30,
    compared: true,
  },
  {
    // As published. What its steps counting alike comes to, with as many rounds as show it.
    name: "ddpo-equal",
    label: "DDPO, steps alike",
    recipe: "ddpo",
    overrides: { ...rounds, "estimator.weighting": "equal", "estimator.clip_range": 1e-4 },
    rates: [1e-3, 3e-3, 1e-2],
    tuning: 10,
    updates: 80,
    seeds: [0],
    pictures: 64,
    calls: 30,
    compared: false,
  },
  alignprop("k1", "K = 1", { mode: "fixed", k: 1 }, 11),
  // Gaussian(42, 5) of 50 steps, for 10.
  alignprop("gaussian", "AlignProp, gaussian", { mode: "gaussian", mean: 8.4, std: 1 }, 12),
  alignprop("per-step", "AlignProp, per-step", { mode: "per-step" }, 17),
  alignprop("full", "K = 10, the full chain", { mode: "fixed", k: 10 }, 20),
  { ...pathWise, name: "draft-lv", label: "DRaFT-LV", recipe: "draft-lv", overrides: small, calls: 15 },
  { ...pathWise, name: "refl", label: "ReFL", recipe: "refl", overrides: small, calls: 10 },
  alignprop("k2", "K = 2", { mode: "fixed", k: 2 }, 12),
  alignprop("k5", "K = 5", { mode: "fixed", k: 5 }, 15),
  {
    ...alignprop("unet", "AlignProp, uniform, the whole U-Net", { mode: "uniform" }, 30),
    overrides: { ...small, "estimator.truncation": { mode: "uniform" }, trainable: "unet" },
    rates: [3e-5, 1e-4, 3e-4],
    tuning: 8,
    updates: 24,
    seeds: [0],
    compared: false,
  },
  {
    name: "rwr",
    label: "Reward-weighted regression",
    recipe: "rwr",
    overrides: rounds,
    // One rate: a grid of rounds takes hours.
    rates: [3e-3],
    tuning: 0,
    updates: 24,
    seeds: [0],
    pictures: 64,
    calls: 30,
    compared: true,
  },
  {
    // For the mix of two rewards. Its reward is of another kind, so nothing of it is compared.
    ...alignprop("compressibility", "AlignProp, uniform, JPEG compressibility", { mode: "uniform" }, 15),
    overrides: {
      ...small,
      "estimator.truncation": { mode: "uniform" },
      reward: "compressibility",
      "loss.form": "maximize",
    },
    rates: [5e-3],
    updates: 8,
    seeds: [0],
    compared: false,
  },
];

export interface Run {
  readonly method: Method;
  readonly rate: number;
  readonly seed: number;
}

/** The settings of a run, but for its folder and its length. */
export async function settingsOf({ method, rate, seed }: Run): Promise<Settings> {
  const values = { name: method.name, seed, "optimizer.learning_rate": rate, ...evaluation, ...method.overrides };
  return await loadSettings({ recipe: method.recipe, overrides: overridesOf(values) });
}

export function overridesOf(values: Readonly<Record<string, unknown>>): Override[] {
  return Object.entries(values).map(([key, value]) => ({ path: key.split("."), value, origin: key }));
}
