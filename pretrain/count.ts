import { type CountConfig, countLogits } from "../src/models/heads/count.js";
import { flatTensors } from "../src/nn/flat.js";
import { frozenScope } from "../src/nn/scope.js";
import { add, input, mean, mul, softmax, sum } from "../src/ops/index.js";
import type { Runtime } from "../src/runtime/runtime.js";
import { float32, type HostTensor, toFloat32 } from "../src/tensor/host.js";
import { Rng } from "../src/tensor/rng.js";
import { fromTensors } from "../src/weights/source.js";
import { batchAt } from "./data/dataset.js";
import type { Icons } from "./data/icons.js";
import { IMAGE_LENGTH } from "./data/render.js";
import { fitModel, type StageOptions } from "./fit.js";
import { crossEntropy } from "./losses.js";
import { trainingGraph } from "./trainable.js";

/** The model of the embedded count reward. It is trained on renderings with one to four animals, equally often. */
export const COUNT_CONFIG = { model_type: "count", image_size: 64, widths: [16, 32, 48, 64], most: 4 };

const COUNT_MODEL: CountConfig = {
  imageSize: COUNT_CONFIG.image_size,
  widths: COUNT_CONFIG.widths,
  most: COUNT_CONFIG.most,
};

const BATCH = 64;
/** As for CLIP: noise makes the gradient of the reward insensitive to invisible patterns. */
const PIXEL_NOISE = 0.1;
const VARIATION = { several: 0.75, minimumScale: 0.6, tilt: 14, treated: 0.3 };

function countBatch(icons: Icons, seed: number, step: number, noise: number) {
  const { samples, images } = batchAt(icons, { seed, start: step * BATCH, size: BATCH, ...VARIATION });
  const rng = new Rng(seed, 1, step);
  for (let i = 0; i < BATCH * IMAGE_LENGTH; i++) images[i] = (images[i] as number) + noise * rng.normal();
  return { images, counts: samples.map(({ scene }) => scene.count) };
}

export async function trainCount(runtime: Runtime, icons: Icons, { folder, steps, seed }: StageOptions) {
  const { most } = COUNT_MODEL;
  const pixels = input([BATCH, 3, 64, 64]);
  const targets = input([BATCH, most]);
  const training = trainingGraph("count", {
    inputs: { pixels, targets },
    build: (scope) => {
      const logits = countLogits(scope, COUNT_MODEL, add(mul(pixels, 0.5), 0.5));
      return {
        loss: crossEntropy(logits, targets),
        metrics: { accuracy: mean(sum(mul(softmax(logits), targets), -1), 0) },
      };
    },
  });
  const weights = await fitModel({
    runtime,
    training,
    steps,
    learningRate: 3e-3,
    averageDecay: 0.99,
    seed,
    folder,
    batch: (step) => {
      const { images, counts } = countBatch(icons, seed, step, PIXEL_NOISE);
      const oneHot = new Float32Array(BATCH * most);
      for (const [i, count] of counts.entries()) oneHot[i * most + count - 1] = 1;
      return { pixels: float32(images, pixels.shape), targets: float32(oneHot, targets.shape) };
    },
  });
  return flatTensors(training.layout, weights);
}

/** Accuracy on renderings that were not used in training. */
export async function countAccuracy(
  runtime: Runtime,
  icons: Icons,
  weights: ReadonlyMap<string, HostTensor>,
  seed: number,
): Promise<number> {
  const source = fromTensors(weights);
  const pixels = input([BATCH, 3, 64, 64]);
  const graph = {
    name: "count",
    inputs: { pixels },
    outputs: { logits: countLogits(frozenScope(source, "count"), COUNT_MODEL, pixels) },
  };
  const program = await runtime.compile(graph, source);
  let correct = 0;
  const batches = 8;
  for (let step = 0; step < batches; step++) {
    const { images, counts } = countBatch(icons, seed + 1, step, 0);
    const feeds = {
      pixels: float32(
        images.map((x) => x / 2 + 0.5),
        pixels.shape,
      ),
    };
    const logits = toFloat32((await program.run(feeds)).logits as HostTensor);
    for (const [i, count] of counts.entries()) {
      const row = Array.from(logits.subarray(i * COUNT_MODEL.most, (i + 1) * COUNT_MODEL.most));
      if (row.indexOf(Math.max(...row)) === count - 1) correct++;
    }
  }
  await program.release();
  return correct / (batches * BATCH);
}
