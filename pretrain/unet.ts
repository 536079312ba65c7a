import { alphaBars, readSchedulerConfig } from "../src/diffusion/ddim.js";
import type { ClipTextConfig } from "../src/models/clip/config.js";
import { clipText } from "../src/models/clip/text.js";
import type { ClipTokenizer } from "../src/models/clip/tokenizer.js";
import { parseUnetConfig } from "../src/models/unet/config.js";
import { unet, unetInputs } from "../src/models/unet/unet.js";
import type { VaeConfig } from "../src/models/vae/config.js";
import { encode } from "../src/models/vae/vae.js";
import { flatTensors } from "../src/nn/flat.js";
import { frozenScope } from "../src/nn/scope.js";
import { allAxes, input, mean, mul, sub } from "../src/ops/index.js";
import type { Runtime } from "../src/runtime/runtime.js";
import { float32, fromNumbers, type HostTensor, toFloat32 } from "../src/tensor/host.js";
import { Rng } from "../src/tensor/rng.js";
import type { WeightSource } from "../src/weights/source.js";
import { batchAt } from "./data/dataset.js";
import type { Icons } from "./data/icons.js";
import { fitModel } from "./fit.js";
import { trainingGraph } from "./trainable.js";

/** Stable Diffusion's U-Net with three levels; attention where the latents are 8x8 and 4x4. */
export const UNET_CONFIG = {
  _class_name: "UNet2DConditionModel",
  act_fn: "silu",
  attention_head_dim: 4,
  block_out_channels: [64, 96, 128],
  cross_attention_dim: 96,
  down_block_types: ["DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
  up_block_types: ["UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
  in_channels: 8,
  out_channels: 8,
  layers_per_block: 1,
  norm_num_groups: 16,
  sample_size: 16,
};

/** The noise schedule of Stable Diffusion with v-prediction (Salimans & Ho 2022), which samples well in fewer steps. */
export const SCHEDULER_CONFIG = {
  _class_name: "DDIMScheduler",
  beta_end: 0.012,
  beta_schedule: "scaled_linear",
  beta_start: 0.00085,
  clip_sample: false,
  num_train_timesteps: 1000,
  prediction_type: "v_prediction",
  set_alpha_to_one: false,
  steps_offset: 1,
  timestep_spacing: "leading",
};

/** The images of the generator vary less than those of the rewards, because each pose is harder to learn for it. */
const VARIATION = { several: 0.2, tilt: 7, minimumScale: 0.88 };
const BATCH = 32;
const DISTINCT_IMAGES = 16_384;
const CAPTION_DROPOUT = 0.1;
/** The largest weight of a timestep, which otherwise is its signal-to-noise ratio (Hang et al. 2023, arXiv 2303.09556). */
const MIN_SNR_GAMMA = 5;

/** Latents (not scaled) and captions of all images. They are encoded once, because encoding would cost a third of a step. */
export async function encodeLatents(
  runtime: Runtime,
  icons: Icons,
  { vae, weights }: { readonly vae: VaeConfig; readonly weights: WeightSource },
  seed: number,
) {
  const size = 64;
  const pixels = input([size, 3, 64, 64]);
  const { mean: latents } = encode(frozenScope(weights, "vae"), vae, pixels);
  const program = await runtime.compile({ name: "vae encoder", inputs: { pixels }, outputs: { latents } }, weights);
  const each = latents.shape.slice(1).reduce((a, b) => a * b, 1);
  const all = new Float32Array(DISTINCT_IMAGES * each);
  const captions: string[] = [];
  for (let start = 0; start < DISTINCT_IMAGES; start += size) {
    const { images, samples } = batchAt(icons, { seed, start, size, ...VARIATION });
    const encoded = await program.run({ pixels: float32(images, pixels.shape) });
    all.set(toFloat32(encoded.latents as HostTensor), start * each);
    captions.push(...samples.map(({ caption }) => caption));
  }
  await program.release();
  return { latents: all, each, captions };
}

/** `scaling_factor` of AutoencoderKL: 1 / standard deviation of the latents. */
export function scalingFactor(latents: Float32Array): number {
  const average = latents.reduce((total, value) => total + value, 0) / latents.length;
  const variance = latents.reduce((total, value) => total + (value - average) ** 2, 0) / latents.length;
  return Number((1 / Math.sqrt(variance)).toFixed(5));
}

interface UnetTraining {
  readonly pipeline: {
    readonly textEncoder: ClipTextConfig;
    readonly tokenizer: ClipTokenizer;
    readonly weights: WeightSource;
  };
  readonly data: { readonly latents: Float32Array; readonly each: number; readonly captions: readonly string[] };
  readonly scale: number;
  readonly folder: string;
  readonly steps: number;
  readonly seed: number;
  readonly onSave: (step: number, weights: ReadonlyMap<string, HostTensor>) => Promise<void>;
}

export async function trainUnet(
  runtime: Runtime,
  { pipeline, data, scale, folder, steps, seed, onSave }: UnetTraining,
) {
  const config = parseUnetConfig(UNET_CONFIG);
  const scheduler = readSchedulerConfig(SCHEDULER_CONFIG, "scheduler_config.json");
  const alphaBar = alphaBars(scheduler);
  const { tokenizer, textEncoder } = pipeline;
  const { sample, timestep } = unetInputs(config, { batch: BATCH, height: 16, width: 16, tokens: tokenizer.maxLength });
  const ids = input([BATCH, tokenizer.maxLength], "int64");
  const velocity = input(sample.shape);
  const weight = input([BATCH, 1, 1, 1]);
  const training = trainingGraph("unet", {
    inputs: { sample, timestep, ids, velocity, weight },
    build: (scope) => {
      const encoderHiddenStates = clipText(frozenScope(pipeline.weights, "text_encoder"), textEncoder, ids);
      const error = sub(unet(scope, config, { sample, timestep, encoderHiddenStates }), velocity);
      const squares = mul(error, error);
      return {
        loss: mean(mul(squares, weight), allAxes(squares.shape)),
        metrics: { mse: mean(squares, allAxes(squares.shape)) },
      };
    },
  });
  const tokens = new Map<string, readonly number[]>();
  const encodeCaption = (caption: string) => {
    const known = tokens.get(caption) ?? tokenizer.encode(caption).ids;
    tokens.set(caption, known);
    return known;
  };

  const batch = (step: number) => {
    const rng = new Rng(seed, step);
    const [noisy, target] = [new Float32Array(BATCH * data.each), new Float32Array(BATCH * data.each)];
    const [times, weights, captionIds]: [number[], number[], number[]] = [[], [], []];
    for (let i = 0; i < BATCH; i++) {
      const image = rng.integer(0, data.captions.length - 1);
      const time = rng.integer(0, alphaBar.length - 1);
      const level = alphaBar[time] as number;
      const [signal, noise] = [Math.sqrt(level), Math.sqrt(1 - level)];
      for (let j = 0; j < data.each; j++) {
        const [clean, random] = [scale * (data.latents[image * data.each + j] as number), rng.normal()];
        noisy[i * data.each + j] = signal * clean + noise * random;
        target[i * data.each + j] = signal * random - noise * clean;
      }
      const snr = level / (1 - level);
      times.push(time);
      weights.push(Math.min(snr, MIN_SNR_GAMMA) / (snr + 1));
      captionIds.push(...encodeCaption(rng.uniform() < CAPTION_DROPOUT ? "" : (data.captions[image] as string)));
    }
    return {
      sample: float32(noisy, sample.shape),
      velocity: float32(target, sample.shape),
      timestep: fromNumbers(times, [BATCH]),
      weight: fromNumbers(weights, weight.shape),
      ids: fromNumbers(captionIds, ids.shape, "int64"),
    };
  };
  const weights = await fitModel({
    runtime,
    training,
    frozen: pipeline.weights,
    batch,
    steps,
    learningRate: 6e-4,
    warmup: 200,
    averageDecay: 0.9985,
    seed,
    folder,
    logEvery: 50,
    onSave: (step, average) => onSave(step, flatTensors(training.layout, average)),
  });
  return flatTensors(training.layout, weights);
}
