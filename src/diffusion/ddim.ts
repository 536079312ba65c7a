/**
 * DDIM (Song, Meng & Ermon 2021, "Denoising Diffusion Implicit Models", arXiv 2010.02502), configured by the
 * `scheduler_config.json` of a diffusers folder.
 *
 * Without clipping, a DDIM step is linear in the latent and in the U-Net's output, whatever the prediction type:
 *
 *     x_{t-1} = a · x_t + b · output + σ · z,   z ~ N(0, 1)
 *
 * So a scheduler is three numbers per step, and its backward pass needs two of them: dL/dx_t receives a · dL/dx_{t-1},
 * and b · dL/dx_{t-1} is the upstream gradient of the U-Net's vector-Jacobian product (`trajectory.ts`).
 */
import { z } from "zod";
import { InputError } from "../errors/index.js";
import { count, only, parseConfig } from "../io/config-schema.js";
import { isRecord } from "../io/record.js";

export type Prediction = "epsilon" | "v_prediction" | "sample";

/** The keys of `scheduler_config.json` that affect DDIM, with diffusers' defaults. */
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
  // A clipped or thresholded prediction is not linear in the latent.
  clip_sample: z.literal(false),
  thresholding: only(false),
  // Turns some diffusion schedulers into rectified flow.
  use_flow_sigmas: only(false),
});

/** Schedulers whose `clip_sample` is true by default. The others have no such option and never clip. */
const CLIPPING = ["DDIMScheduler", "DDPMScheduler"];

export type SchedulerConfig = z.infer<typeof schedulerConfig>;

/**
 * Reads the parsed `scheduler_config.json` of any scheduler with the same noise schedules (DDIM, DDPM, PNDM, Euler, …).
 * `file` names it in messages.
 * @throws InputError `config-invalid`
 */
export function readSchedulerConfig(json: unknown, file: string): SchedulerConfig {
  const neverClips = isRecord(json) && typeof json._class_name === "string" && !CLIPPING.includes(json._class_name);
  const config = parseConfig(schedulerConfig, neverClips ? { clip_sample: false, ...json } : json, file);
  if (config.rescale_betas_zero_snr && config.prediction_type === "epsilon") {
    throw new InputError(
      "config-invalid",
      `${file}: rescale_betas_zero_snr does not work with prediction_type "epsilon", because the noise in a latent ` +
        'of pure noise says nothing about the image. Use a model with prediction_type "v_prediction".',
      { path: file, keys: ["rescale_betas_zero_snr", "prediction_type"], found: "epsilon", expected: "v_prediction" },
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

/**
 * The coefficients of a linear combination of a latent and the network's output for it: x · x_t + output · ε_θ(x_t).
 */
export interface Linear {
  readonly x: number;
  readonly output: number;
}

/** A DDIM step, with the network's predictions of the image and of the noise in x_t. */
export interface DdimStep extends ChainStep {
  /** ᾱ_t: x_t = √ᾱ_t · x_0 + √(1 − ᾱ_t) · ε. */
  readonly alphaBar: number;
  /** The predicted image x̂_0. */
  readonly sample: Linear;
  /** The predicted noise ε̂. */
  readonly noise: Linear;
}

/**
 * Applies a linear combination to latents x_t and the network's outputs for them, of the same length.
 *
 * @example
 * const predictedX0 = predicted(step.sample, x, call.output);
 * const predictedNoise = predicted(step.noise, x, call.output);
 */
export function predicted(linear: Linear, x: Float32Array, output: Float32Array): Float32Array {
  return x.map((value, j) => linear.x * value + linear.output * (output[j] as number));
}

/**
 * The forward process, from x_0 to x_t in one step: x_t = √ᾱ_t · x_0 + √(1 − ᾱ_t) · ε. Sample and noise have the same length.
 *
 * @example
 * const x = noised(step, trajectory.final, noise);
 */
export function noised({ alphaBar }: DdimStep, sample: Float32Array, noise: Float32Array): Float32Array {
  const [signal, deviation] = [Math.sqrt(alphaBar), Math.sqrt(1 - alphaBar)];
  return sample.map((value, j) => signal * value + deviation * (noise[j] as number));
}

/**
 * The denoising chain, from noise to image; the first step acts on x_T. `eta` 0 is deterministic DDIM, 1 is DDPM.
 * @throws InputError `config-invalid` if the noise schedule is unusable, `setting-invalid` if `steps` is out of range
 */
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
        `scheduler_config.json: the noise schedule cannot be used: ᾱ is ${alphaBarHere} at timestep ${timestep}. ` +
          "Check the betas; they are usually 0.0001 to 0.02.",
        { path: "scheduler_config.json", timestep, found: alphaBarHere },
      );
    }
    return step;
  });
}

/** Far below any variance of a schedule, and far above the rounding error of numbers up to 1. */
const ROUNDING = 1e-12;

/** Equation 12 of the paper, with its terms grouped by x_t and the network's output. */
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
  // With ᾱ_t = 0 and eta = 1 this is 0, but rounding may make it negative.
  const remaining = 1 - alphaBarPrevious - sigma ** 2;
  const toNoise = Math.sqrt(remaining < 0 && remaining > -ROUNDING ? 0 : remaining);
  const part = (of: keyof Linear) => toSample * sample[of] + toNoise * noise[of];
  return { a: part("x"), b: part("output"), sigma, alphaBar, sample, noise };
}

/** x̂_0 and ε̂ in terms of x_t and the network's output, from x_t = signal · x̂_0 + deviation · ε̂. */
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

/** ᾱ_t = Π (1 − β_s) for s ≤ t: the share of the variance at each training timestep that is signal. */
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
        `scheduler_config.json: trained_betas has ${trained_betas.length} values, but num_train_timesteps is ${T}.`,
        { path: "scheduler_config.json", keys: ["trained_betas"], found: trained_betas.length, expected: T },
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

/** The training timesteps that the chain visits, from noise to image. Lin et al. 2024, table 2, defines the spacings. */
function timesteps({ num_train_timesteps: T, timestep_spacing, steps_offset }: SchedulerConfig, steps: number) {
  if (!Number.isInteger(steps) || steps < 1 || steps > T) {
    throw new InputError(
      "setting-invalid",
      `sampling.steps is ${steps}. It must be a whole number from 1 to ${T}, the number of training timesteps.`,
      { setting: "sampling.steps", found: steps, limit: T },
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
      `scheduler_config.json: with steps_offset ${steps_offset}, a chain of ${steps} steps visits timestep ` +
        `${highest}, but training used only 0 to ${T - 1}. Lower sampling.steps or steps_offset.`,
      {
        path: "scheduler_config.json",
        keys: ["steps_offset"],
        offset: steps_offset,
        steps,
        found: highest,
        limit: T - 1,
      },
    );
  }
  return visited;
}

/** `size` evenly spaced numbers from `low` to `high`, both included. A single number is `low`. */
function linspace(low: number, high: number, size: number): number[] {
  return Array.from({ length: size }, (_, i) => (size === 1 ? low : low + ((high - low) * i) / (size - 1)));
}

/** Rounds like NumPy. */
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
