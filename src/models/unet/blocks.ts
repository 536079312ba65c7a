import type { Value } from "../../graph/value.js";
import type { Scope } from "../../nn/scope.js";
import { concat, repeatBatch } from "../../ops/index.js";
import { downsample, type ResnetOptions, resnetBlock, upsample } from "../resnet.js";
import { type TransformerOptions, transformer2d } from "./transformer.js";

/** What every block of one U-Net is given: time [b or 1, t], activated already, and the prompt's context [b, n, d]. */
export interface BlockInputs {
  readonly time: Value;
  readonly context: Value;
}

export interface BlockOptions {
  readonly channels: number;
  /** ResNet blocks. */
  readonly layers: number;
  readonly resnet: ResnetOptions;
  /** Cross-attention after the ResNet block of a layer; undefined in DownBlock2D and UpBlock2D. */
  readonly transformer: ((layer: number) => TransformerOptions) | undefined;
}

/**
 * DownBlock2D and CrossAttnDownBlock2D: x [b, c, h, w] → every intermediate result, for the skip connections; the last
 * is the block's output. `padding` is that of the final downsampling, undefined where the level has none.
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
    h = resnetBlock(scope.at("resnets").at(layer), h, channels, time, resnet);
    if (transformer) h = transformer2d(scope.at("attentions").at(layer), h, context, transformer(layer));
    results.push(h);
  }
  if (padding !== undefined) results.push(downsample(scope.at("downsamplers").at(0), h, padding));
  return results;
}

/** UNetMidBlock2DCrossAttn; without a transformer, UNetMidBlock2D: one ResNet block alone. x [b, c, h, w] → same shape */
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
  const h = resnetBlock(scope.at("resnets").at(0), x, channels, time, resnet);
  if (!transformer) return h;
  const attended = transformer2d(scope.at("attentions").at(0), h, context, transformer);
  return resnetBlock(scope.at("resnets").at(1), attended, channels, time, resnet);
}

/**
 * UpBlock2D and CrossAttnUpBlock2D: each ResNet block takes the latest of `skips` (one a layer) beside x [b, c, h, w].
 * Skips from before the prompt came in may have a part of the batch.
 */
export function upBlock(
  scope: Scope,
  x: Value,
  skips: readonly Value[],
  { time, context }: BlockInputs,
  { channels, layers, resnet, transformer, final }: BlockOptions & { readonly final: boolean },
): Value {
  let h = x;
  for (let layer = 0; layer < layers; layer++) {
    h = concat([h, repeatBatch(skips[layers - 1 - layer] as Value, h)], 1);
    h = resnetBlock(scope.at("resnets").at(layer), h, channels, time, resnet);
    if (transformer) h = transformer2d(scope.at("attentions").at(layer), h, context, transformer(layer));
  }
  return final ? h : upsample(scope.at("upsamplers").at(0), h);
}
