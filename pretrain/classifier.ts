import type { Value } from "../src/graph/value.js";
import { flatTensors } from "../src/nn/flat.js";
import { conv2d, groupNorm, linear } from "../src/nn/layers.js";
import { frozenScope, type Scope } from "../src/nn/scope.js";
import { input, mean, mul, silu, softmax, sum } from "../src/ops/index.js";
import type { Runtime } from "../src/runtime/runtime.js";
import { float32, type HostTensor, toFloat32 } from "../src/tensor/host.js";
import { Rng } from "../src/tensor/rng.js";
import { fromTensors } from "../src/weights/source.js";
import { ANIMALS } from "./data/animals.js";
import { batchAt } from "./data/dataset.js";
import type { Icons } from "./data/icons.js";
import { IMAGE_LENGTH } from "./data/render.js";
import { fitModel, type StageOptions } from "./fit.js";
import { crossEntropy } from "./losses.js";
import { trainingGraph } from "./trainable.js";

/**
 * A classifier of animals, which measures the quality of the embedded model. It is trained on renderings, not on generated
 * images, and used for nothing else.
 */

const BATCH = 64;

/** pixels [b, 3, 64, 64] in -1 … 1 → logits [b, 51] */
function classify(scope: Scope, pixels: Value): Value {
  let h = pixels;
  for (const [i, channels] of [32, 64, 96, 128].entries()) {
    h = conv2d(scope.at("convs").at(i), h, { outChannels: channels, kernel: 3, stride: 2, padding: 1 });
    h = silu(groupNorm(scope.at("norms").at(i), h, 8, 1e-5));
  }
  return linear(scope.at("head"), mean(h, [2, 3]), ANIMALS.length);
}

export async function trainClassifier(runtime: Runtime, icons: Icons, { folder, steps, seed }: StageOptions) {
  const pixels = input([BATCH, 3, 64, 64]);
  const targets = input([BATCH, ANIMALS.length]);
  const training = trainingGraph("classifier", {
    inputs: { pixels, targets },
    build: (scope) => {
      const logits = classify(scope, pixels);
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
    learningRate: 2e-3,
    averageDecay: 0.995,
    seed,
    folder,
    logEvery: 100,
    batch: (step) => {
      const { images, labels } = batchAt(icons, {
        seed,
        start: step * BATCH,
        size: BATCH,
        several: 0.1,
        minimumScale: 0.7,
        tilt: 14,
        treated: 0.3,
      });
      const rng = new Rng(seed, 1, step);
      for (let i = 0; i < BATCH * IMAGE_LENGTH; i++) images[i] = (images[i] as number) + 0.1 * rng.normal();
      const oneHot = new Float32Array(BATCH * ANIMALS.length);
      for (const [i, label] of labels.entries()) oneHot[i * ANIMALS.length + label] = 1;
      return { pixels: float32(images, pixels.shape), targets: float32(oneHot, targets.shape) };
    },
  });
  return flatTensors(training.layout, weights);
}

/** images [n, 3, 64, 64] in -1 … 1 → the predicted index into ANIMALS for each. */
export async function classifyImages(
  runtime: Runtime,
  weights: ReadonlyMap<string, HostTensor>,
  images: Float32Array,
): Promise<number[]> {
  const source = fromTensors(weights);
  const count = images.length / IMAGE_LENGTH;
  const pixels = input([count, 3, 64, 64]);
  const logits = classify(frozenScope(source, "classifier"), pixels);
  const program = await runtime.compile({ name: "classifier", inputs: { pixels }, outputs: { logits } }, source);
  const result = toFloat32((await program.run({ pixels: float32(images, pixels.shape) })).logits as HostTensor);
  await program.release();
  return Array.from({ length: count }, (_, i) => {
    const row = Array.from(result.subarray(i * ANIMALS.length, (i + 1) * ANIMALS.length));
    return row.indexOf(Math.max(...row));
  });
}
