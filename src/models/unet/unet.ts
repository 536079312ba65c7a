import type { Value } from "../../graph/value.js";
import { activations, conv2d, groupNorm } from "../../nn/layers.js";
import type { Scope } from "../../nn/scope.js";
import { input, mul, sub } from "../../ops/index.js";
import { showShape } from "../../tensor/shape.js";
import { type Conditioning, downBlock, midBlock, upBlock } from "./blocks.js";
import type { UnetConfig, UnetLevel } from "./config.js";
import { sinusoidalEmbedding, timeEmbedding } from "./time-embedding.js";

export interface UnetInputs {
  /**
   * Noisy latents [b, inChannels, h, w]; h and w divide by 2 at each level but the last. Where the prompts' b is a multiple
   * of this one, the latents are those of each part in turn, and what comes before the first cross-attention runs once
   * for all parts: the two branches of guidance begin alike.
   */
  readonly sample: Value;
  /** float32 [b] of the latents, or [1] where the batch shares it. */
  readonly timestep: Value;
  /** The prompt's last hidden state [b, n, crossAttentionDim]. */
  readonly encoderHiddenStates: Value;
}

/** UNet2DConditionModel (Rombach et al. 2022): → predicted noise or velocity [b, outChannels, h, w] */
export function unet(scope: Scope, config: UnetConfig, { sample, timestep, encoderHiddenStates }: UnetInputs): Value {
  checkInputs(config, sample, encoderHiddenStates);
  const { levels } = config;
  const first = levels[0] as UnetLevel;
  const last = levels[levels.length - 1] as UnetLevel;
  const act = activations[config.activation];
  // Residual branches and the output start as zero, as in Ho et al. 2020's code.
  const resnet = {
    groups: config.normNumGroups,
    epsilon: config.normEps,
    activation: config.activation,
    zeroInit: true,
  };
  const transformer = ({ heads, transformerLayers }: UnetLevel) => ({
    heads,
    layers: transformerLayers,
    groups: config.normNumGroups,
    useLinearProjection: config.useLinearProjection,
  });

  const sinusoids = sinusoidalEmbedding(timestep, first.channels, config);
  const time = timeEmbedding(scope.at("time_embedding"), sinusoids, 4 * first.channels);
  // Every ResNet block activates the time embedding; it is done here once.
  const conditioning: Conditioning = { time: act(time), context: encoderHiddenStates };

  const centered = config.centerInputSample ? sub(mul(sample, 2), 1) : sample;
  const padding = (config.convInKernel - 1) / 2;
  let h = conv2d(scope.at("conv_in"), centered, first.channels, config.convInKernel, { padding });
  const skips = [h];

  for (const [i, level] of levels.entries()) {
    const results = downBlock(scope.at("down_blocks").at(i), h, conditioning, {
      channels: level.channels,
      layers: level.layers,
      resnet,
      transformer: level.downBlockType === "CrossAttnDownBlock2D" ? transformer(level) : undefined,
      padding: i < levels.length - 1 ? config.downsamplePadding : undefined,
    });
    skips.push(...results);
    h = results[results.length - 1] as Value;
  }

  h = midBlock(scope.at("mid_block"), h, conditioning, {
    channels: last.channels,
    resnet,
    transformer: transformer(last),
  });

  for (const [i, upBlockType] of config.upBlockTypes.entries()) {
    const level = levels[levels.length - 1 - i] as UnetLevel;
    const layers = level.layers + 1;
    h = upBlock(scope.at("up_blocks").at(i), h, skips.splice(-layers), conditioning, {
      channels: level.channels,
      layers,
      resnet,
      transformer: upBlockType === "CrossAttnUpBlock2D" ? transformer(level) : undefined,
      final: i === levels.length - 1,
    });
  }

  h = act(groupNorm(scope.at("conv_norm_out"), h, config.normNumGroups, config.normEps));
  return conv2d(scope.at("conv_out"), h, config.outChannels, config.convOutKernel, {
    padding: (config.convOutKernel - 1) / 2,
    zeroInit: true,
  });
}

/** Graph inputs of the right shapes. `timesteps` is 1 where the batch shares its timestep. */
export function unetInputs(
  config: UnetConfig,
  {
    batch,
    height,
    width,
    tokens,
    timesteps = batch,
  }: { batch: number; height: number; width: number; tokens: number; timesteps?: number },
): UnetInputs {
  return {
    sample: input([batch, config.inChannels, height, width]),
    timestep: input([timesteps]),
    encoderHiddenStates: input([batch, tokens, config.crossAttentionDim]),
  };
}

function checkInputs(config: UnetConfig, sample: Value, encoderHiddenStates: Value): void {
  const [, channels, height = 0, width = 0] = sample.shape;
  const factor = 2 ** (config.levels.length - 1);
  if (channels !== config.inChannels || height % factor !== 0 || width % factor !== 0) {
    throw new TypeError(
      `unet: sample ${showShape(sample.shape)} must be [b, ${config.inChannels}, h, w] with h and w multiples of ${factor}`,
    );
  }
  if (encoderHiddenStates.shape[2] !== config.crossAttentionDim) {
    throw new TypeError(
      `unet: encoderHiddenStates ${showShape(encoderHiddenStates.shape)} must be [b, n, ${config.crossAttentionDim}]`,
    );
  }
}
