/** The forward programs. */

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
import { type LearnedLayout, learnedScope } from "./parameters.js";
import type { LatentSize, Pipeline } from "./pipeline.js";
/**
 * A prompt's ids from each encoder's tokenizer [1, n], under the encoder's name → text [1, n, d]. Stable Diffusion XL joins
 * what its two encoders give, and also has `pooled` [1, p], the second one's state at the text's end (`endOfText`).
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

export interface DenoiseShape {
  readonly batch: number;
  readonly size: LatentSize;
  readonly guidanceScale: number;
}

/** One call of the U-Net with guidance and what was learned: latents [b, c, h, w], timestep [1], the prompt and the unconditional one → output like the latents */
export function denoiseGraph(pipeline: Pipeline, layout: LearnedLayout | undefined, shape: DenoiseShape): Graph {
  const { inputs, output } = denoise(pipeline, layout, shape);
  return { name: "U-Net forward", inputs, outputs: { output } };
}

export function denoise(
  pipeline: Pipeline,
  layout: LearnedLayout | undefined,
  { batch, size, guidanceScale }: DenoiseShape,
) {
  const latents = input([batch, pipeline.unet.inChannels, size.height, size.width]);
  const timestep = input([1]);
  const conditional = conditioningInputs(pipeline, batch);
  const unconditional = conditioningInputs(pipeline, batch);
  const parameters = layout && input([layout.size]);
  const { scope, parts } =
    layout && parameters
      ? learnedScope(layout, parameters, pipeline.weights)
      : { scope: frozenScope(pipeline.weights, "unet"), parts: [] };
  const output = guided(
    (sample, timestep, { text, pooled }) =>
      unet(scope, pipeline.unet, {
        sample,
        timestep,
        encoderHiddenStates: text,
        added: pooled && { textEmbeds: pooled, timeIds: timeIds(pipeline, text.shape[0] as number, size) },
      }),
    { latents, timestep, conditional, unconditional, scale: guidanceScale },
  );
  return {
    inputs: {
      latents,
      timestep,
      ...named(conditional, ""),
      ...(isGuided(guidanceScale) && named(unconditional, UNCONDITIONAL)),
      ...(parameters && { parameters }),
    },
    output,
    latents,
    parts,
  };
}

/** Stands before the names of the unconditional branch's inputs. */
export const UNCONDITIONAL = "unconditional.";

/** A conditioning's parts as a program names them. */
export function named<T>(conditioning: Conditioning<T>, prefix: "" | typeof UNCONDITIONAL): Record<string, T> {
  return Object.fromEntries(Object.entries(conditioning).map(([name, part]) => [prefix + name, part as T]));
}

function conditioningInputs({ unet, textEncoders: [{ tokenizer }] }: Pipeline, batch: number): Conditioning {
  const text = input([batch, tokenizer.maxLength, unet.crossAttentionDim]);
  return { text, ...(unet.addition && { pooled: input([batch, unet.addition.pooledFeatures]) }) };
}

/** As diffusers fills them in: a picture that was never larger and never cropped (`original_size`, `crops_coords_top_left`, `target_size`). */
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
