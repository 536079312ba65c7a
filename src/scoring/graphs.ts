/**
 * The programs that reward pictures, as graphs. In training the decoder, the reward and the loss are one program, with the
 * gradient back to the latents. Where a reward has a batch of its own they are apart: the decoder, each part of the reward
 * on as many pictures as it takes, and the way back through the decoder, which computes it a second time.
 */

import { gradients } from "../autodiff/index.js";
import type { Settings } from "../config/settings.js";
import { InputError } from "../errors/index.js";
import type { Graph } from "../graph/graph.js";
import type { Value } from "../graph/value.js";
import { abs, add, filled, input, mul, neg, sub } from "../ops/index.js";
import { decodeGraph, toImages } from "../pipeline/graphs.js";
import type { LatentSize, Pipeline } from "../pipeline/pipeline.js";
import type { Reward, RewardPart } from "../rewards/reward.js";

export type TrainingJudge =
  | { readonly kind: "joint"; readonly graph: Graph }
  | { readonly kind: "apart"; readonly decode: Graph; readonly parts: readonly PartGraph[]; readonly back: Graph }
  /** Without the gradient. */
  | { readonly kind: "rewards"; readonly decode: Graph; readonly parts: readonly PartGraph[] };

/** [b, 3, h, w] */
type ImageShape = readonly [number, number, number, number];

/** A part of the reward by itself. */
export interface PartGraph {
  readonly part: RewardPart;
  /** Pictures at once. */
  readonly batch: number;
  readonly graph: Graph;
}

export interface BatchShape {
  readonly batch: number;
  readonly size: LatentSize;
  /** Over which the loss is a mean. */
  readonly samples: number;
}

export function trainingJudge(
  pipeline: Pipeline,
  reward: Reward,
  loss: Settings["loss"],
  pictures: BatchShape,
  { back }: { readonly back: boolean },
): TrainingJudge {
  const parts = partsOf(reward);
  const { batch, size } = pictures;
  if (!back) {
    const decode = decodeGraph(pipeline, batch, size);
    return { kind: "rewards", decode, parts: imageJudge(reward, (decode.outputs.images as Value).shape as ImageShape) };
  }
  const outside = parts.find(({ reward }) => reward.outside);
  if (outside) {
    throw new InputError(
      "reward-invalid",
      `the reward ${outside.label} has no gradient, and this estimator learns from one; ddpo and rwr learn from rewards alone (estimator: ddpo with sampling.eta: 1, or estimator: rwr)`,
    );
  }
  const apart = parts.some((part) => atOnce(part, batch) < batch);
  if (!apart) return { kind: "joint", graph: jointGraph(pipeline, reward, loss, pictures) };
  const decode = decodeGraph(pipeline, batch, size);
  const [, , height, width] = (decode.outputs.images as Value).shape as [number, number, number, number];
  return {
    kind: "apart",
    decode,
    parts: parts.map((part) => {
      const batchOfPart = atOnce(part, batch);
      return { part, batch: batchOfPart, graph: partGraph(part, [batchOfPart, 3, height, width], { back: true }) };
    }),
    back: decoderBackGraph(pipeline, batch, size),
  };
}

/** The judge's programs, and how often each runs for a micro-batch of pictures at most. */
export function judgeCalls(judge: TrainingJudge): { readonly graph: Graph; readonly calls: number }[] {
  if (judge.kind === "joint") return [{ graph: judge.graph, calls: 1 }];
  const [pictures] = (judge.decode.outputs.images as Value).shape as [number];
  return [
    { graph: judge.decode, calls: 1 },
    ...judge.parts.map(({ graph, batch }) => ({ graph, calls: Math.ceil(pictures / batch) })),
    ...(judge.kind === "apart" ? [{ graph: judge.back, calls: 1 }] : []),
  ];
}

/** For pictures that nothing is learnt from [b, 3, h, w]: what each part makes of them. */
export function imageJudge(reward: Reward, [batch, ...rest]: ImageShape): PartGraph[] {
  return partsOf(reward).map((part) => {
    const own = atOnce(part, batch);
    return { part, batch: own, graph: partGraph(part, [own, ...rest], { back: false }) };
  });
}

/** What a reward is a sum of; one that is no sum is its own only part. */
function partsOf(reward: Reward): readonly RewardPart[] {
  return reward.parts ?? [{ label: reward.name, reward, weigh: (rewards) => rewards, judges: () => true }];
}

/** The whole reward's batch holds for those of its parts that have none. */
function atOnce({ reward }: RewardPart, batch: number): number {
  return Math.min(batch, reward.batch ?? batch);
}

/** latents, and what the reward asks for → rewards [b], losses [b] and dLatents, the gradient of the losses' sum over `samples` */
function jointGraph(
  pipeline: Pipeline,
  reward: Reward,
  loss: Settings["loss"],
  { batch, size, samples }: BatchShape,
): Graph {
  const latents = input([batch, pipeline.unet.inChannels, size.height, size.width]);
  const { rewards, inputs, values = [] } = reward.build(toImages(pipeline, latents));
  const losses = lossOf(rewards, loss);
  const [dLatents] = gradients([{ value: losses, gradient: filled(losses.shape, 1 / samples) }], [latents]);
  if (!dLatents) throw new TypeError(`reward ${reward.name}: does not depend on the picture`);
  return {
    name: `reward ${reward.name}`,
    inputs: { latents, ...inputs },
    outputs: { rewards, losses, dLatents, ...Object.fromEntries(values.map((value, i) => [partOutput(i), value])) },
  };
}

/** What a joint graph calls the values of its part number i [b]. */
export const partOutput = (i: number) => `part_${i}`;

/**
 * images [b, 3, h, w] in 0 … 1, and what the reward asks for → its values [b], what they add to the sum [b] and, where
 * asked for, dImages, the gradient of what they add. What judges outside gives `given` [b] in the place of images.
 */
function partGraph(
  { label, reward, weigh }: RewardPart,
  shape: ImageShape,
  { back }: { readonly back: boolean },
): Graph {
  if (reward.outside) {
    const given = input([shape[0]]);
    const values = add(given, 0);
    return { name: `reward ${label}`, inputs: { given }, outputs: { values, worth: weigh(values) } };
  }
  const images = input(shape);
  const { rewards: values, inputs } = reward.build(images);
  const worth = weigh(values);
  const [dImages] = back ? gradients([{ value: worth, gradient: filled(worth.shape, 1) }], [images]) : [];
  if (back && !dImages) throw new TypeError(`reward ${label}: does not depend on the picture`);
  return {
    name: `reward ${label}`,
    inputs: { images, ...inputs },
    outputs: { values, worth, ...(dImages && { dImages }) },
  };
}

/** latents [b, c, h, w], dImages [b, 3, H, W] → dLatents */
function decoderBackGraph(pipeline: Pipeline, batch: number, size: LatentSize): Graph {
  const latents = input([batch, pipeline.unet.inChannels, size.height, size.width]);
  const images = toImages(pipeline, latents);
  const dImages = input(images.shape);
  const [dLatents] = gradients([{ value: images, gradient: dImages }], [latents]) as [Value];
  return { name: "VAE decoder backward", inputs: { latents, dImages }, outputs: { dLatents } };
}

/** rewards [b] → losses [b] */
function lossOf(rewards: Value, { form, target, scale }: Settings["loss"]): Value {
  switch (form) {
    case "target":
      return mul(abs(sub(rewards, target)), scale);
    case "maximize":
      return mul(neg(rewards), scale);
  }
}

/** The same of one number, and its derivative. */
export function lossAndSlope(reward: number, { form, target, scale }: Settings["loss"]): [loss: number, slope: number] {
  switch (form) {
    case "target":
      return [Math.abs(reward - target) * scale, Math.sign(reward - target) * scale];
    case "maximize":
      return [-reward * scale, -scale];
  }
}
