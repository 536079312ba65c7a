/**
 * The programs that score images, as graphs. In training, the VAE decoder, the reward and the loss are one program with the
 * gradient back to the latents. If a reward limits its own batch size, they are separate programs: the decoder, each part of the
 * reward on a batch of its own, and the gradient of the decoder, which recomputes the decoder's forward pass.
 */

import { gradients } from "../autodiff/index.js";
import type { LossSettings } from "../config/index.js";
import { InputError } from "../errors/index.js";
import type { Graph } from "../graph/graph.js";
import type { Value } from "../graph/value.js";
import { abs, add, filled, input, mul, neg, sub } from "../ops/index.js";
import { decodeGraph, type LatentSize, type Pipeline, toImages } from "../pipeline/index.js";
import type { Reward, RewardPart } from "../rewards/index.js";
import { merge, type WeightSource } from "../weights/source.js";

export type TrainingScorerGraphs =
  /** `weights` are those of the model and of the reward. */
  | { readonly kind: "joint"; readonly graph: Graph; readonly weights: WeightSource }
  | {
      readonly kind: "separate";
      readonly decode: Graph;
      readonly parts: readonly PartGraph[];
      readonly backward: Graph;
    }
  /** Without a gradient. */
  | { readonly kind: "rewards"; readonly decode: Graph; readonly parts: readonly PartGraph[] };

/** [b, 3, h, w] */
export type ImageShape = readonly [batch: number, channels: number, height: number, width: number];

/** The shape of a decoder's images. */
export function imageShape(decode: Graph): ImageShape {
  return (decode.outputs.images as Value).shape as unknown as ImageShape;
}

/** One part of a reward. */
export interface PartGraph {
  readonly part: RewardPart;
  /** Images per call. */
  readonly batch: number;
  readonly graph: Graph;
}

export interface TrainingScorerOptions {
  readonly loss: LossSettings;
  /** Images per call. */
  readonly batch: number;
  readonly size: LatentSize;
  /** Global batch size: the loss is the mean over these samples. */
  readonly samples: number;
}

/**
 * @throws InputError `reward-no-gradient` if a gradient is wanted and a part of the reward is an external program
 */
export function trainingScorerGraphs(
  pipeline: Pipeline,
  reward: Reward,
  options: TrainingScorerOptions,
  { gradient }: { readonly gradient: boolean },
): TrainingScorerGraphs {
  const parts = partsOf(reward);
  const { batch, size } = options;
  if (!gradient) {
    const decode = decodeGraph(pipeline, batch, size);
    return { kind: "rewards", decode, parts: imageScorerGraphs(reward, imageShape(decode)) };
  }
  const external = parts.find(({ reward }) => reward.scoreExternally);
  if (external) {
    throw new InputError(
      "reward-no-gradient",
      `the reward ${external.label} has no gradient, and this estimator needs one. Use an estimator that needs rewards only: ` +
        "estimator: ddpo with sampling.eta: 1, or estimator: rwr.",
      { reward: external.label, suggestions: ["ddpo", "rwr"] },
    );
  }
  const isSeparate = parts.some((part) => partBatch(part, batch) < batch);
  if (!isSeparate) {
    const weights = merge(pipeline.weights, reward.weights);
    return { kind: "joint", graph: jointGraph(pipeline, reward, options), weights };
  }
  const decode = decodeGraph(pipeline, batch, size);
  const [, , height, width] = imageShape(decode);
  return {
    kind: "separate",
    decode,
    parts: parts.map((part) => {
      const own = partBatch(part, batch);
      return { part, batch: own, graph: partGraph(part, [own, 3, height, width], { gradient: true }) };
    }),
    backward: decoderBackwardGraph(pipeline, batch, size),
  };
}

/** The scorer's programs, and the largest number of times that each runs for one micro-batch. */
export function scorerCalls(scorer: TrainingScorerGraphs): { readonly graph: Graph; readonly calls: number }[] {
  if (scorer.kind === "joint") return [{ graph: scorer.graph, calls: 1 }];
  const [images] = imageShape(scorer.decode);
  return [
    { graph: scorer.decode, calls: 1 },
    ...scorer.parts.map(({ graph, batch }) => ({ graph, calls: Math.ceil(images / batch) })),
    ...(scorer.kind === "separate" ? [{ graph: scorer.backward, calls: 1 }] : []),
  ];
}

/** images [b, 3, h, w] → the value of each part of the reward, without a gradient. */
export function imageScorerGraphs(reward: Reward, [batch, ...rest]: ImageShape): PartGraph[] {
  return partsOf(reward).map((part) => {
    const own = partBatch(part, batch);
    return { part, batch: own, graph: partGraph(part, [own, ...rest], { gradient: false }) };
  });
}

/** The summands of a reward. A reward that is not a sum has itself as its only part. */
function partsOf(reward: Reward): readonly RewardPart[] {
  return reward.parts ?? [{ label: reward.name, reward, weigh: (rewards) => rewards, appliesTo: () => true }];
}

/** A part without a batch size of its own uses the whole batch. */
function partBatch({ reward }: RewardPart, batch: number): number {
  return Math.min(batch, reward.batch ?? batch);
}

/** latents [b, c, h, w] and the reward's inputs → rewards [b], losses [b] and dLatents, the gradient of Σ losses / samples */
function jointGraph(pipeline: Pipeline, reward: Reward, { loss, batch, size, samples }: TrainingScorerOptions): Graph {
  const latents = input([batch, pipeline.unet.inChannels, size.height, size.width]);
  const { rewards, inputs, values = [] } = reward.build(toImages(pipeline, latents));
  const losses = lossOf(rewards, loss);
  const [dLatents] = gradients([{ value: losses, gradient: filled(losses.shape, 1 / samples) }], [latents]);
  if (!dLatents) throw new TypeError(`reward ${reward.name}: does not depend on the image`);
  return {
    name: `reward ${reward.name}`,
    inputs: { latents, ...inputs },
    outputs: { rewards, losses, dLatents, ...Object.fromEntries(values.map((value, i) => [partOutput(i), value])) },
  };
}

/** The name of the joint graph's output for the values of part i [b]. */
export const partOutput = (i: number) => `part_${i}`;

/**
 * images [b, 3, h, w] in 0 … 1 and the reward's inputs → `values` [b], their `weighted` contribution to the sum [b], and
 * with a gradient `dImages`, the gradient of Σ weighted. For an external program the input is its values, `given` [b].
 */
function partGraph(
  { label, reward, weigh }: RewardPart,
  shape: ImageShape,
  { gradient }: { readonly gradient: boolean },
): Graph {
  if (reward.scoreExternally) {
    const given = input([shape[0]]);
    const values = add(given, 0);
    return { name: `reward ${label}`, inputs: { given }, outputs: { values, weighted: weigh(values) } };
  }
  const images = input(shape);
  const { rewards: values, inputs } = reward.build(images);
  const weighted = weigh(values);
  const [dImages] = gradient ? gradients([{ value: weighted, gradient: filled(weighted.shape, 1) }], [images]) : [];
  if (gradient && !dImages) throw new TypeError(`reward ${label}: does not depend on the image`);
  return {
    name: `reward ${label}`,
    inputs: { images, ...inputs },
    outputs: { values, weighted, ...(dImages && { dImages }) },
  };
}

/** latents [b, c, h, w], dImages [b, 3, H, W] → dLatents */
function decoderBackwardGraph(pipeline: Pipeline, batch: number, size: LatentSize): Graph {
  const latents = input([batch, pipeline.unet.inChannels, size.height, size.width]);
  const images = toImages(pipeline, latents);
  const dImages = input(images.shape);
  const [dLatents] = gradients([{ value: images, gradient: dImages }], [latents]) as [Value];
  return { name: "VAE decoder backward", inputs: { latents, dImages }, outputs: { dLatents } };
}

/** rewards [b] → losses [b] */
function lossOf(rewards: Value, { form, target, scale }: LossSettings): Value {
  switch (form) {
    case "target":
      return mul(abs(sub(rewards, target)), scale);
    case "maximize":
      return mul(neg(rewards), scale);
  }
}

/** The loss of one reward, and its derivative. */
export function lossAndSlope(reward: number, { form, target, scale }: LossSettings): [loss: number, slope: number] {
  switch (form) {
    case "target":
      return [Math.abs(reward - target) * scale, Math.sign(reward - target) * scale];
    case "maximize":
      return [-reward * scale, -scale];
  }
}
