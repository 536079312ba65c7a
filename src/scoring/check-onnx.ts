/** Checks an ONNX file as a reward: which of its outputs can be one, and its value and gradient for an image. */

import { gradients, undifferentiable } from "../autodiff/index.js";
import { InputError } from "../errors/index.js";
import type { RgbImage } from "../images/rgb.js";
import { locate } from "../io/package.js";
import { filled, input } from "../ops/index.js";
import { type OnnxReward, type OnnxSettings, openOnnxReward } from "../rewards/index.js";
import { type Program, Runtime, type RuntimeOptions } from "../runtime/runtime.js";
import { type HostTensor, toFloat32 } from "../tensor/host.js";
import { type Shape, sizeOf } from "../tensor/shape.js";

export interface OnnxCheck {
  readonly reward: OnnxReward;
  readonly outputs: readonly CheckedOutput[];
  /** The reward of the image. If the settings choose no number of the output, the largest one. */
  readonly value: number;
  /** d value / d image [1, 3, h, w] */
  readonly gradient: HostTensor;
  /** L2 norm of `gradient`. */
  readonly gradientNorm: number;
  /** What makes training on this reward pointless, or different from what one expects. */
  readonly warnings: readonly string[];
  /** Length of the gradient at each pixel, over a gray copy of the image. */
  readonly heatMap: RgbImage;
  /** Time to compile, and the median time of a few calls with one image. */
  readonly seconds: { readonly compile: number; readonly value: number; readonly gradient: number };
}

export interface CheckedOutput {
  readonly name: string;
  /** Shape for one image; undefined if the output cannot be built. */
  readonly shape: Shape | undefined;
  /** How the output can be a reward. */
  readonly use: "number" | "class" | "similarity" | "map" | "none";
  /** Why the output cannot be a reward; only if `use` is `none`. */
  readonly reason: string | undefined;
}

const TIMED_CALLS = 3;

/**
 * Checks an ONNX reward on an image [1, 3, h, w] in 0 … 1.
 *
 * @throws InputError if the file cannot be a reward; `not-finite` if the reward or its gradient is not finite
 */
export async function checkReward(
  settings: OnnxSettings,
  image: HostTensor,
  runtimeOptions: RuntimeOptions = {},
): Promise<OnnxCheck> {
  const opened = await openOnnxReward(settings, { find: locate }, { whole: true });
  const outputs = opened.file.outputs.map((name) => checkOutput(opened, name, image.shape));
  const images = input(image.shape);
  const { rewards } = opened.reward.build(images);
  const [gradient] = gradients([{ value: rewards, gradient: filled(rewards.shape, 1) }], [images]);
  if (!gradient) throw new TypeError(`${settings.file}: no gradient`);
  const runtime = await Runtime.start(runtimeOptions);
  try {
    const compile = (outputs: Record<string, typeof rewards>) =>
      runtime.compile({ name: settings.file, inputs: { images }, outputs }, opened.reward.weights);
    const began = performance.now();
    const both = await compile({ rewards, gradient });
    const compiled = (performance.now() - began) / 1000;
    const { results, seconds } = await timed(both, image);
    await both.release();
    const forward = await compile({ rewards });
    const value = await timed(forward, image);
    await forward.release();
    const dImage = results.gradient as HostTensor;
    const norm = Math.sqrt(toFloat32(dImage).reduce((total, x) => total + x * x, 0));
    const reward = toFloat32(results.rewards as HostTensor)[0] as number;
    if (!Number.isFinite(reward) || !Number.isFinite(norm)) {
      throw new InputError(
        "not-finite",
        `${settings.file}: the reward of this image is ${reward}, and the norm of its gradient is ${norm}. Check the preprocessing and the weights of the file.`,
        { path: settings.file, reward, norm },
      );
    }
    return {
      reward: opened,
      outputs,
      value: reward,
      gradient: dImage,
      gradientNorm: norm,
      warnings: [...opened.reward.warnings([]), ...gradientWarnings(settings, reward, norm)],
      heatMap: heatMap(image, dImage),
      seconds: { compile: compiled, value: value.seconds, gradient: seconds },
    };
  } finally {
    await runtime.close();
  }
}

/** Norms of gradients of usual rewards with respect to the image lie well between these. */
const USUAL_NORM = [1e-6, 1e4] as const;

function gradientWarnings({ file, score }: OnnxSettings, reward: number, norm: number): string[] {
  const [low, high] = USUAL_NORM;
  const isProbability = score === "softmax" || score === "sigmoid";
  const isSaturated = isProbability && (reward < 1e-4 || reward > 1 - 1e-4);
  const causes = [
    ...(isSaturated
      ? [`score: ${score} is saturated at ${reward.toPrecision(3)} (use score: logit or log-softmax)`]
      : []),
    "the mean and standard deviation that the model was trained with are missing (preprocessing.mean and std)",
    "its input has another range, such as 0 … 255 (preprocessing.range)",
    "every element is beyond the bounds of a ReLU or a Clip",
  ].join("; ");
  if (norm === 0) {
    return [`${file}: the gradient is 0, so training on this image would change nothing. Common causes: ${causes}.`];
  }
  if (norm < low) {
    return [`${file}: the gradient's norm, ${norm.toPrecision(3)}, is unusually small. Common causes: ${causes}.`];
  }
  if (norm > high) {
    return [
      `${file}: the gradient's norm, ${norm.toPrecision(3)}, is unusually large. Check the range of the input, and divide the reward in a sum of rewards (scale).`,
    ];
  }
  return isSaturated ? [`${file}: ${causes.split("; ")[0]}.`] : [];
}

async function timed(program: Program, images: HostTensor) {
  let results = await program.run({ images });
  const seconds: number[] = [];
  for (let i = 0; i < TIMED_CALLS; i++) {
    const began = performance.now();
    results = await program.run({ images });
    seconds.push((performance.now() - began) / 1000);
  }
  return { results, seconds: seconds.sort((a, b) => a - b)[Math.floor(TIMED_CALLS / 2)] as number };
}

function checkOutput(opened: OnnxReward, name: string, shape: Shape): CheckedOutput {
  const images = input(shape);
  const none = (reason: string, shape?: Shape): CheckedOutput => ({ name, shape, use: "none", reason });
  try {
    const value = opened.output(images, name);
    if (value.dtype !== "float32") return none(`its type is ${value.dtype}, which has no gradient`, value.shape);
    const [gradient] = gradients([{ value, gradient: filled(value.shape, 1) }], [images]);
    if (!gradient) {
      const stops = undifferentiable([value], [images]).map(({ op }) => op.name);
      return none(stops[0] ? `${stops[0]} has no gradient` : "it does not depend on the image", value.shape);
    }
    const each = sizeOf(value.shape);
    const rank = value.shape.length;
    const use = each === 1 ? "number" : rank === 2 ? "class" : rank === 4 ? "map" : "similarity";
    return { name, shape: value.shape, use, reason: undefined };
  } catch (error) {
    if (error instanceof InputError) return none(error.message);
    throw error;
  }
}

/** Quantile of the gradient's length that is drawn white. With the maximum, a few extreme pixels would leave the rest dark. */
const WHITE_QUANTILE = 0.99;

/** Draws the gradient's length at each pixel, from black over red and yellow to white, over a dark gray copy of the image. */
function heatMap(image: HostTensor, gradient: HostTensor): RgbImage {
  const [, , height, width] = image.shape as [number, number, number, number];
  const plane = height * width;
  const [colors, dImage] = [toFloat32(image), toFloat32(gradient)];
  const length = (i: number) => Math.hypot(...[0, 1, 2].map((channel) => dImage[channel * plane + i] as number));
  const lengths = Float64Array.from({ length: plane }, (_, i) => length(i));
  const top = lengths.toSorted()[Math.floor(WHITE_QUANTILE * (plane - 1))] || 1;
  const pixels = new Uint8Array(3 * plane);
  for (let i = 0; i < plane; i++) {
    const gray = [0, 1, 2].reduce((total, channel) => total + (colors[channel * plane + i] as number), 0) / 3;
    const heat = Math.min(1, (lengths[i] as number) / top);
    for (let channel = 0; channel < 3; channel++) {
      const flame = Math.min(1, Math.max(0, 3 * heat - channel));
      pixels[3 * i + channel] = Math.round(255 * Math.min(1, 0.3 * gray * (1 - heat) + flame));
    }
  }
  return { width, height, pixels };
}
