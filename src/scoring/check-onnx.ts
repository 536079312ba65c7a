/** What an ONNX file is as a reward: what was found in it, and what it says of one picture. */

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
  readonly judge: OnnxReward;
  readonly outputs: readonly CheckedOutput[];
  /** What the picture gets; where nothing was chosen in the settings, the largest number of the output. */
  readonly value: number;
  /** d value / d picture [1, 3, h, w] */
  readonly gradient: HostTensor;
  readonly gradientNorm: number;
  /** The gradient's size at each pixel, over the picture in gray. */
  readonly heatMap: RgbImage;
  /** Medians of a few calls, with one picture. */
  readonly seconds: { readonly compile: number; readonly value: number; readonly gradient: number };
}

export interface CheckedOutput {
  readonly name: string;
  /** For one picture; undefined where the output cannot be built. */
  readonly shape: Shape | undefined;
  /** How it can be a reward, or why it cannot. */
  readonly use: "number" | "class" | "similarity" | "none";
  readonly reason: string | undefined;
}

const TIMED_CALLS = 3;

/** `picture` is [1, 3, h, w] in 0 … 1. */
export async function checkReward(
  settings: OnnxSettings,
  picture: HostTensor,
  runtimeOptions: RuntimeOptions = {},
): Promise<OnnxCheck> {
  const judge = await openOnnxReward(settings, { find: locate }, { whole: true });
  const outputs = judge.file.outputs.map((name) => checkOutput(judge, name, picture.shape));
  const images = input(picture.shape);
  const { rewards } = judge.reward.build(images);
  const [gradient] = gradients([{ value: rewards, gradient: filled(rewards.shape, 1) }], [images]);
  if (!gradient) throw new TypeError(`${settings.file}: no gradient`);
  const runtime = await Runtime.start(runtimeOptions);
  try {
    const compile = (outputs: Record<string, typeof rewards>) =>
      runtime.compile({ name: settings.file, inputs: { images }, outputs }, judge.reward.weights);
    const began = performance.now();
    const both = await compile({ rewards, gradient });
    const compiled = (performance.now() - began) / 1000;
    const { results, seconds } = await timed(both, picture);
    await both.release();
    const forward = await compile({ rewards });
    const value = await timed(forward, picture);
    await forward.release();
    const slope = results.gradient as HostTensor;
    const norm = Math.sqrt(toFloat32(slope).reduce((total, x) => total + x * x, 0));
    const [found] = toFloat32(results.rewards as HostTensor);
    if (!Number.isFinite(found) || !Number.isFinite(norm)) {
      throw new InputError(
        "reward-invalid",
        `${settings.file}: the reward of this picture is ${found}, and its gradient's norm ${norm}; do the preprocessing and the weights fit?`,
      );
    }
    return {
      judge,
      outputs,
      value: found as number,
      gradient: slope,
      gradientNorm: norm,
      heatMap: heatMap(picture, slope),
      seconds: { compile: compiled, value: value.seconds, gradient: seconds },
    };
  } finally {
    await runtime.close();
  }
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

function checkOutput(judge: OnnxReward, name: string, shape: Shape): CheckedOutput {
  const images = input(shape);
  const none = (reason: string, shape?: Shape): CheckedOutput => ({ name, shape, use: "none", reason });
  try {
    const value = judge.output(images, name);
    if (value.dtype !== "float32") return none(`its numbers are ${value.dtype}, which have no gradient`, value.shape);
    const [gradient] = gradients([{ value, gradient: filled(value.shape, 1) }], [images]);
    if (!gradient) {
      const stops = undifferentiable([value], [images]).map(({ op }) => op.name);
      return none(stops[0] ? `no gradient passes ${stops[0]}` : "it does not depend on the picture", value.shape);
    }
    const each = sizeOf(value.shape);
    const use = each === 1 ? "number" : value.shape.length === 2 ? "class" : "similarity";
    return { name, shape: value.shape, use, reason: undefined };
  } catch (error) {
    if (error instanceof InputError) return none(error.message);
    throw error;
  }
}

/** Beyond this share of pixels all count as the hottest: a few extreme ones would leave the rest dark. */
const HOTTEST = 0.99;

/** The gradient's length at each pixel from black over red and yellow to white, over a gray and dark picture. */
function heatMap(picture: HostTensor, gradient: HostTensor): RgbImage {
  const [, , height, width] = picture.shape as [number, number, number, number];
  const plane = height * width;
  const [colours, slopes] = [toFloat32(picture), toFloat32(gradient)];
  const length = (i: number) => Math.hypot(...[0, 1, 2].map((channel) => slopes[channel * plane + i] as number));
  const lengths = Float64Array.from({ length: plane }, (_, i) => length(i));
  const top = lengths.toSorted()[Math.floor(HOTTEST * (plane - 1))] || 1;
  const pixels = new Uint8Array(3 * plane);
  for (let i = 0; i < plane; i++) {
    const gray = [0, 1, 2].reduce((total, channel) => total + (colours[channel * plane + i] as number), 0) / 3;
    const heat = Math.min(1, (lengths[i] as number) / top);
    for (let channel = 0; channel < 3; channel++) {
      const flame = Math.min(1, Math.max(0, 3 * heat - channel));
      pixels[3 * i + channel] = Math.round(255 * Math.min(1, 0.3 * gray * (1 - heat) + flame));
    }
  }
  return { width, height, pixels };
}
