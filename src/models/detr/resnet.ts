/**
 * ResNet (He et al. 2015, arXiv 1512.03385) as the backbone of a detector: it returns the features of the last stage.
 * Batch norm is frozen, so it is a scale and a bias of the convolution before it. Checkpoints use the names of timm and
 * torchvision, or those of transformers.
 */

import { InputError } from "../../errors/index.js";
import type { Value } from "../../graph/value.js";
import { type Activation, activations } from "../../nn/layers.js";
import { fanInUniform, ONES, type Scope, ZEROS } from "../../nn/scope.js";
import { add, conv2d, div, maxPool, mul, reshape, sqrt, sub } from "../../ops/index.js";
import { showShape } from "../../tensor/shape.js";
import type { WeightSource } from "../../weights/source.js";

export interface ResNetConfig {
  readonly names: ResNetNames;
  readonly stemWidth: number;
  readonly stages: readonly ResNetStage[];
  /** "basic": two 3x3 convolutions. "bottleneck": 1x1, 3x3 and 1x1 convolutions, the first two at a quarter of the width. */
  readonly block: "basic" | "bottleneck";
  /** Put the stride of a bottleneck in its first convolution instead of the 3x3 convolution. */
  readonly strideFirst: boolean;
  readonly activation: Activation;
}

export interface ResNetStage {
  readonly width: number;
  readonly depth: number;
  readonly stride: 1 | 2;
  /** Dilation of the 3x3 convolutions, except in the first block. */
  readonly dilation: 1 | 2;
}

/** The names of a convolution and its norm, relative to the module that contains them. */
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

/** The ResNet of a `backbone_config` of transformers. */
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
/** A bound for damaged files. The largest ResNet has 36 blocks in a stage. */
const MAX_BLOCKS = 1000;

/**
 * Reads the sizes of a timm ResNet from its tensors under `path`. With `dilated`, the last stage is dilated instead of
 * downsampling.
 * @throws InputError `tensor-missing` or `tensor-mismatch`
 */
export function timmResNet(
  weights: WeightSource,
  path: string,
  { dilated }: { readonly dilated: boolean },
): ResNetConfig {
  /** Returns the output channels of a convolution. */
  const width = (name: string): number => {
    const tensor = `${path}.${name}.weight`;
    const shape = weights.get(tensor)?.shape;
    if (shape?.length !== 4) {
      const problem = shape
        ? `${tensor} has the shape ${showShape(shape)}, but a convolution of a timm ResNet has [out, in, h, w]`
        : `has no convolution ${tensor}, which a timm ResNet needs`;
      throw new InputError(
        shape ? "tensor-mismatch" : "tensor-missing",
        `${weights.describe}: ${problem}. Use the weights that belong to this config.json.`,
        { path: weights.describe, tensor, ...(shape && { found: showShape(shape), expected: "[out, in, h, w]" }) },
      );
    }
    return shape[0] as number;
  };
  const has = (name: string) => weights.get(`${path}.${name}.weight`) !== undefined;
  const block = has("layer1.0.conv3") ? "bottleneck" : "basic";
  const stages = Array.from({ length: STAGES }, (_, stage): ResNetStage => {
    const at = (index: number) => TIMM.block(stage, index);
    let depth = 1;
    while (depth < MAX_BLOCKS && has(`${at(depth)}.conv1`)) depth++;
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

/** pixels [b, 3, h, w] → features of the last stage [b, width, ⌈h/32⌉, ⌈w/32⌉], if three of four stages downsample */
export function resNet(scope: Scope, config: ResNetConfig, pixels: Value): Value {
  const { names, stages, stemWidth } = config;
  const act = activations[config.activation];
  const stem = act(normalizedConv(scope, names.stem, pixels, { features: stemWidth, kernel: 7, stride: 2 }));
  let h = maxPool(stem, 3, { stride: 2, padding: 1 });
  for (const [i, { width, depth, stride, dilation }] of stages.entries()) {
    for (let j = 0; j < depth; j++) {
      const options = j === 0 ? { width, stride, dilation: 1 } : { width, stride: 1, dilation };
      h = act(residualBlock(scope.at(names.block(i, j)), config, h, options));
    }
  }
  return h;
}

/** x [b, in, h, w] → [b, width, h / stride, w / stride], without the last activation */
function residualBlock(
  scope: Scope,
  { names, block, strideFirst, activation }: ResNetConfig,
  x: Value,
  { width, stride, dilation }: { readonly width: number; readonly stride: number; readonly dilation: number },
): Value {
  const act = activations[activation];
  const layer = (index: number, h: Value, options: NormalizedConvOptions) =>
    normalizedConv(scope, names.layer(index), h, options);
  let h: Value;
  if (block === "basic") {
    h = act(layer(0, x, { features: width, kernel: 3, stride, dilation }));
    h = layer(1, h, { features: width, kernel: 3, dilation });
  } else {
    const [first, second] = strideFirst ? [stride, 1] : [1, stride];
    h = act(layer(0, x, { features: width / 4, kernel: 1, stride: first }));
    h = act(layer(1, h, { features: width / 4, kernel: 3, stride: second, dilation }));
    h = layer(2, h, { features: width, kernel: 1 });
  }
  const projected = x.shape[1] !== width || stride !== 1;
  return add(h, projected ? normalizedConv(scope, names.shortcut, x, { features: width, kernel: 1, stride }) : x);
}

interface NormalizedConvOptions {
  readonly features: number;
  readonly kernel: number;
  readonly stride?: number;
  readonly dilation?: number;
}

/** The epsilon of PyTorch's batch norm. */
const EPSILON = 1e-5;

/** A convolution without bias, then frozen batch norm: (y − mean) / √(variance + ε) · weight + bias. */
function normalizedConv(
  scope: Scope,
  [convolution, normalization]: Layer,
  x: Value,
  { features, kernel, stride = 1, dilation = 1 }: NormalizedConvOptions,
): Value {
  const channels = x.shape[1] as number;
  const weight = scope
    .at(convolution)
    .parameter("weight", [features, channels, kernel, kernel], fanInUniform(channels * kernel * kernel));
  const norm = scope.at(normalization);
  const statistic = (name: string, init = ZEROS) => norm.parameter(name, [features], init);
  const factor = div(statistic("weight", ONES), sqrt(add(statistic("running_var", ONES), EPSILON)));
  const shift = sub(statistic("bias"), mul(statistic("running_mean"), factor));
  // The factor scales the weight. Both are constant, so the runtime folds them once.
  return conv2d(x, mul(weight, reshape(factor, [features, 1, 1, 1])), shift, {
    stride,
    dilation,
    padding: dilation * Math.floor(kernel / 2),
  });
}
