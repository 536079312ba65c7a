/** The forward programs of a model as graphs: text encoders, U-Net with guidance, VAE decoder. Shapes are static. */
import { type Conditioning, guided, isGuided } from "../diffusion/guidance.js";
import type { Graph } from "../graph/graph.js";
import type { Value } from "../graph/value.js";
import { clipTextStates, projectedText } from "../models/clip/text.js";
import { TIME_IDS } from "../models/unet/config.js";
import { unet } from "../models/unet/unet.js";
import { vaeFactor } from "../models/vae/config.js";
import { decode } from "../models/vae/vae.js";
import { frozenScope } from "../nn/scope.js";
import { add, clip, concat, constant, div, input, mul } from "../ops/index.js";
import type { LatentSize } from "./latent-size.js";
import type { Pipeline } from "./pipeline.js";
import { layoutScope, type TrainableLayout } from "./trainable.js";

/**
 * Token ids [1, n] for each text encoder, under the encoder's name → `text` [1, n, d]. Stable Diffusion XL concatenates the
 * states of its two encoders, and also returns `pooled` [1, p]: the second encoder's state at the end of the prompt, which the
 * input `endOfText` marks.
 */
export function textGraph({ textEncoders, weights }: Pipeline): Graph {
  const name = "text encoder";
  const read = textEncoders.map((encoder) => {
    const scope = frozenScope(weights, encoder.name);
    const ids = input([1, encoder.tokenizer.maxLength], "int64");
    return { encoder, scope, ids, states: clipTextStates(scope, encoder.config, ids) };
  });
  const inputs = Object.fromEntries(read.map(({ encoder, ids }) => [encoder.name, ids]));
  const [first, second] = read as [(typeof read)[0], (typeof read)[0] | undefined];
  if (!second) return { name, inputs, outputs: { text: first.states.last } };
  const endOfText = input([1, second.encoder.tokenizer.maxLength]);
  return {
    name,
    inputs: { ...inputs, endOfText },
    outputs: {
      text: concat([first.states.penultimate, second.states.penultimate], 2),
      pooled: projectedText(second.scope, second.encoder.config, second.states.last, endOfText),
    },
  };
}

export interface DenoiserOptions {
  readonly batch: number;
  readonly size: LatentSize;
  readonly guidanceScale: number;
  /** Adds the input `parameters` [N]: the factors of an adapter, or the U-Net's own weights. */
  readonly layout?: TrainableLayout | undefined;
}

/** The U-Net's graph, and the values that a gradient refers to. */
export interface Denoiser {
  /** latents [b, c, h, w], timestep [1], conditional and unconditional embeddings, parameters [N] → output [b, c, h, w] */
  readonly graph: Graph;
  readonly latents: Value;
  /** The slices of `parameters`, in the order of the layout. */
  readonly parts: readonly Value[];
  readonly layout: TrainableLayout | undefined;
}

/** One U-Net call with classifier-free guidance. */
export function denoiser(pipeline: Pipeline, { batch, size, guidanceScale, layout }: DenoiserOptions): Denoiser {
  const latents = input([batch, pipeline.unet.inChannels, size.height, size.width]);
  const timestep = input([1]);
  const conditional = conditioningInputs(pipeline, batch);
  const unconditional = conditioningInputs(pipeline, batch);
  const parameters = layout && input([layout.size]);
  const { scope, parts } =
    layout && parameters
      ? layoutScope(layout, parameters, pipeline.weights)
      : { scope: frozenScope(pipeline.weights, "unet"), parts: [] };
  const call = (sample: Value, timestep: Value, { text, pooled }: Conditioning) =>
    unet(scope, pipeline.unet, {
      sample,
      timestep,
      encoderHiddenStates: text,
      added: pooled && { textEmbeds: pooled, timeIds: timeIds(pipeline, text.shape[0] as number, size) },
    });
  const output = guided(call, { latents, timestep, conditional, unconditional, scale: guidanceScale });
  const graph = {
    name: "U-Net forward",
    inputs: {
      latents,
      timestep,
      ...named(conditional, ""),
      ...(isGuided(guidanceScale) && named(unconditional, UNCONDITIONAL)),
      ...(parameters && { parameters }),
    },
    outputs: { output },
  };
  return { graph, latents, parts, layout };
}

/** Prefix of the unconditional branch's input names. */
export const UNCONDITIONAL = "unconditional.";

/** The parts of a conditioning under the names of a graph's inputs. */
export function named<T>(conditioning: Conditioning<T>, prefix: "" | typeof UNCONDITIONAL): Record<string, T> {
  return Object.fromEntries(Object.entries(conditioning).map(([name, part]) => [prefix + name, part as T]));
}

function conditioningInputs({ unet, textEncoders: [{ tokenizer }] }: Pipeline, batch: number): Conditioning {
  const text = input([batch, tokenizer.maxLength, unet.crossAttentionDim]);
  return { text, ...(unet.addition && { pooled: input([batch, unet.addition.pooledFeatures]) }) };
}

/** Stable Diffusion XL's micro-conditioning with diffusers' defaults: original size, crop corner (0, 0), target size. */
function timeIds({ vae }: Pipeline, batch: number, { height, width }: LatentSize): Value {
  const pixels = [height * vaeFactor(vae), width * vaeFactor(vae)];
  const ids = [...pixels, 0, 0, ...pixels];
  return constant(new Array(batch).fill(ids).flat(), [batch, TIME_IDS]);
}

/** latents [b, c, h, w] → images [b, 3, H, W] in 0 … 1 */
export function decodeGraph(pipeline: Pipeline, batch: number, size: LatentSize): Graph {
  const latents = input([batch, pipeline.unet.inChannels, size.height, size.width]);
  return { name: "VAE decoder", inputs: { latents }, outputs: { images: toImages(pipeline, latents) } };
}

export function toImages({ vae, weights }: Pipeline, latents: Value): Value {
  const pixels = decode(frozenScope(weights, "vae"), vae, div(latents, vae.scalingFactor));
  return clip(add(mul(pixels, 0.5), 0.5), 0, 1);
}
