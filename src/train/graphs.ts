/**
 * The programs that training runs, as graphs. Shapes are static: a micro-batch has b pictures, a latent is
 * [c, h, w], a prompt [n, d] after the text encoder, and what learns is one vector `parameters` [N].
 */
import { gradients, type Split, splitAtResiduals } from "../autodiff/index.js";
import { type Conditioning, guided, isGuided } from "../diffusion/guidance.js";
import type { Graph } from "../graph/graph.js";
import type { Value } from "../graph/value.js";
import { clipTextStates, projectedText } from "../models/clip/text.js";
import { TIME_IDS } from "../models/unet/config.js";
import { unet } from "../models/unet/unet.js";
import { vaeFactor } from "../models/vae/config.js";
import { joinFlat } from "../nn/flat.js";
import { frozenScope } from "../nn/scope.js";
import { concat, constant, input } from "../ops/index.js";
import type { Reward } from "../rewards/reward.js";
import type { Estimator } from "./estimators/estimator.js";
import { decodeGraph, imageJudge, type PartGraph, type TrainingJudge, trainingJudge } from "./judge-graphs.js";
import { type LearnedLayout, learnedScope } from "./learned.js";
import { type LatentSize, latentSize, type Pipeline } from "./pipeline.js";
import { inPrecision, type Precision } from "./precision.js";
import { evaluationBatch, type Settings } from "./settings.js";

export interface TrainingGraphs {
  /** Runs once a prompt. */
  readonly text: Graph;
  readonly forward: Graph;
  /** Where residuals are kept (in float32 alone), forward and backward; where not, the product that computes forward again. */
  readonly split: Split;
  readonly vjp: Graph;
  readonly judge: TrainingJudge;
  readonly evaluation: { readonly forward: Graph; readonly decode: Graph; readonly judge: readonly PartGraph[] };
}

export function trainingGraphs(
  settings: Settings,
  pipeline: Pipeline,
  reward: Reward,
  layout: LearnedLayout,
  estimator: Estimator,
  precision: Precision = "float32",
): TrainingGraphs {
  const { sampling, loss } = settings;
  const { per_device: batch, total: samples } = settings.batch;
  const evaluated = evaluationBatch(settings);
  const size = latentSize(pipeline, sampling.height, sampling.width);
  const shape = { batch, size, guidanceScale: sampling.guidance_scale };
  const wantsDx = estimator.kind === "update" && estimator.needsDx(sampling.steps);
  const forward = inPrecision(denoiseGraph(pipeline, layout, shape), precision);
  const decode = decodeGraph(pipeline, evaluated, size);
  return {
    text: textGraph(pipeline),
    forward,
    split: denoiseSplit(pipeline, layout, shape, wantsDx),
    vjp: inPrecision(denoiseVjpGraph(pipeline, layout, shape, wantsDx), precision),
    judge: trainingJudge(pipeline, reward, loss, { batch, size, samples }, { back: estimator.rewardGradient }),
    evaluation: {
      forward:
        evaluated === batch
          ? forward
          : inPrecision(denoiseGraph(pipeline, layout, { ...shape, batch: evaluated }), precision),
      decode,
      judge: imageJudge(reward, (decode.outputs.images as Value).shape as [number, number, number, number]),
    },
  };
}

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

/**
 * Its vector-Jacobian product: upstream like the output → dParameters [N], and dLatents where asked for. Computes the forward
 * pass again on the way. The guidance lies inside, so the upstream is that of the guided output and both branches are
 * differentiated.
 */
function denoiseVjpGraph(pipeline: Pipeline, layout: LearnedLayout, shape: DenoiseShape, wantsDx: boolean): Graph {
  const { inputs, outputs } = denoiseJoint(pipeline, layout, shape, wantsDx);
  const { output: _, ...products } = outputs;
  return { name: "U-Net backward", inputs, outputs: products };
}

/** The call and its vector-Jacobian product as two graphs, the second of which begins with what the first one kept. */
function denoiseSplit(pipeline: Pipeline, layout: LearnedLayout, shape: DenoiseShape, wantsDx: boolean): Split {
  return splitAtResiduals(denoiseJoint(pipeline, layout, shape, wantsDx), ["output"]);
}

function denoiseJoint(pipeline: Pipeline, layout: LearnedLayout, shape: DenoiseShape, wantsDx: boolean): Graph {
  const { inputs, output, latents, parts } = denoise(pipeline, layout, shape);
  const upstream = input(output.shape);
  const wrt = wantsDx ? [...parts, latents] : parts;
  const found = gradients([{ value: output, gradient: upstream }], wrt);
  const dLatents = wantsDx ? found.pop() : undefined;
  return {
    name: "U-Net",
    inputs: { ...inputs, upstream },
    outputs: { output, dParameters: joinFlat(layout, found), ...(dLatents && { dLatents }) },
  };
}

function denoise(pipeline: Pipeline, layout: LearnedLayout | undefined, { batch, size, guidanceScale }: DenoiseShape) {
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
    latents,
    timestep,
    conditional,
    unconditional,
    guidanceScale,
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
