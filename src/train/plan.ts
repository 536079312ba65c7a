/** The plan of a run, from its settings. */
import { laneSettings, type Settings } from "../config/settings.js";
import { trainingGraphs } from "../engine/graphs.js";
import { countPlan, type Plan, timed } from "../engine/plan.js";
import { precisionHere, startLanes } from "../engine/replicas.js";
import { openEstimator } from "../estimators/index.js";
import { type OpenListener, openModel } from "../pipeline/open-model.js";
import { choosePrecision, type Precision } from "../pipeline/precision.js";
import { plannedWatch } from "../scoring/monitors.js";
import { plannedReward } from "../scoring/open-reward.js";
import { merge } from "../weights/source.js";
import { openLearned } from "./initial.js";

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
