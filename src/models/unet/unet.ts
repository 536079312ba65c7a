import type { Value } from "../../graph/value.js";
import { activations, conv2d, groupNorm } from "../../nn/layers.js";
import type { Scope } from "../../nn/scope.js";
import { add, concat, input, mul, repeatBatch, reshape, sub } from "../../ops/index.js";
import { sameShape, showShape } from "../../tensor/shape.js";
import { type BlockInputs, downBlock, midBlock, upBlock } from "./blocks.js";
import { TIME_IDS, type UnetAddition, type UnetConfig, type UnetLevel } from "./config.js";
import { sinusoidalEmbedding, timeEmbedding } from "./time-embedding.js";

export interface UnetInputs {
  /**
   * Noisy latents [b, inChannels, h, w]. h and w must be divisible by 2 at each level except the last. The number of
   * prompts may be a multiple of b; then each block of b prompts uses the same latents, and the layers before the first
   * cross-attention run only once. The two branches of guidance use this.
   */
  readonly sample: Value;
  /** float32 [b], or [1] if the whole batch has the same timestep. */
  readonly timestep: Value;
  /** The prompt's hidden states [b, n, crossAttentionDim]. */
  readonly encoderHiddenStates: Value;
  /** Required if the config has an `addition`. */
  readonly added?: AddedConditions | undefined;
}

/** The `added_cond_kwargs` of Stable Diffusion XL in diffusers. */
export interface AddedConditions {
  /** The pooled prompt [b, pooledFeatures]. */
  readonly textEmbeds: Value;
  /** Image sizes [b, 6]; see `TIME_IDS`. */
  readonly timeIds: Value;
}

/**
 * UNet2DConditionModel (Rombach et al. 2022) → predicted noise or velocity [b, outChannels, h, w]
 * @throws TypeError if an input has the wrong shape
 */
export function unet(scope: Scope, config: UnetConfig, inputs: UnetInputs): Value {
  checkInputs(config, inputs);
  const { sample, timestep, encoderHiddenStates, added } = inputs;
  const { levels } = config;
  const first = levels[0] as UnetLevel;
  const last = levels[levels.length - 1] as UnetLevel;
  const act = activations[config.activation];
  // Residual branches and the output are initialized to zero, as in the code of Ho et al. 2020.
  const resnet = {
    groups: config.normNumGroups,
    epsilon: config.normEps,
    activation: config.activation,
    timeScaleShift: config.timeScaleShift,
    zeroInit: true,
  };
  const transformer =
    ({ heads, onlyCrossAttention }: UnetLevel, layers: readonly number[]) =>
    (layer: number) => ({
      heads,
      layers: layers[layer] as number,
      groups: config.normNumGroups,
      useLinearProjection: config.useLinearProjection,
      onlyCrossAttention,
    });

  const sinusoids = sinusoidalEmbedding(timestep, first.channels, config);
  let time = timeEmbedding(scope.at("time_embedding"), sinusoids, config.timeEmbeddingDim, config.activation);
  if (config.addition && added) {
    const embedded = addedEmbedding(config, config.addition, added);
    const addition = timeEmbedding(scope.at("add_embedding"), embedded, config.timeEmbeddingDim);
    time = add(repeatBatch(time, addition), addition);
  }
  // In diffusers, every ResNet block activates the time embedding. Here it is done once.
  const blockInputs: BlockInputs = { time: act(time), context: encoderHiddenStates };

  const centered = config.centerInputSample ? sub(mul(sample, 2), 1) : sample;
  const padding = (config.convInKernel - 1) / 2;
  let h = conv2d(scope.at("conv_in"), centered, { outChannels: first.channels, kernel: config.convInKernel, padding });
  // The pooled prompt is added to the time embedding, so the branches differ from the first ResNet block on.
  if (added) h = repeatBatch(h, encoderHiddenStates);
  const skips = [h];

  for (const [i, level] of levels.entries()) {
    const results = downBlock(scope.at("down_blocks").at(i), h, blockInputs, {
      channels: level.channels,
      layers: level.layers,
      resnet,
      transformer:
        level.downBlockType === "CrossAttnDownBlock2D" ? transformer(level, level.transformerLayers.down) : undefined,
      padding: i < levels.length - 1 ? config.downsamplePadding : undefined,
    });
    skips.push(...results);
    h = results[results.length - 1] as Value;
  }

  if (config.midBlockType !== null) {
    h = midBlock(scope.at("mid_block"), h, blockInputs, {
      channels: last.channels,
      resnet,
      // diffusers does not apply only_cross_attention to the mid block.
      transformer:
        config.midBlockType === "UNetMidBlock2DCrossAttn"
          ? transformer({ ...last, onlyCrossAttention: false }, last.transformerLayers.down)(0)
          : undefined,
    });
  }

  for (const [i, upBlockType] of config.upBlockTypes.entries()) {
    const level = levels[levels.length - 1 - i] as UnetLevel;
    const layers = level.layers + 1;
    h = upBlock(
      scope.at("up_blocks").at(i),
      h,
      { ...blockInputs, skips: skips.splice(-layers) },
      {
        channels: level.channels,
        layers,
        resnet,
        transformer: upBlockType === "CrossAttnUpBlock2D" ? transformer(level, level.transformerLayers.up) : undefined,
        final: i === levels.length - 1,
      },
    );
  }

  h = act(groupNorm(scope.at("conv_norm_out"), h, config.normNumGroups, config.normEps));
  return conv2d(scope.at("conv_out"), h, {
    outChannels: config.outChannels,
    kernel: config.convOutKernel,
    padding: (config.convOutKernel - 1) / 2,
    zeroInit: true,
  });
}

/**
 * The input of `add_embedding`: the pooled prompt and the sines and cosines of each size, concatenated → [b, features]
 */
function addedEmbedding(config: UnetConfig, { timeFeatures }: UnetAddition, { textEmbeds, timeIds }: AddedConditions) {
  const [batch, numbers] = timeIds.shape as [number, number];
  const sinusoids = sinusoidalEmbedding(reshape(timeIds, [batch * numbers]), timeFeatures, config);
  return concat([textEmbeds, reshape(sinusoids, [batch, numbers * timeFeatures])], 1);
}

/** Creates graph inputs of the right shapes. `timesteps` is 1 if the whole batch has the same timestep. */
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
  const { addition } = config;
  return {
    sample: input([batch, config.inChannels, height, width]),
    timestep: input([timesteps]),
    encoderHiddenStates: input([batch, tokens, config.crossAttentionDim]),
    added: addition && { textEmbeds: input([batch, addition.pooledFeatures]), timeIds: input([batch, TIME_IDS]) },
  };
}

function checkInputs(config: UnetConfig, { sample, encoderHiddenStates, added }: UnetInputs): void {
  const [, channels, height = 0, width = 0] = sample.shape;
  const [batch] = encoderHiddenStates.shape as [number];
  const factor = 2 ** (config.levels.length - 1);
  if (channels !== config.inChannels || height % factor !== 0 || width % factor !== 0) {
    throw new TypeError(
      `unet: sample ${showShape(sample.shape)} must be [b, ${config.inChannels}, h, w] ` +
        `with h and w multiples of ${factor}`,
    );
  }
  if (encoderHiddenStates.shape[2] !== config.crossAttentionDim) {
    throw new TypeError(
      `unet: encoderHiddenStates ${showShape(encoderHiddenStates.shape)} must be [b, n, ${config.crossAttentionDim}]`,
    );
  }
  const { addition } = config;
  if ((addition === undefined) !== (added === undefined)) {
    throw new TypeError(
      added
        ? "unet: a model without addition_embed_type takes no added conditions"
        : "unet: a model with addition_embed_type needs added conditions",
    );
  }
  if (!addition || !added) return;
  const { textEmbeds, timeIds } = added;
  if (!sameShape(textEmbeds.shape, [batch, addition.pooledFeatures])) {
    throw new TypeError(
      `unet: textEmbeds ${showShape(textEmbeds.shape)} must be [${batch}, ${addition.pooledFeatures}]`,
    );
  }
  if (!sameShape(timeIds.shape, [batch, TIME_IDS])) {
    throw new TypeError(`unet: timeIds ${showShape(timeIds.shape)} must be [${batch}, ${TIME_IDS}]`);
  }
}
