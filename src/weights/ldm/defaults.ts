/** Configuration values of the published models that the weights do not show. */
import type { Family } from "./family.js";
import type { PredictionConfig } from "./prediction.js";
import type { unetConfigOf } from "./unet.js";

/** Heads and sample sizes of the published models. SD 1.x has 8 heads at every level; later heads have 64 features. */
export const UNET = {
  "Stable Diffusion 1.x": () => ({ headsAt: () => 8, sampleSize: 64 }),
  // 2.x predicts the noise at 512 pixels and v at 768 pixels.
  "Stable Diffusion 2.x": ({ prediction_type }) => ({
    headsAt: headsOf64,
    sampleSize: prediction_type === "v_prediction" ? 96 : 64,
  }),
  "Stable Diffusion XL": () => ({ headsAt: headsOf64, sampleSize: 128 }),
} satisfies Record<Family, (prediction: PredictionConfig) => Parameters<typeof unetConfigOf>[1]>;

function headsOf64(channels: number): number {
  return Math.max(1, Math.floor(channels / 64));
}

export const VAE = {
  "Stable Diffusion 1.x": { scalingFactor: 0.18215 },
  "Stable Diffusion 2.x": { scalingFactor: 0.18215 },
  "Stable Diffusion XL": { scalingFactor: 0.13025 },
} satisfies Record<Family, { scalingFactor: number }>;

/** The noise schedule that all families were trained with. */
export const SCHEDULER = {
  num_train_timesteps: 1000,
  beta_schedule: "scaled_linear",
  beta_start: 0.00085,
  beta_end: 0.012,
  timestep_spacing: "leading",
  steps_offset: 1,
  set_alpha_to_one: false,
  clip_sample: false,
};
