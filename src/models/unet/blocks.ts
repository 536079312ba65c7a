import type { Value } from "../../graph/value.js";
import type { Scope } from "../../nn/scope.js";
import { concat, repeatBatch } from "../../ops/index.js";
import { downsample, type ResnetOptions, resnetBlock, upsample } from "../resnet.js";
import { type TransformerOptions, transformer2d } from "./transformer.js";

/** The inputs that all blocks of a U-Net share. */
export interface BlockInputs {
  /** The activated time embedding [b or 1, t]. */
  readonly time: Value;
  /** The encoded prompt [b, n, d]. */
  readonly context: Value;
}

export interface BlockOptions {
  readonly channels: number;
  /** The number of ResNet blocks. */
  readonly layers: number;
  readonly resnet: ResnetOptions;
  /** The transformer after each ResNet block; undefined in DownBlock2D and UpBlock2D. */
  readonly transformer: ((layer: number) => TransformerOptions) | undefined;
}

/**
 * DownBlock2D and CrossAttnDownBlock2D: x [b, c, h, w] → all intermediate states, for the skip connections. The last
 * one is the block's output. `padding` is that of the final downsampling; undefined if the level has none.
 */
export function downBlock(
  scope: Scope,
  x: Value,
  { time, context }: BlockInputs,
  { channels, layers, resnet, transformer, padding }: BlockOptions & { readonly padding: number | undefined },
): Value[] {
  const results: Value[] = [];
  let h = x;
  for (let layer = 0; layer < layers; layer++) {
    h = resnetBlock(scope.at("resnets").at(layer), h, channels, { ...resnet, time });
    if (transformer) h = transformer2d(scope.at("attentions").at(layer), h, context, transformer(layer));
    results.push(h);
  }
  if (padding !== undefined) results.push(downsample(scope.at("downsamplers").at(0), h, padding));
  return results;
}

/**
 * UNetMidBlock2DCrossAttn, or UNetMidBlock2D (a single ResNet block) without a transformer. x [b, c, h, w] → same shape
 */
export function midBlock(
  scope: Scope,
  x: Value,
  { time, context }: BlockInputs,
  {
    channels,
    resnet,
    transformer,
  }: Pick<BlockOptions, "channels" | "resnet"> & { readonly transformer: TransformerOptions | undefined },
): Value {
  const h = resnetBlock(scope.at("resnets").at(0), x, channels, { ...resnet, time });
  if (!transformer) return h;
  const attended = transformer2d(scope.at("attentions").at(0), h, context, transformer);
  return resnetBlock(scope.at("resnets").at(1), attended, channels, { ...resnet, time });
}

/**
 * UpBlock2D and CrossAttnUpBlock2D: x [b, c, h, w] → [b, channels, 2h, 2w], or [b, channels, h, w] in the `final`
 * block. Each ResNet block concatenates the last remaining of `skips` to its input. Skips from before the first
 * cross-attention may have a smaller batch, which is repeated.
 */
export function upBlock(
  scope: Scope,
  x: Value,
  { time, context, skips }: BlockInputs & { readonly skips: readonly Value[] },
  { channels, layers, resnet, transformer, final }: BlockOptions & { readonly final: boolean },
): Value {
  let h = x;
  for (let layer = 0; layer < layers; layer++) {
    h = concat([h, repeatBatch(skips[layers - 1 - layer] as Value, h)], 1);
    h = resnetBlock(scope.at("resnets").at(layer), h, channels, { ...resnet, time });
    if (transformer) h = transformer2d(scope.at("attentions").at(layer), h, context, transformer(layer));
  }
  return final ? h : upsample(scope.at("upsamplers").at(0), h);
}
