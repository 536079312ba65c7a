/**
 * ResNet (He et al. 2015, arXiv 1512.03385) as detectors use it: the last stage's features, and batch normalisation frozen, so
 * that it is a scale and a bias of the convolution before it. Files name its parts as timm and torchvision do or as transformers does.
 */

import { InputError } from "../../errors/index.js";
import type { Value } from "../../graph/value.js";
import { type Activation, activations } from "../../nn/layers.js";
import { fanInUniform, ONES, type Scope, ZEROS } from "../../nn/scope.js";
import { add, conv2d, div, maxPool, mul, reshape, sqrt, sub } from "../../ops/index.js";
import type { WeightSource } from "../../weights/source.js";

export interface ResNetConfig {
  readonly names: ResNetNames;
  readonly stemWidth: number;
  readonly stages: readonly ResNetStage[];
  /** Two convolutions of 3x3, or one between two of 1x1 at a quarter of the width. */
  readonly block: "basic" | "bottleneck";
  /** Of a bottleneck: halve in its first convolution, and not in the one of 3x3. */
  readonly strideFirst: boolean;
  readonly activation: Activation;
}

export interface ResNetStage {
  readonly width: number;
  readonly depth: number;
  readonly stride: 1 | 2;
  /** Of the 3x3 convolutions of all its blocks but the first. */
  readonly dilation: 1 | 2;
}

/** Where a convolution and its normalisation lie, from the place of what holds them. */
type Layer = readonly [convolution: string, normalization: string];

interface ResNetNames {
  readonly stem: Layer;
  block(stage: number, block: number): string;
  layer(index: number): Layer;
  readonly shortcut: Layer;
}

const TRANSFORMERS: ResNetNames = {
  stem: ["embedder.embedder.convolution", "embedder.embedder.normalization"],
  block: (stage, block) => `encoder.stages.${stage}.layers.${block}`,
  layer: (index) => [`layer.${index}.convolution`, `layer.${index}.normalization`],
  shortcut: ["shortcut.convolution", "shortcut.normalization"],
};

const TIMM: ResNetNames = {
  stem: ["conv1", "bn1"],
  block: (stage, block) => `layer${stage + 1}.${block}`,
  layer: (index) => [`conv${index + 1}`, `bn${index + 1}`],
  shortcut: ["downsample.0", "downsample.1"],
};

export function transformersResNet(config: {
  readonly embedding_size: number;
  readonly hidden_sizes: readonly number[];
  readonly depths: readonly number[];
  readonly layer_type: "basic" | "bottleneck";
  readonly hidden_act: Activation;
  readonly downsample_in_first_stage: boolean;
  readonly downsample_in_bottleneck: boolean;
}): ResNetConfig {
  return {
    names: TRANSFORMERS,
    stemWidth: config.embedding_size,
    stages: config.hidden_sizes.map((width, i) => ({
      width,
      depth: config.depths[i] as number,
      stride: i > 0 || config.downsample_in_first_stage ? 2 : 1,
      dilation: 1,
    })),
    block: config.layer_type,
    strideFirst: config.downsample_in_bottleneck,
    activation: config.hidden_act,
  };
}

const STAGES = 4;
const MOST_BLOCKS = 1000;

/** The sizes that the tensors under `path` have. `dilated`: the last stage looks further instead of halving. */
export function timmResNet(
  weights: WeightSource,
  path: string,
  { dilated }: { readonly dilated: boolean },
): ResNetConfig {
  /** Output channels of a convolution. */
  const width = (name: string): number => {
    const shape = weights.get(`${path}.${name}.weight`)?.shape;
    if (shape?.length !== 4) {
      throw new InputError(
        "config-invalid",
        `${weights.describe}: has no convolution ${path}.${name}.weight, which a ResNet of timm has. Do the weights belong to this config.json?`,
      );
    }
    return shape[0] as number;
  };
  const has = (name: string) => weights.get(`${path}.${name}.weight`) !== undefined;
  const block = has("layer1.0.conv3") ? "bottleneck" : "basic";
  const stages = Array.from({ length: STAGES }, (_, stage): ResNetStage => {
    const at = (index: number) => TIMM.block(stage, index);
    let depth = 1;
    while (depth < MOST_BLOCKS && has(`${at(depth)}.conv1`)) depth++;
    const last = stage === STAGES - 1;
    return {
      width: width(`${at(0)}.${block === "bottleneck" ? "conv3" : "conv2"}`),
      depth,
      stride: stage === 0 || (last && dilated) ? 1 : 2,
      dilation: last && dilated ? 2 : 1,
    };
  });
  return { names: TIMM, stemWidth: width("conv1"), stages, block, strideFirst: false, activation: "relu" };
}

/** pixels [b, 3, h, w] → [b, the last stage's width, ⌈h/32⌉, ⌈w/32⌉] where four stages halve three times */
export function resNet(scope: Scope, config: ResNetConfig, pixels: Value): Value {
  const { names, stages, stemWidth } = config;
  const act = activations[config.activation];
  const stem = act(normalizedConv(scope, names.stem, pixels, stemWidth, { kernel: 7, stride: 2 }));
  let h = maxPool(stem, 3, { stride: 2, padding: 1 });
  for (const [i, { width, depth, stride, dilation }] of stages.entries()) {
    for (let j = 0; j < depth; j++) {
      const own = j === 0 ? { stride, dilation: 1 } : { stride: 1, dilation };
      h = act(residualBlock(scope.at(names.block(i, j)), config, h, width, own));
    }
  }
  return h;
}

/** x [b, in, h, w] → [b, width, h / stride, w / stride], before the last activation */
function residualBlock(
  scope: Scope,
  { names, block, strideFirst, activation }: ResNetConfig,
  x: Value,
  width: number,
  { stride, dilation }: { readonly stride: number; readonly dilation: number },
): Value {
  const act = activations[activation];
  const layer = (index: number, h: Value, features: number, options: NormalizedConvOptions) =>
    normalizedConv(scope, names.layer(index), h, features, options);
  let h: Value;
  if (block === "basic") {
    h = act(layer(0, x, width, { kernel: 3, stride, dilation }));
    h = layer(1, h, width, { kernel: 3, dilation });
  } else {
    const [first, second] = strideFirst ? [stride, 1] : [1, stride];
    h = act(layer(0, x, width / 4, { kernel: 1, stride: first }));
    h = act(layer(1, h, width / 4, { kernel: 3, stride: second, dilation }));
    h = layer(2, h, width, { kernel: 1 });
  }
  const projected = x.shape[1] !== width || stride !== 1;
  return add(h, projected ? normalizedConv(scope, names.shortcut, x, width, { kernel: 1, stride }) : x);
}

interface NormalizedConvOptions {
  readonly kernel: number;
  readonly stride?: number;
  readonly dilation?: number;
}

/** Of torch's batch normalisation. */
const EPSILON = 1e-5;

/** A convolution without bias, and (y − mean) / √(variance + ε) · weight + bias with the statistics of training. */
function normalizedConv(
  scope: Scope,
  [convolution, normalization]: Layer,
  x: Value,
  features: number,
  { kernel, stride = 1, dilation = 1 }: NormalizedConvOptions,
): Value {
  const channels = x.shape[1] as number;
  const weight = scope
    .at(convolution)
    .parameter("weight", [features, channels, kernel, kernel], fanInUniform(channels * kernel * kernel));
  const norm = scope.at(normalization);
  const statistic = (name: string, init = ZEROS) => norm.parameter(name, [features], init);
  const factor = div(statistic("weight", ONES), sqrt(add(statistic("running_var", ONES), EPSILON)));
  const shift = sub(statistic("bias"), mul(statistic("running_mean"), factor));
  // The factor goes into the weight: all of it is constant, and the runtime computes it once.
  return conv2d(x, mul(weight, reshape(factor, [features, 1, 1, 1])), shift, {
    stride,
    dilation,
    padding: dilation * Math.floor(kernel / 2),
  });
}
