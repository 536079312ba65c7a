import { imageEmbedding, normalize } from "../src/models/clip/clip.js";
import { type ClipConfig, parseClipConfig } from "../src/models/clip/config.js";
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
import { fitModel } from "./fit.js";
import { trainingGraph } from "./trainable.js";

/** The widths of the head: the reference's form (Linear layers, nothing between them) on a 96-dimensional embedding. */
const HEAD_WIDTHS = [96, 64, 16, 1] as const;

const PICTURES = 8192;
const CHUNK = 64;
const BATCH = 512;

/**
 * The preferences that the embedded aesthetic reward learns, as ratings of 1 … 10. Ours by definition: vivid colours please
 * and washed-out ones do not, flat drawing is preferred to shaded, a coloured background to a gray one.
 */
function rating({ treatment, style, background }: Pick<Scene, "treatment" | "style" | "background">): number {
  const colours = treatment === undefined ? 0 : { vivid: 2, pale: -2, dark: -1.5 }[treatment];
  const drawing = style === "flat" ? 0.75 : -0.75;
  const ground = background === "gray" || background === "white" ? -0.5 : 0.25;
  return 5 + colours + drawing + ground;
}

/** Regression on the frozen CLIP's embeddings, as the LAION predictor was trained. */
export async function trainAesthetic(
  runtime: Runtime,
  icons: Icons,
  clip: { readonly config: object; readonly weights: ReadonlyMap<string, HostTensor> },
  folder: string,
  steps: number,
  seed: number,
): Promise<ReadonlyMap<string, HostTensor>> {
  const data = await embed(runtime, icons, parseClipConfig(clip.config), clip.weights, seed);
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
        const at = rng.integer(0, PICTURES - 1);
        x.set(data.embeddings.subarray(at * width, (at + 1) * width), i * width);
        y[i] = data.ratings[at] as number;
      }
      return { embeddings: float32(x, embeddings.shape), ratings: float32(y, ratings.shape) };
    },
  });
  const tensors = flatTensors(training.layout, weights);
  // Learnt around zero, which is easier; the mean rating goes into the last bias.
  const bias = toFloat32(tensors.get(`head.layers.${lastLayer()}.bias`) as HostTensor);
  bias[0] = (bias[0] as number) + 5;
  return tensors;
}

function lastLayer(): number {
  return aestheticConfig(HEAD_WIDTHS).layers.at(-1)?.index ?? 0;
}

async function embed(
  runtime: Runtime,
  icons: Icons,
  config: ClipConfig,
  weights: ReadonlyMap<string, HostTensor>,
  seed: number,
) {
  const source = fromTensors(weights);
  const pixels = input([CHUNK, 3, 64, 64]);
  const images = clipPixels(add(mul(pixels, 0.5), 0.5), 64, parseNormalization(PREPROCESSOR_CONFIG));
  const output = normalize(imageEmbedding(frozenScope(source, "clip"), config, images));
  const program = await runtime.compile({ name: "clip images", inputs: { pixels }, outputs: { output } }, source);
  const embeddings = new Float32Array(PICTURES * config.projectionDim);
  const ratings: number[] = [];
  for (let start = 0; start < PICTURES; start += CHUNK) {
    const { pictures, samples } = batchAt(icons, { seed, start, size: CHUNK, treated: 0.6, minimumScale: 0.8 });
    const result = await program.run({ pixels: float32(pictures, pixels.shape) });
    embeddings.set(toFloat32(result.output as HostTensor), start * config.projectionDim);
    ratings.push(...samples.map(({ scene }) => rating(scene)));
  }
  await program.release();
  return { embeddings, ratings };
}
