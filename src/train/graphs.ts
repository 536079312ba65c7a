/**
 * The programs that training runs, as graphs. Shapes are static: a micro-batch has b pictures, a latent is
 * [c, h, w], a prompt [n, d] after the text encoder, and the adapter is one vector `lora` [N].
 */
import { gradients, type Split, splitAtResiduals } from "../autodiff/index.js";
import { guided, isGuided } from "../diffusion/guidance.js";
import type { Graph } from "../graph/graph.js";
import type { Value } from "../graph/value.js";
import { clipText } from "../models/clip/text.js";
import { unet } from "../models/unet/unet.js";
import { decode } from "../models/vae/vae.js";
import { joinFlat } from "../nn/flat.js";
import { type LoraLayout, loraAdapter } from "../nn/lora.js";
import { frozenScope } from "../nn/scope.js";
import { abs, add, clip, div, filled, input, mul, neg, sub } from "../ops/index.js";
import type { Reward } from "../rewards/reward.js";
import type { Estimator } from "./estimators/estimator.js";
import { type LatentSize, latentSize, type Pipeline } from "./pipeline.js";
import { evaluationBatch, type Settings } from "./settings.js";

/** All but the text encoder, which runs once a prompt. */
export interface TrainingGraphs {
  readonly forward: Graph;
  /** Where residuals are kept, forward and backward; where not, the product that computes forward again. */
  readonly split: Split;
  readonly vjp: Graph;
  readonly reward: Graph;
  readonly evaluation: { readonly forward: Graph; readonly decode: Graph; readonly judge: Graph };
}

export function trainingGraphs(
  settings: Settings,
  pipeline: Pipeline,
  reward: Reward,
  layout: LoraLayout,
  estimator: Estimator,
): TrainingGraphs {
  const { sampling, loss } = settings;
  const { per_device: batch, total: samples } = settings.batch;
  const evaluated = evaluationBatch(settings);
  const size = latentSize(pipeline, sampling.height, sampling.width);
  const shape = { batch, size, guidanceScale: sampling.guidance_scale };
  const wantsDx = estimator.needsDx(sampling.steps);
  const forward = denoiseGraph(pipeline, layout, shape);
  const decode = decodeGraph(pipeline, evaluated, size);
  return {
    forward,
    split: denoiseSplit(pipeline, layout, shape, wantsDx),
    vjp: denoiseVjpGraph(pipeline, layout, shape, wantsDx),
    reward: rewardGraph(pipeline, reward, loss, { batch, size, samples }),
    evaluation: {
      forward: evaluated === batch ? forward : denoiseGraph(pipeline, layout, { ...shape, batch: evaluated }),
      decode,
      judge: judgeGraph(reward, (decode.outputs.images as Value).shape as [number, number, number, number]),
    },
  };
}

/** ids [b, n] → text [b, n, d] */
export function textGraph({ textEncoder, tokenizer, weights }: Pipeline, batch: number): Graph {
  const ids = input([batch, tokenizer.maxLength], "int64");
  const text = clipText(frozenScope(weights, "text_encoder"), textEncoder, ids);
  return { name: "text encoder", inputs: { ids }, outputs: { text } };
}

export interface DenoiseShape {
  readonly batch: number;
  readonly size: LatentSize;
  readonly guidanceScale: number;
}

/** One call of the U-Net with guidance and the adapter: latents [b, c, h, w], timestep [1], text and unconditional → output like the latents */
export function denoiseGraph(pipeline: Pipeline, layout: LoraLayout | undefined, shape: DenoiseShape): Graph {
  const { inputs, output } = denoise(pipeline, layout, shape);
  return { name: "U-Net forward", inputs, outputs: { output } };
}

/**
 * Its vector-Jacobian product: upstream like the output → dLora [N], and dLatents where asked for. Computes the forward
 * pass again on the way. The guidance lies inside, so the upstream is that of the guided output and both branches are
 * differentiated.
 */
function denoiseVjpGraph(pipeline: Pipeline, layout: LoraLayout, shape: DenoiseShape, wantsDx: boolean): Graph {
  const { inputs, outputs } = denoiseJoint(pipeline, layout, shape, wantsDx);
  const { output: _, ...products } = outputs;
  return { name: "U-Net backward", inputs, outputs: products };
}

/** The call and its vector-Jacobian product as two graphs, the second of which begins with what the first one kept. */
function denoiseSplit(pipeline: Pipeline, layout: LoraLayout, shape: DenoiseShape, wantsDx: boolean): Split {
  return splitAtResiduals(denoiseJoint(pipeline, layout, shape, wantsDx), ["output"]);
}

function denoiseJoint(pipeline: Pipeline, layout: LoraLayout, shape: DenoiseShape, wantsDx: boolean): Graph {
  const { inputs, output, latents, factors } = denoise(pipeline, layout, shape);
  const upstream = input(output.shape);
  const wrt = wantsDx ? [...factors, latents] : factors;
  const found = gradients([{ value: output, gradient: upstream }], wrt);
  const dLatents = wantsDx ? found.pop() : undefined;
  return {
    name: "U-Net",
    inputs: { ...inputs, upstream },
    outputs: { output, dLora: joinFlat(layout, found), ...(dLatents && { dLatents }) },
  };
}

function denoise(pipeline: Pipeline, layout: LoraLayout | undefined, { batch, size, guidanceScale }: DenoiseShape) {
  const latents = input([batch, pipeline.unet.inChannels, size.height, size.width]);
  const timestep = input([1]);
  const textShape = [batch, pipeline.tokenizer.maxLength, pipeline.textEncoder.hiddenSize];
  const text = input(textShape);
  const unconditional = input(textShape);
  const lora = layout && input([layout.size]);
  const { adapter, parts } = layout && lora ? loraAdapter(layout, lora) : { adapter: undefined, parts: [] };
  const scope = frozenScope(pipeline.weights, "unet", { adapter });
  const output = guided(
    (sample, timestep, encoderHiddenStates) => unet(scope, pipeline.unet, { sample, timestep, encoderHiddenStates }),
    latents,
    timestep,
    text,
    unconditional,
    guidanceScale,
  );
  return {
    inputs: { latents, timestep, text, ...(isGuided(guidanceScale) && { unconditional }), ...(lora && { lora }) },
    output,
    latents,
    factors: parts,
  };
}

/** latents [b, c, h, w] → images [b, 3, H, W] in 0 … 1 */
export function decodeGraph(pipeline: Pipeline, batch: number, size: LatentSize): Graph {
  const latents = input([batch, pipeline.unet.inChannels, size.height, size.width]);
  return { name: "VAE decoder", inputs: { latents }, outputs: { images: toImages(pipeline, latents) } };
}

/** latents, and what the reward asks for → rewards [b], losses [b] and dLatents, the gradient of the losses' sum over `samples` */
function rewardGraph(
  pipeline: Pipeline,
  reward: Reward,
  loss: Settings["loss"],
  { batch, size, samples }: { batch: number; size: LatentSize; samples: number },
): Graph {
  const latents = input([batch, pipeline.unet.inChannels, size.height, size.width]);
  const { rewards, inputs } = reward.build(toImages(pipeline, latents));
  const losses = lossOf(rewards, loss);
  const [dLatents] = gradients([{ value: losses, gradient: filled(losses.shape, 1 / samples) }], [latents]);
  if (!dLatents) throw new TypeError(`reward ${reward.name}: does not depend on the picture`);
  return { name: `reward ${reward.name}`, inputs: { latents, ...inputs }, outputs: { rewards, losses, dLatents } };
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

/** images [b, 3, H, W] in 0 … 1 → rewards [b] */
export function judgeGraph(reward: Reward, shape: readonly [number, number, number, number]): Graph {
  const images = input(shape);
  const { rewards, inputs } = reward.build(images);
  return { name: `reward ${reward.name}`, inputs: { images, ...inputs }, outputs: { rewards } };
}

function toImages({ vae, weights }: Pipeline, latents: Value): Value {
  const pixels = decode(frozenScope(weights, "vae"), vae, div(latents, vae.scalingFactor));
  return clip(add(mul(pixels, 0.5), 0.5), 0, 1);
}
