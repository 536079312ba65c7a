/** What a run will cost, without running it: counted from its graphs and its draws, timed on a few calls. */

import { type Cluster, singleProcess } from "../cluster/cluster.js";
import { accumulationSteps, evaluationBatch, laneSettings, rankSettings, type Settings } from "../config/settings.js";
import type { Estimator } from "../estimators/estimator.js";
import type { Graph } from "../graph/graph.js";
import type { LearnedLayout } from "../pipeline/parameters.js";
import type { Pipeline } from "../pipeline/pipeline.js";
import type { Precision } from "../pipeline/precision.js";
import type { Reward } from "../rewards/index.js";
import type { Runtime } from "../runtime/runtime.js";
import { judgeCalls } from "../scoring/graphs.js";
import type { Watch } from "../scoring/monitors.js";
import { fromNumbers } from "../tensor/host.js";
import { sizeOf } from "../tensor/shape.js";
import type { WeightSource } from "../weights/source.js";
import { dryRun } from "./call-counts.js";
import { flops } from "./flops.js";
import { type TrainingGraphs, trainingGraphs } from "./graphs.js";
import { type MemoryPlan, memoryOf } from "./memory.js";

/** What a run costs, counted before it starts. "Calls" are runs of the U-Net's forward or VJP graph on one micro-batch. */
export interface Plan {
  readonly model: string;
  readonly reward: string;
  readonly backboneParameters: number;
  /** Whose parameters learn. */
  readonly trainable: Settings["trainable"];
  readonly trainableParameters: number;
  readonly updates: number;
  readonly samplesPerUpdate: number;
  /** Micro-batches whose gradients make one update. */
  readonly accumulation: number;
  /** Of the U-Net. */
  readonly precision: Precision;
  readonly unetForwardCallsPerUpdate: number;
  /** An expectation where the truncation is random. */
  readonly unetBackwardCallsPerUpdate: number;
  /** Of these, the ones that compute the forward pass a second time. */
  readonly unetRecomputedCallsPerUpdate: number;
  /** Of the decoder and the reward, with the gradient where the estimator takes it, on one micro-batch. */
  readonly rewardCallsPerUpdate: number;
  /** Floating-point operations of one update (a multiply-add counts as two). */
  readonly flopsPerUpdate: number;
  readonly memory: MemoryPlan;
  /** What the counts leave out because it is not here. */
  readonly uncounted: readonly string[];
  readonly evaluations: number;
  readonly imagesPerEvaluation: number;
  /** Present when a short calibration ran on this machine. */
  readonly estimate?: PlanEstimate;
}

export interface PlanEstimate {
  readonly secondsPerUpdate: number;
  readonly secondsPerEvaluation: number;
  /** The whole run: updates and evaluations. */
  readonly seconds: number;
  readonly peakRssBytes: number;
}

/** `ranks`: processes that share the run's pictures, here and elsewhere. Memory is that of this one. */
export async function countPlan(
  settings: Settings,
  pipeline: Pipeline,
  reward: Reward,
  layout: LearnedLayout,
  estimator: Estimator,
  precision: Precision = "float32",
  watch: Watch = {},
  ranks: Pick<Cluster, "size" | "localSize"> = singleProcess(),
): Promise<Plan> {
  const { batch, prompts, evaluation, train } = settings;
  const own = rankSettings(settings, ranks.size);
  const memory = memoryOf(own, pipeline, reward, layout, estimator, precision, watch, ranks.localSize);
  const lane = laneSettings(settings, memory.lanes);
  // Of all lanes together.
  const { forward, kept, recomputed, judged } = await dryRun(
    lane,
    pipeline,
    estimator,
    memory.keptAtOnce * memory.lanes,
  );
  const graphs = trainingGraphs(lane, pipeline, reward, layout, estimator, precision);
  return {
    model: settings.model,
    reward: reward.name,
    backboneParameters: elementsUnder(pipeline.weights, "unet."),
    trainable: settings.trainable,
    trainableParameters: layout.size,
    updates: train.updates,
    samplesPerUpdate: batch.total,
    accumulation: accumulationSteps(batch, ranks.size),
    precision,
    unetForwardCallsPerUpdate: forward,
    unetBackwardCallsPerUpdate: kept + recomputed,
    unetRecomputedCallsPerUpdate: recomputed,
    rewardCallsPerUpdate: judged,
    flopsPerUpdate:
      forward * flops(graphs.forward) +
      kept * flops(graphs.split.backward) +
      recomputed * flops(graphs.vjp) +
      judged * judgeCalls(graphs.judge).reduce((sum, { graph, calls }) => sum + calls * flops(graph), 0),
    memory,
    uncounted: [],
    // Before the first update, after every so many and after the last.
    evaluations: 1 + Math.ceil(train.updates / evaluation.every),
    imagesPerEvaluation: prompts.eval.length * evaluation.seeds_per_prompt,
  };
}

function elementsUnder(source: WeightSource, prefix: string): number {
  let total = 0;
  for (const name of source.names()) if (name.startsWith(prefix)) total += sizeOf(source.get(name)?.shape ?? []);
  return total;
}

export async function timed(
  runtimes: readonly Runtime[],
  plan: Plan,
  { forward, split, vjp, judge, evaluation }: TrainingGraphs,
  settings: Settings,
  weights: WeightSource,
): Promise<PlanEstimate> {
  const { sampling, batch } = settings;
  const lanes = runtimes.length;
  const seconds = async (graph: Graph, keep?: readonly string[]) => {
    const each = await Promise.all(runtimes.map((runtime) => secondsPerCall(runtime, graph, weights, keep)));
    return Math.max(...each) / lanes;
  };
  const recomputed = plan.unetRecomputedCallsPerUpdate;
  const kept = plan.unetBackwardCallsPerUpdate - recomputed;
  const secondsForward = await seconds(forward);
  let secondsToJudge = 0;
  for (const { graph, calls } of judgeCalls(judge)) secondsToJudge += calls * (await seconds(graph));
  const secondsPerUpdate =
    (plan.unetForwardCallsPerUpdate - kept) * secondsForward +
    (kept && kept * ((await seconds(split.forward, split.residuals)) + (await seconds(split.backward)))) +
    (recomputed && recomputed * (await seconds(vjp))) +
    plan.rewardCallsPerUpdate * secondsToJudge;
  const secondsPerPicture =
    (sampling.steps * secondsForward) / batch.per_device +
    (await seconds(evaluation.decode)) / evaluationBatch(settings);
  const secondsPerEvaluation = plan.imagesPerEvaluation * secondsPerPicture;
  return {
    secondsPerUpdate,
    secondsPerEvaluation,
    seconds: plan.updates * secondsPerUpdate + plan.evaluations * secondsPerEvaluation,
    peakRssBytes: process.resourceUsage().maxRSS * 1024,
  };
}

/** The second call's time; the first one still allocates. `keep`: outputs that stay in the worker. */
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
  const call = async () => (await program.runKeeping(feeds, keep)).kept.release();
  await call();
  const began = performance.now();
  await call();
  const seconds = (performance.now() - began) / 1000;
  await program.release();
  return seconds;
}
