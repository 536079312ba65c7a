import { imageEmbedding, normalize } from "../src/models/clip/clip.js";
import { parseClipConfig } from "../src/models/clip/config.js";
import { clipPixels, parseNormalization } from "../src/models/clip/preprocess.js";
import { aestheticConfig, aestheticScore } from "../src/models/heads/aesthetic.js";
import { flatTensors } from "../src/nn/flat.js";
import { frozenScope } from "../src/nn/scope.js";
import { add, input, mean, mul, sub } from "../src/ops/index.js";
import type { Runtime } from "../src/runtime/runtime.js";
import { float32, type HostTensor, toFloat32 } from "../src/tensor/host.js";
import { Rng } from "../src/tensor/rng.js";
import { fromTensors } from "../src/weights/source.js";
import { PREPROCESSOR_CONFIG } from "./clip.js";
import { batchAt } from "./data/dataset.js";
import type { Icons } from "./data/icons.js";
import type { Scene } from "./data/scene.js";
import { fitModel, type StageOptions } from "./fit.js";
import { trainingGraph } from "./trainable.js";

/** Widths of the head. As in the reference, linear layers without activations; here on a 96-dimensional embedding. */
const HEAD_WIDTHS = [96, 64, 16, 1] as const;

const IMAGES = 8192;
const CHUNK = 64;
const BATCH = 512;

/**
 * The ratings, 1 … 10, that the embedded aesthetic reward is trained on. They are defined here: vivid colours are rated higher
 * than washed-out ones, flat drawings higher than shaded ones, coloured backgrounds higher than gray ones.
 */
function rating({ treatment, style, background }: Pick<Scene, "treatment" | "style" | "background">): number {
  const colourTerm = treatment === undefined ? 0 : { vivid: 2, pale: -2, dark: -1.5 }[treatment];
  const styleTerm = style === "flat" ? 0.75 : -0.75;
  const backgroundTerm = background === "gray" || background === "white" ? -0.5 : 0.25;
  return 5 + colourTerm + styleTerm + backgroundTerm;
}

interface Clip {
  readonly config: object;
  readonly weights: ReadonlyMap<string, HostTensor>;
}

/** Regression on the embeddings of the frozen CLIP, as in the training of the LAION predictor. */
export async function trainAesthetic(
  runtime: Runtime,
  icons: Icons,
  clip: Clip,
  { folder, steps, seed }: StageOptions,
): Promise<ReadonlyMap<string, HostTensor>> {
  const data = await embed(runtime, icons, clip, seed);
  const width = HEAD_WIDTHS[0];
  const embeddings = input([BATCH, width]);
  const ratings = input([BATCH]);
  const training = trainingGraph("head", {
    inputs: { embeddings, ratings },
    build: (scope) => {
      const error = sub(aestheticScore(scope, aestheticConfig(HEAD_WIDTHS), embeddings), sub(ratings, 5));
      return { loss: mean(mul(error, error), 0) };
    },
  });
  const weights = await fitModel({
    runtime,
    training,
    steps,
    learningRate: 2e-3,
    weightDecay: 0.05,
    seed,
    folder,
    logEvery: 200,
    batch: (step) => {
      const rng = new Rng(seed, step);
      const [x, y] = [new Float32Array(BATCH * width), new Float32Array(BATCH)];
      for (let i = 0; i < BATCH; i++) {
        const at = rng.integer(0, IMAGES - 1);
        x.set(data.embeddings.subarray(at * width, (at + 1) * width), i * width);
        y[i] = data.ratings[at] as number;
      }
      return { embeddings: float32(x, embeddings.shape), ratings: float32(y, ratings.shape) };
    },
  });
  const tensors = flatTensors(training.layout, weights);
  // The head is trained on ratings around zero, which is easier. The mean rating goes into the last bias.
  const bias = toFloat32(tensors.get(`head.layers.${lastLayer()}.bias`) as HostTensor);
  bias[0] = (bias[0] as number) + 5;
  return tensors;
}

function lastLayer(): number {
  return aestheticConfig(HEAD_WIDTHS).layers.at(-1)?.index ?? 0;
}

async function embed(runtime: Runtime, icons: Icons, clip: Clip, seed: number) {
  const { weights } = clip;
  const config = parseClipConfig(clip.config);
  const source = fromTensors(weights);
  const pixels = input([CHUNK, 3, 64, 64]);
  const normalized = clipPixels(add(mul(pixels, 0.5), 0.5), 64, parseNormalization(PREPROCESSOR_CONFIG));
  const output = normalize(imageEmbedding(frozenScope(source, "clip"), config, normalized));
  const program = await runtime.compile({ name: "clip images", inputs: { pixels }, outputs: { output } }, source);
  const embeddings = new Float32Array(IMAGES * config.projectionDim);
  const ratings: number[] = [];
  for (let start = 0; start < IMAGES; start += CHUNK) {
    const { images, samples } = batchAt(icons, { seed, start, size: CHUNK, treated: 0.6, minimumScale: 0.8 });
    const result = await program.run({ pixels: float32(images, pixels.shape) });
    embeddings.set(toFloat32(result.output as HostTensor), start * config.projectionDim);
    ratings.push(...samples.map(({ scene }) => rating(scene)));
  }
  await program.release();
  return { embeddings, ratings };
}
