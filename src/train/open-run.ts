/** Opens everything that a run needs, and decides how its work is divided, before anything is compiled or written. */

import { type Cluster, firstOnEachHost, gpuOf, threadShare } from "../cluster/index.js";
import { accumulationSteps, evaluationPrompts, inTemplate, type Settings } from "../config/index.js";
import {
  checksum,
  type Machine,
  planWork,
  preferredReplicas,
  resolvePrecision,
  startRuntimes,
  type TrainingSetup,
  type Work,
} from "../engine/index.js";
import { needsBaseModel, openEstimator } from "../estimators/index.js";
import { openModel, promptWarnings } from "../pipeline/index.js";
import type { Runtime } from "../runtime/runtime.js";
import { openMonitors, openSettingsReward } from "../scoring/index.js";
import { fingerprint } from "../weights/fingerprint.js";
import { requireAgreement } from "./agreement.js";
import type { Origin } from "./checkpoint.js";
import { baseParameters, openTrainable } from "./open-trainable.js";
import type { TrainOptions } from "./options.js";
import { resumeFrom } from "./resume.js";
import { initialState, type TrainingState, withLossScale } from "./state.js";

export interface OpenedRun {
  readonly setup: TrainingSetup;
  readonly state: TrainingState;
  readonly origin: Origin;
  /** Parameters of the base model, if the run compares with it. */
  readonly base: Float32Array | undefined;
  readonly work: Work;
  /** One for each replica; the caller closes them. */
  readonly runtimes: readonly Runtime[];
  readonly warnings: readonly string[];
}

export async function openRun(settings: Settings, cluster: Cluster, options: TrainOptions): Promise<OpenedRun> {
  accumulationSteps(settings.batch, cluster.size); // throws if the numbers do not divide
  const warnings: string[] = [];
  const warn = (message: string) => void warnings.push(message);
  const { parts, trainable, origin, saved } = await firstOnEachHost(cluster, () => openParts(settings, options, warn));
  const { layout } = trainable;

  const machine = {
    device: settings.device,
    // The ranks of a host share its cores and GPUs.
    threads: settings.threads ?? (await threadShare(cluster)),
    gpu: gpuOf(cluster),
  };
  const precision = await resolvePrecision(settings, machine, warn);
  const setup: TrainingSetup = { settings, layout, precision, ...parts };
  const initial = saved ?? initialState(await trainable.initial(), settings);
  const base = needsBaseModel(settings.kl.weight, parts.estimator)
    ? (initial.base ?? (await baseParameters(settings, trainable)))
    : undefined;
  const state = withLossScale(
    { ...initial, base: settings.lora.start === null ? undefined : base },
    precision === "float16",
  );
  await requireAgreement(cluster, { ...origin, precision, step: state.step, state: checksum(state.weights) });
  const { work, runtimes } = await planAndStart(setup, machine, cluster);
  return { setup, state, origin, base, work, runtimes, warnings: [...warnings, ...promptProblems(setup)] };
}

/** The runtimes start in their own threads while the work is planned. */
async function planAndStart(setup: TrainingSetup, machine: Machine, cluster: Cluster) {
  const preferred = preferredReplicas(setup, machine.threads);
  const starting = startRuntimes(machine, preferred);
  try {
    const work = await planWork(setup, { threads: machine.threads, ranks: cluster });
    if (work.memory.replicas === preferred) return { work, runtimes: await starting };
    // The memory budget was too small for all of them.
    await closeAll(await starting);
    return { work, runtimes: await startRuntimes(machine, work.memory.replicas) };
  } catch (error) {
    await closeAll(await starting);
    throw error;
  }
}

async function closeAll(runtimes: readonly Runtime[]): Promise<void> {
  await Promise.all(runtimes.map((runtime) => runtime.close()));
}

/** The files of a run: model, reward, monitors, estimator, trainable parameters, and the state to resume from. */
async function openParts(
  settings: Settings,
  { resume, signal, onFetch, ...given }: TrainOptions,
  warn: (message: string) => void,
) {
  const listener = { warn, onFetch, signal };
  const pipeline = await openModel(settings, listener);
  const reward = given.reward ?? (await openSettingsReward(settings, listener));
  const monitors = await openMonitors(settings, listener);
  const estimator = given.estimator ?? (await openEstimator(settings.estimator));
  const trainable = await openTrainable(settings, pipeline, { ...listener, resume });
  const origin = {
    settings,
    model: await fingerprint(pipeline.weights),
    reward: await fingerprint(reward.weights),
  };
  const saved = resume === undefined ? undefined : await resumeFrom(resume, trainable.layout, origin);
  return { parts: { pipeline, reward, monitors, estimator }, trainable, origin, saved };
}

/** Prompts that the text encoder or a reward cannot read in full. */
function promptProblems({ settings, pipeline, reward, monitors }: TrainingSetup): string[] {
  const { train, template, negative } = settings.prompts;
  const evaluation = evaluationPrompts(settings);
  const prompts = [...train.map((prompt) => inTemplate(prompt, template)), ...evaluation];
  return [
    ...promptWarnings(pipeline, [...prompts, negative]),
    ...reward.warnings(prompts),
    ...(monitors.heldOut?.warnings(evaluation) ?? []),
  ];
}
