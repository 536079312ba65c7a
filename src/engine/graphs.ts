/**
 * The programs of a training run as graphs. They are built once, and every replica compiles the same ones. Shapes are static:
 * b samples of a micro-batch, latents [c, h, w], prompt embeddings [n, d], and all trainable parameters as one vector [N].
 */

import { gradients, type Split, splitAtResiduals } from "../autodiff/index.js";
import type { Graph } from "../graph/graph.js";
import { joinFlat } from "../nn/flat.js";
import { input } from "../ops/index.js";
import {
  type Denoiser,
  decodeGraph,
  denoiser,
  inPrecision,
  latentSize,
  type SamplerGraphs,
  textGraph,
} from "../pipeline/index.js";
import {
  imageScorerGraphs,
  imageShape,
  monitorGraphs,
  type PartGraph,
  type TrainingScorerGraphs,
  trainingScorerGraphs,
} from "../scoring/index.js";
import type { Division } from "./division.js";
import type { TrainingSetup } from "./setup.js";

export interface TrainingGraphs {
  /** Text encoder, U-Net forward pass and VAE decoder for a micro-batch, as the run compiles them. */
  readonly sampler: SamplerGraphs;
  /** The U-Net's forward pass and VJP in one graph, which recomputes the forward pass. */
  readonly vjp: Graph;
  /** The same as two graphs, float32 only: a forward pass that also returns residuals, and a VJP that starts from them. */
  readonly split: Split;
  /** The U-Net's graphs in float32, to which a CPU converts float16. */
  readonly float32: { readonly denoise: Graph; readonly evaluationDenoise: Graph; readonly vjp: Graph };
  readonly scorer: TrainingScorerGraphs;
  readonly evaluation: {
    readonly sampler: SamplerGraphs;
    readonly scorer: readonly PartGraph[];
    readonly monitors: readonly Graph[];
  };
}

export function trainingGraphs(setup: TrainingSetup, { microBatch, evaluationBatch }: Division): TrainingGraphs {
  const { settings, pipeline, reward, monitors, layout, estimator, precision } = setup;
  const { sampling, loss, batch } = settings;
  const size = latentSize(pipeline, sampling.height, sampling.width);
  const shape = { size, guidanceScale: sampling.guidance_scale, layout };
  const wantsDx = estimator.kind === "direct" && estimator.needsDx(sampling.steps);
  const unet = denoiser(pipeline, { ...shape, batch: microBatch });
  const joint = withVjp(unet, wantsDx);
  const float32 = {
    denoise: unet.graph,
    evaluationDenoise:
      evaluationBatch === microBatch ? unet.graph : denoiser(pipeline, { ...shape, batch: evaluationBatch }).graph,
    vjp: withoutOutput(joint),
  };
  const denoise = inPrecision(float32.denoise, precision);
  const sampler = {
    batch: microBatch,
    size,
    text: textGraph(pipeline),
    denoise,
    decode: decodeGraph(pipeline, microBatch, size),
  };
  const evaluationSampler =
    evaluationBatch === microBatch
      ? sampler
      : {
          ...sampler,
          batch: evaluationBatch,
          denoise: inPrecision(float32.evaluationDenoise, precision),
          decode: decodeGraph(pipeline, evaluationBatch, size),
        };
  const images = imageShape(evaluationSampler.decode);
  return {
    sampler,
    vjp: inPrecision(float32.vjp, precision),
    split: splitAtResiduals(joint, ["output"]),
    float32,
    scorer: trainingScorerGraphs(
      pipeline,
      reward,
      { loss, batch: microBatch, size, samples: batch.total },
      { gradient: estimator.usesRewardGradient },
    ),
    evaluation: {
      sampler: evaluationSampler,
      scorer: imageScorerGraphs(reward, images),
      monitors: monitorGraphs(monitors, images),
    },
  };
}

/**
 * The U-Net call with its vector-Jacobian product: upstream [b, c, h, w] → dParameters [N], and dLatents if wanted. Guidance is
 * part of the call, so `upstream` belongs to the guided output, and both branches are differentiated.
 */
function withVjp({ graph, latents, parts, layout }: Denoiser, wantsDx: boolean): Graph {
  const output = graph.outputs.output as NonNullable<typeof graph.outputs.output>;
  if (!layout) throw new TypeError("a U-Net without trainable parameters has no gradient to return");
  const upstream = input(output.shape);
  const found = gradients([{ value: output, gradient: upstream }], wantsDx ? [...parts, latents] : parts);
  const dLatents = wantsDx ? found.pop() : undefined;
  return {
    name: "U-Net",
    inputs: { ...graph.inputs, upstream },
    outputs: { output, dParameters: joinFlat(layout, found), ...(dLatents && { dLatents }) },
  };
}

function withoutOutput({ inputs, outputs: { output: _, ...products } }: Graph): Graph {
  return { name: "U-Net backward", inputs, outputs: products };
}
