/** What a run will cost, without running it: counted from its graphs and its draws, timed on a few calls. */
import { type Cluster, singleProcess } from "../cluster/cluster.js";
import type { Graph } from "../graph/graph.js";
import type { Reward } from "../rewards/index.js";
import type { Runtime } from "../runtime/runtime.js";
import { fromNumbers } from "../tensor/host.js";
import { sizeOf } from "../tensor/shape.js";
import { merge, type WeightSource } from "../weights/source.js";
import { dryRun } from "./dry-run.js";
import type { Estimator } from "./estimators/estimator.js";
import { openEstimator } from "./estimators/index.js";
import type { Plan, PlanEstimate } from "./events.js";
import { flops } from "./flops.js";
import { type TrainingGraphs, trainingGraphs } from "./graphs.js";
import { judgeCalls } from "./judge-graphs.js";
import { precisionHere, startLanes } from "./lanes.js";
import type { LearnedLayout } from "./learned.js";
import { memoryOf } from "./memory.js";
import { type OpenListener, openModel } from "./open-model.js";
import type { Pipeline } from "./pipeline.js";
import { choosePrecision, type Precision } from "./precision.js";
import { plannedReward } from "./reward.js";
import { accumulationSteps, evaluationBatch, laneSettings, rankSettings, type Settings } from "./settings.js";
import { openLearned } from "./start.js";
import { plannedWatch, type Watch } from "./watch.js";

/** `calibrate` compiles the run's programs and times a call of each. */
export async function plan(
  settings: Settings,
  { calibrate = true, ...listener }: { calibrate?: boolean } & OpenListener = {},
): Promise<Plan> {
  const pipeline = await openModel(settings, listener);
  const { reward, absent } = await plannedReward(settings);
  const estimator = await openEstimator(settings.estimator);
  const { layout } = await openLearned(settings, pipeline, { warn: listener.warn });
  const watched = await plannedWatch(settings);
  const uncounted = [
    ...(absent === undefined ? [] : [`the ${reward.name} reward, which cannot be opened here (${absent})`]),
    ...(watched.absent === undefined ? [] : [`what is watched, which cannot be opened here (${watched.absent})`]),
  ];
  const count = async (precision: Precision): Promise<Plan> => ({
    ...(await countPlan(settings, pipeline, reward, layout, estimator, precision, watched.watch)),
    uncounted,
  });
  if (!calibrate) return await count(await choosePrecision(settings, undefined, listener.warn));

  const precision = await precisionHere(settings, listener.warn);
  const counted = await count(precision);
  const { lanes } = counted.memory;
  const lane = laneSettings(settings, lanes);
  const graphs = trainingGraphs(lane, pipeline, reward, layout, estimator, precision);
  const runtimes = await startLanes(settings, lanes);
  try {
    const weights = merge(pipeline.weights, reward.weights);
    // What the lanes do side by side, they take about as long for as one of them.
    return { ...counted, estimate: await timed(runtimes, counted, graphs, lane, weights) };
  } finally {
    await Promise.all(runtimes.map((runtime) => runtime.close()));
  }
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

async function timed(
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
