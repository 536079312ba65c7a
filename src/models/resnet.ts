import type { Value } from "../graph/value.js";
import { type Activation, activations, conv2d, groupNorm, linear } from "../nn/layers.js";
import type { Scope } from "../nn/scope.js";
import { add, mul, reshape, slice, upsampleNearest } from "../ops/index.js";

/** The convolutional blocks that the U-Net and the VAE share, with diffusers' names. */

export interface ResnetOptions {
  readonly groups: number;
  readonly epsilon: number;
  readonly activation: Activation;
  /** The activated time embedding [b or 1, t]; undefined in the VAE. */
  readonly time?: Value | undefined;
  /** Scale and shift the normalized state by the time embedding (Dhariwal & Nichol 2021) instead of adding it. */
  readonly timeScaleShift?: boolean;
  /** Initialize the block as the identity, for training from scratch. */
  readonly zeroInit?: boolean;
}

/** ResnetBlock2D: x [b, in, h, w] → [b, out, h, w] */
export function resnetBlock(
  scope: Scope,
  x: Value,
  outChannels: number,
  { groups, epsilon, activation, time, timeScaleShift = false, zeroInit = false }: ResnetOptions,
): Value {
  const act = activations[activation];
  let h = act(groupNorm(scope.at("norm1"), x, groups, epsilon));
  h = conv2d(scope.at("conv1"), h, { outChannels, kernel: 3, padding: 1 });
  const timeFeatures = timeScaleShift ? 2 * outChannels : outChannels;
  const t = time && reshape(linear(scope.at("time_emb_proj"), time, timeFeatures), [-1, timeFeatures, 1, 1]);
  if (t && !timeScaleShift) h = add(h, t);
  h = groupNorm(scope.at("norm2"), h, groups, epsilon);
  if (t && timeScaleShift) {
    h = add(mul(h, add(slice(t, 1, [0, outChannels]), 1)), slice(t, 1, [outChannels, timeFeatures]));
  }
  h = act(h);
  h = conv2d(scope.at("conv2"), h, { outChannels, kernel: 3, padding: 1, zeroInit });
  const shortcut = x.shape[1] === outChannels ? x : conv2d(scope.at("conv_shortcut"), x, { outChannels, kernel: 1 });
  return add(shortcut, h);
}

/** Downsample2D: x [b, c, h, w] → [b, c, h/2, w/2]. With padding 0 (the VAE), only the right and bottom are padded. */
export function downsample(scope: Scope, x: Value, padding: number): Value {
  return conv2d(scope.at("conv"), x, {
    outChannels: x.shape[1] as number,
    kernel: 3,
    stride: 2,
    padding: padding === 0 ? [0, 0, 1, 1] : padding,
  });
}

/** Upsample2D: x [b, c, h, w] → [b, c, 2h, 2w] */
export function upsample(scope: Scope, x: Value): Value {
  return conv2d(scope.at("conv"), upsampleNearest(x, 2), { outChannels: x.shape[1] as number, kernel: 3, padding: 1 });
}
