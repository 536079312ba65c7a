/**
 * The programs that training runs, as graphs. Shapes are static: a micro-batch has b pictures, a latent is
 * [c, h, w], a prompt [n, d] after the text encoder, and what learns is one vector `parameters` [N].
 */

import { gradients, type Split, splitAtResiduals } from "../autodiff/index.js";
import { evaluationBatch, type Settings } from "../config/settings.js";
import type { Estimator } from "../estimators/estimator.js";
import type { Graph } from "../graph/graph.js";
import type { Value } from "../graph/value.js";
import { joinFlat } from "../nn/flat.js";
import { input } from "../ops/index.js";
import { type DenoiseShape, decodeGraph, denoise, denoiseGraph, textGraph } from "../pipeline/graphs.js";
import type { LearnedLayout } from "../pipeline/parameters.js";
import { latentSize, type Pipeline } from "../pipeline/pipeline.js";
import { inPrecision, type Precision } from "../pipeline/precision.js";
import type { Reward } from "../rewards/reward.js";
import { imageJudge, type PartGraph, type TrainingJudge, trainingJudge } from "../scoring/graphs.js";

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
