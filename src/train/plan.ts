/** The plan of a run, from its settings alone. */
import { threadsOf } from "../config/batch.js";
import type { Settings } from "../config/settings.js";
import { calibrate } from "../engine/calibrate.js";
import { countPlan, type Plan } from "../engine/plan.js";
import { resolvePrecision, startRuntimes } from "../engine/replicas.js";
import { planWork } from "../engine/work.js";
import { openEstimator } from "../estimators/index.js";
import { type OpenListener, openModel } from "../pipeline/open-model.js";
import { choosePrecision } from "../pipeline/precision.js";
import { plannedMonitors } from "../scoring/monitors.js";
import { plannedReward } from "../scoring/open-reward.js";
import { openTrainable } from "./open-trainable.js";

export interface PlanOptions extends OpenListener {
  /** Compile the run's programs and time a call of each; default true. */
  readonly calibrate?: boolean;
}

/** Counts the work, memory and time of a run without running it. Rewards are not downloaded. */
export async function plan(
  settings: Settings,
  { calibrate: times = true, ...listener }: PlanOptions = {},
): Promise<Plan> {
  const { warn } = listener;
  const pipeline = await openModel(settings, listener);
  const { reward, absent } = await plannedReward(settings);
  const { monitors, absent: absentMonitors } = await plannedMonitors(settings);
  const estimator = await openEstimator(settings.estimator);
  const { layout } = await openTrainable(settings, pipeline, { warn });
  const machine = { device: settings.device, threads: threadsOf(settings), gpu: 0 };
  const precision = times
    ? await resolvePrecision(settings, machine, warn)
    : await choosePrecision(settings, undefined, warn);
  const setup = { settings, pipeline, reward, monitors, estimator, layout, precision };
  const work = await planWork(setup);
  const counted: Plan = {
    ...(await countPlan(setup, work)),
    uncounted: [
      ...(absent === undefined ? [] : [`the ${reward.name} reward, which cannot be opened here (${absent})`]),
      ...(absentMonitors === undefined
        ? []
        : [`the held-out reward or diversity, which cannot be opened here (${absentMonitors})`]),
    ],
  };
  if (!times) return counted;
  const runtimes = await startRuntimes(machine, work.memory.replicas);
  try {
    return { ...counted, estimate: await calibrate(runtimes, setup, work, counted) };
  } finally {
    await Promise.all(runtimes.map((runtime) => runtime.close()));
  }
}
