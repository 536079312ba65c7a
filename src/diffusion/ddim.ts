/**
 * DDIM (Song, Meng & Ermon 2021, "Denoising Diffusion Implicit Models", arXiv 2010.02502), configured by the
 * `scheduler_config.json` of a diffusers folder.
 *
 * Without clipping a DDIM step is linear in the latent and in the U-Net's output, whatever the U-Net predicts:
 *
 *     x_{t-1} = a · x_t + b · output + σ · z,   z ~ N(0, 1)
 *
 * So a whole scheduler is three numbers a step, and the way back through it two: dL/dx_t gets a · dL/dx_{t-1} and the
 * U-Net's vector-Jacobian product gets b · dL/dx_{t-1} (`trajectory.ts`).
 */
import { z } from "zod";
import { InputError } from "../errors/index.js";
import { count, only, parseConfig } from "../io/config-schema.js";
import { isRecord } from "../io/record.js";

export type Prediction = "epsilon" | "v_prediction" | "sample";

/** The fields of `scheduler_config.json` that shape DDIM, under its names, with diffusers' defaults. */
const schedulerConfig = z.object({
  num_train_timesteps: count.default(1000),
  beta_start: z.number().positive().lt(1).default(0.0001),
  beta_end: z.number().positive().lt(1).default(0.02),
  beta_schedule: z.enum(["linear", "scaled_linear", "squaredcos_cap_v2"]).default("linear"),
  trained_betas: z.array(z.number().positive().lt(1)).nullish(),
  timestep_spacing: z.enum(["leading", "trailing", "linspace"]).default("leading"),
  steps_offset: z.int().nonnegative().default(0),
  set_alpha_to_one: z.boolean().default(true),
  prediction_type: z.enum(["epsilon", "v_prediction", "sample"]).default("epsilon"),
  rescale_betas_zero_snr: z.boolean().default(false),
  // A clipped or thresholded prediction is no longer linear in the latent.
  clip_sample: z.literal(false),
  thresholding: only(false),
  // Rectified flow under a diffusion scheduler's name.
  use_flow_sigmas: only(false),
});

/** Schedulers with an option `clip_sample`, which is on where their file does not name it. The others never clip. */
const CLIPPING = ["DDIMScheduler", "DDPMScheduler"];

export type SchedulerConfig = z.infer<typeof schedulerConfig>;

/** Reads a parsed `scheduler_config.json`; `file` names it in messages. Any scheduler's file of this family fits. */
export function readSchedulerConfig(json: unknown, file: string): SchedulerConfig {
  const neverClips = isRecord(json) && typeof json._class_name === "string" && !CLIPPING.includes(json._class_name);
  const config = parseConfig(schedulerConfig, neverClips ? { clip_sample: false, ...json } : json, file);
  if (config.rescale_betas_zero_snr && config.prediction_type === "epsilon") {
    throw new InputError(
      "config-invalid",
      `${file}: rescale_betas_zero_snr with prediction_type epsilon: pure noise says nothing about the picture; use v_prediction`,
    );
  }
  return config;
}

/** One step of the chain: x_{t-1} = a · x_t + b · output + sigma · z. */
export interface ChainStep {
  readonly timestep: number;
  readonly a: number;
  readonly b: number;
  readonly sigma: number;
}

/** What follows from a latent and the network's output there: x · x_t + output · output. */
export interface Linear {
  readonly x: number;
  readonly output: number;
}

/** A step of DDIM, which also knows what the network says about the picture and the noise in x_t. */
export interface DdimStep extends ChainStep {
  /** ᾱ_t: x_t = √ᾱ_t · x_0 + √(1 − ᾱ_t) · ε. */
  readonly alphaBar: number;
  /** x̂_0, the picture that the network predicts. */
  readonly sample: Linear;
  /** ε̂, the noise that it predicts. */
  readonly noise: Linear;
}

/** The prediction of a step, in latents picture after picture. */
export function predicted({ x: ofX, output: ofOutput }: Linear, x: Float32Array, output: Float32Array): Float32Array {
  return x.map((value, j) => ofX * value + ofOutput * (output[j] as number));
}

/** The forward process in one jump: x_t = √ᾱ_t · x_0 + √(1 − ᾱ_t) · ε. */
export function noised({ alphaBar }: DdimStep, sample: Float32Array, noise: Float32Array): Float32Array {
  const [signal, deviation] = [Math.sqrt(alphaBar), Math.sqrt(1 - alphaBar)];
  return sample.map((value, j) => signal * value + deviation * (noise[j] as number));
}

/** The chain of `steps` steps from noise to image; the first acts on x_T. `eta` 0 is deterministic, 1 is DDPM. */
export function ddimSteps(config: SchedulerConfig, steps: number, { eta = 0 }: { eta?: number } = {}): DdimStep[] {
  const alphaBar = alphaBars(config);
  const finalAlphaBar = config.set_alpha_to_one ? 1 : at(alphaBar, 0);
  const stride = Math.floor(config.num_train_timesteps / steps);
  return timesteps(config, steps).map((timestep) => {
    const previous = timestep - stride;
    const alphaBarHere = at(alphaBar, timestep);
    const alphaBarPrevious = previous >= 0 ? at(alphaBar, previous) : finalAlphaBar;
    const step = { timestep, ...coefficients(config.prediction_type, alphaBarHere, alphaBarPrevious, eta) };
    if (![step.a, step.b, step.sigma].every(Number.isFinite)) {
      throw new InputError(
        "config-invalid",
        `scheduler_config.json: its betas leave ${alphaBarHere} of the signal at timestep ${timestep}, from which no step can be computed; they are usually 0.0001 to 0.02`,
      );
    }
    return step;
  });
}

/** Equation 12 of the paper, sorted by x_t and the network's output. */
function coefficients(
  prediction: Prediction,
  alphaBar: number,
  alphaBarPrevious: number,
  eta: number,
): Omit<DdimStep, "timestep"> {
  // Equation 16.
  const variance = ((1 - alphaBarPrevious) / (1 - alphaBar)) * (1 - alphaBar / alphaBarPrevious);
  const sigma = eta * Math.sqrt(variance);
  const [sample, noise] = predictions(prediction, alphaBar);

  // x_{t-1} = toSample · x̂_0 + toNoise · ε̂ + σ z
  const toSample = Math.sqrt(alphaBarPrevious);
  const toNoise = Math.sqrt(1 - alphaBarPrevious - sigma ** 2);
  const part = (of: keyof Linear) => toSample * sample[of] + toNoise * noise[of];
  return { a: part("x"), b: part("output"), sigma, alphaBar, sample, noise };
}

/** x̂_0 and ε̂ of what the network predicts; x_t = signal · x̂_0 + deviation · ε̂. */
function predictions(prediction: Prediction, alphaBar: number): [sample: Linear, noise: Linear] {
  const [signal, deviation] = [Math.sqrt(alphaBar), Math.sqrt(1 - alphaBar)];
  const itself = { x: 0, output: 1 };
  switch (prediction) {
    case "epsilon":
      return [{ x: 1 / signal, output: -deviation / signal }, itself];
    case "sample":
      return [itself, { x: 1 / deviation, output: -signal / deviation }];
    case "v_prediction": // Salimans & Ho 2022
      return [
        { x: signal, output: -deviation },
        { x: deviation, output: signal },
      ];
  }
}

/** ᾱ_t = Π (1 − β_s) for s ≤ t: the share of signal variance left at each of the training timesteps. */
export function alphaBars(config: SchedulerConfig): Float64Array {
  const alphaBar = new Float64Array(config.num_train_timesteps);
  let product = 1;
  for (const [t, beta] of betas(config).entries()) alphaBar[t] = product *= 1 - beta;
  return config.rescale_betas_zero_snr ? zeroTerminalSnr(alphaBar) : alphaBar;
}

/** Lin et al. 2024 (arXiv 2305.08891), algorithm 1: shifts and scales √ᾱ so that the last timestep is pure noise. */
function zeroTerminalSnr(alphaBar: Float64Array): Float64Array {
  const roots = alphaBar.map(Math.sqrt);
  const first = at(roots, 0);
  const last = at(roots, roots.length - 1);
  return roots.map((root) => (((root - last) * first) / (first - last)) ** 2);
}

function betas({ num_train_timesteps: T, beta_start, beta_end, beta_schedule, trained_betas }: SchedulerConfig) {
  if (trained_betas) {
    if (trained_betas.length !== T) {
      throw new InputError(
        "config-invalid",
        `scheduler_config.json: trained_betas has ${trained_betas.length} values, expected ${T}`,
      );
    }
    return trained_betas;
  }
  switch (beta_schedule) {
    case "linear":
      return linspace(beta_start, beta_end, T);
    case "scaled_linear": // Stable Diffusion's: linear in √β
      return linspace(Math.sqrt(beta_start), Math.sqrt(beta_end), T).map((root) => root ** 2);
    case "squaredcos_cap_v2": {
      // Nichol & Dhariwal 2021, equation 17.
      const bar = (t: number) => Math.cos((((t / T + 0.008) / 1.008) * Math.PI) / 2) ** 2;
      return Array.from({ length: T }, (_, t) => Math.min(1 - bar(t + 1) / bar(t), 0.999));
    }
  }
}

/** Which of the training timesteps the chain visits, from noise to image (Lin et al. 2024, table 2, names the spacings). */
function timesteps({ num_train_timesteps: T, timestep_spacing, steps_offset }: SchedulerConfig, steps: number) {
  if (!Number.isInteger(steps) || steps < 1 || steps > T) {
    throw new InputError(
      "config-invalid",
      `sampling steps: ${steps} is not a whole number from 1 to ${T} (the scheduler's training steps)`,
    );
  }
  const visited = ((): number[] => {
    switch (timestep_spacing) {
      case "leading": {
        const stride = Math.floor(T / steps);
        return Array.from({ length: steps }, (_, i) => (steps - 1 - i) * stride + steps_offset);
      }
      case "trailing":
        return Array.from({ length: steps }, (_, i) => roundHalfToEven(T - (i * T) / steps) - 1);
      case "linspace":
        return linspace(0, T - 1, steps)
          .reverse()
          .map(roundHalfToEven);
    }
  })();
  const highest = Math.max(...visited);
  if (highest >= T) {
    throw new InputError(
      "config-invalid",
      `scheduler_config.json: steps_offset ${steps_offset} with ${steps} sampling steps visits timestep ${highest}, ` +
        `but training had only 0 to ${T - 1}; sample fewer steps or lower the offset`,
    );
  }
  return visited;
}

/** `size` numbers evenly from `low` to `high`, both included; `low` alone where there is one. */
function linspace(low: number, high: number, size: number): number[] {
  return Array.from({ length: size }, (_, i) => (size === 1 ? low : low + ((high - low) * i) / (size - 1)));
}

/** As NumPy rounds. */
function roundHalfToEven(x: number): number {
  const floor = Math.floor(x);
  if (x - floor !== 0.5) return Math.round(x);
  return floor % 2 === 0 ? floor : floor + 1;
}

function at(values: Float64Array, index: number): number {
  const value = values[index];
  if (value === undefined) throw new RangeError(`ddim: timestep ${index} is outside 0 … ${values.length - 1}`);
  return value;
}
