/** Times the programs of a plan on this machine. */

import type { Graph } from "../graph/graph.js";
import type { Runtime } from "../runtime/runtime.js";
import { scorerCalls } from "../scoring/index.js";
import { fromNumbers } from "../tensor/host.js";
import { sizeOf } from "../tensor/shape.js";
import { merge, type WeightSource } from "../weights/source.js";
import type { Plan, PlanEstimate } from "./plan.js";
import type { TrainingSetup } from "./setup.js";
import { recomputesJointly } from "./unet-vjp.js";
import type { Work } from "./work.js";

/** Compiles each program in all runtimes and times a call. Replicas that work side by side take about as long as one of them. */
export async function calibrate(
  runtimes: readonly Runtime[],
  { settings, pipeline, reward }: TrainingSetup,
  { graphs, division }: Work,
  plan: Plan,
): Promise<PlanEstimate> {
  const { sampler, split, vjp, scorer, evaluation } = graphs;
  const weights = merge(pipeline.weights, reward.weights);
  const seconds = async (graph: Graph, keep?: readonly string[]) => {
    const each = await Promise.all(runtimes.map((runtime) => secondsPerCall(runtime, graph, weights, keep)));
    return Math.max(...each) / runtimes.length;
  };
  const recomputed = plan.unetRecomputedCallsPerStep;
  const saved = plan.unetBackwardCallsPerStep - recomputed;
  const jointCalls = recomputesJointly(graphs, plan.memory) ? recomputed : 0;
  const splitCalls = saved + recomputed - jointCalls;
  const secondsForward = await seconds(sampler.denoise);
  let secondsToScore = 0;
  for (const { graph, calls } of scorerCalls(scorer)) secondsToScore += calls * (await seconds(graph));
  const secondsPerStep =
    (plan.unetForwardCallsPerStep - saved) * secondsForward +
    jointCalls * (jointCalls && (await seconds(vjp))) +
    splitCalls * (splitCalls && (await seconds(split.forward, split.residuals)) + (await seconds(split.backward))) +
    plan.rewardCallsPerStep * secondsToScore;
  const { microBatch, evaluationBatch } = division;
  const secondsPerImage =
    (settings.sampling.steps * secondsForward) / microBatch +
    (await seconds(evaluation.sampler.decode)) / evaluationBatch;
  const secondsPerEvaluation = plan.imagesPerEvaluation * secondsPerImage;
  return {
    secondsPerStep,
    secondsPerEvaluation,
    seconds: plan.steps * secondsPerStep + plan.evaluations * secondsPerEvaluation,
    peakRssBytes: process.resourceUsage().maxRSS * 1024,
  };
}

/** The time of the second call, because the first one allocates memory. Outputs in `keep` stay in the worker. */
async function secondsPerCall(
  runtime: Runtime,
  graph: Graph,
  weights: WeightSource,
  keep: readonly string[] = [],
): Promise<number> {
  const program = await runtime.compile(graph, weights);
  const feeds = Object.fromEntries(
    Object.entries(graph.inputs).map(([name, { shape, dtype }]) => [
      name,
      fromNumbers(new Float64Array(sizeOf(shape)), shape, dtype),
    ]),
  );
  const call = async () => (await program.runSaving(feeds, keep)).kept.release();
  await call();
  const began = performance.now();
  await call();
  const seconds = (performance.now() - began) / 1000;
  await program.release();
  return seconds;
}
