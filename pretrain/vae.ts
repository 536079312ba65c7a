import path from "node:path";
import { parseVaeConfig } from "../src/models/vae/config.js";
import { decode, encode } from "../src/models/vae/vae.js";
import { flatTensors } from "../src/nn/flat.js";
import { frozenScope } from "../src/nn/scope.js";
import { abs, add, allAxes, exp, input, mean, mul, sub } from "../src/ops/index.js";
import type { Runtime } from "../src/runtime/runtime.js";
import { float32, type HostTensor, toFloat32 } from "../src/tensor/host.js";
import { Rng } from "../src/tensor/rng.js";
import { sizeOf } from "../src/tensor/shape.js";
import { fromTensors } from "../src/weights/source.js";
import { batchAt } from "./data/dataset.js";
import type { Icons } from "./data/icons.js";
import { fitModel, type StageOptions } from "./fit.js";
import { writeGrid } from "./grid.js";
import { trainingGraph } from "./trainable.js";

/**
 * Downsamples by 4: 64x64 pixels become latents [8, 16, 16]. With the 4 channels of Stable Diffusion, a network of this size gave
 * blurred images: 4 numbers per tile hold little more than a mean colour and one edge.
 */
export const VAE_CONFIG = {
  _class_name: "AutoencoderKL",
  act_fn: "silu",
  block_out_channels: [24, 48, 64],
  down_block_types: ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"],
  up_block_types: ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"],
  in_channels: 3,
  out_channels: 3,
  latent_channels: 8,
  layers_per_block: 1,
  mid_block_add_attention: false,
  norm_num_groups: 1,
  sample_size: 64,
};

const BATCH = 16;
const LATENT = [BATCH, 8, 16, 16] as const;
/** The noise of the posterior increases over the first steps, so that training starts from a clear signal. */
const NOISE_RAMP = 400;

/** The loss is L1 + 0.5 MSE + 1e-4 KL per latent element. Returns the weights by their names in the checkpoint, after `vae.`. */
export async function trainVae(runtime: Runtime, icons: Icons, { folder, steps, seed }: StageOptions) {
  const config = parseVaeConfig(VAE_CONFIG);
  const pixels = input([BATCH, 3, 64, 64]);
  const noise = input(LATENT);
  const training = trainingGraph("vae", {
    inputs: { pixels, noise },
    build: (scope) => {
      const { mean: center, logvar } = encode(scope, config, pixels);
      const latents = add(center, mul(exp(mul(logvar, 0.5)), noise));
      const error = sub(decode(scope, config, latents), pixels);
      const l1 = mean(abs(error), allAxes(error.shape));
      const mse = mean(mul(error, error), allAxes(error.shape));
      // KL(N(μ, σ²) ‖ N(0, 1)) = ½ (μ² + σ² - 1 - log σ²)
      const divergence = sub(sub(add(mul(center, center), exp(logvar)), logvar), 1);
      const kl = mul(mean(divergence, allAxes(LATENT)), 0.5);
      return { loss: add(add(l1, mul(mse, 0.5)), mul(kl, 1e-4)), metrics: { l1, kl } };
    },
  });

  const weights = await fitModel({
    runtime,
    training,
    steps,
    learningRate: 8e-4,
    warmup: 50,
    weightDecay: 1e-4,
    averageDecay: 0.995,
    seed,
    folder,
    batch: (step) => ({
      pixels: float32(batchAt(icons, { seed, start: step * BATCH, size: BATCH }).images, pixels.shape),
      noise: float32(
        new Rng(seed, 1, step).normals(sizeOf(LATENT)).map((value) => value * Math.min(1, step / NOISE_RAMP)),
        LATENT,
      ),
    }),
    onSave: async (step, current) => {
      // Originals above their reconstructions.
      const source = fromTensors(flatTensors(training.layout, current));
      const scope = frozenScope(source, "vae");
      const output = decode(scope, config, encode(scope, config, pixels).mean);
      const program = await runtime.compile(
        { name: "vae reconstruction", inputs: { pixels }, outputs: { output } },
        source,
      );
      const { images } = batchAt(icons, { seed: seed + 1, start: 0, size: BATCH });
      const { output: reconstructed } = await program.run({ pixels: float32(images, pixels.shape) });
      await program.release();
      const rows = [images, toFloat32(reconstructed as HostTensor)];
      await writeGrid(path.join(folder, `step-${step}.png`), rows, { columns: BATCH });
    },
  });
  return flatTensors(training.layout, weights);
}
