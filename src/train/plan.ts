/** The plan of a run, from its settings alone. */

import { type Settings, threadsOf } from "../config/index.js";
import { calibrate, countPlan, type Plan, resolvePrecision, startRuntimes, WorkPlanner } from "../engine/index.js";
import { openEstimator } from "../estimators/index.js";
import { choosePrecision, type OpenListener, openModel } from "../pipeline/index.js";
import { plannedMonitors, plannedReward } from "../scoring/index.js";
import { type PartsInCode, withPartsInCode } from "./in-code.js";
import { openTrainable } from "./open-trainable.js";

export interface PlanOptions extends OpenListener, PartsInCode {
  /** Compile the run's programs and time a call of each; default true. */
  readonly calibrate?: boolean;
}

/**
 * Counts the work, memory and time of a run without running it. Rewards are not downloaded: one that is not on this machine is
 * left out and listed in `uncounted`.
 *
 * @throws InputError if the model, the estimator or the starting adapter cannot be opened, `memory-too-small` if the run does not
 * fit into `settings.memory`
 * @example
 * const { estimate, memory } = await plan(await loadSettings({ recipe: "default" }));
 * console.log(estimate?.seconds, memory.expectedBytes);
 */
export async function plan(
  given: Settings,
  { calibrate: times = true, reward: rewardInCode, estimator: estimatorInCode, ...listener }: PlanOptions = {},
): Promise<Plan> {
  const settings = withPartsInCode(given, { reward: rewardInCode, estimator: estimatorInCode });
  const { warn } = listener;
  const pipeline = await openModel(settings, listener);
  const { reward, absent } = rewardInCode ? { reward: rewardInCode } : await plannedReward(settings);
  const { monitors, absent: absentMonitors } = await plannedMonitors(settings);
  const estimator = estimatorInCode ?? (await openEstimator(settings.estimator));
  const { layout } = await openTrainable(settings, pipeline, listener);
  const machine = { device: settings.device, threads: threadsOf(settings), gpu: 0 };
  const precision = times
    ? await resolvePrecision(settings, machine, warn)
    : await choosePrecision(settings, undefined, warn);
  const setup = { settings, pipeline, reward, monitors, estimator, layout, precision };
  const planner = new WorkPlanner(setup);
  const work = await planner.within(settings.memory);
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
    return {
      ...counted,
      estimate: await calibrate(runtimes, setup, { work, others: await planner.options() }, counted),
    };
  } finally {
    await Promise.all(runtimes.map((runtime) => runtime.close()));
  }
}
