/**
 * Several copies of a run's programs side by side. Each has a worker thread, a share of the CPU threads and a share of every
 * micro-batch. Small networks are faster this way, because threads that share every small operation wait for each other.
 */

import { shareOf } from "../cluster/index.js";
import type { DeviceSettings, SettingsPart } from "../config/index.js";
import type { DirectEstimator, RolloutEstimator, TrainingSample } from "../estimators/index.js";
import { choosePrecision, type Precision, PromptEncoder, type TrainableLayout } from "../pipeline/index.js";
import { Runtime } from "../runtime/runtime.js";
import { CompiledEngine } from "./engine.js";
import { requireFiniteParameters } from "./finite.js";
import type { GradientRequest, GradientResult, ScoredSamples } from "./gradient.js";
import type { TrainingGraphs } from "./graphs.js";
import type { MemoryPlan } from "./memory-plan.js";
import { Replica } from "./replica.js";
import type { TrainingSetup } from "./setup.js";
import {
  addSummaries,
  joinRollouts,
  joinSamples,
  partOf,
  type SampledBatch,
  type StoredBatch,
  type Workers,
} from "./workers.js";

/** The part of a machine that a process uses. */
export interface Machine {
  readonly device: DeviceSettings["device"];
  /** CPU threads, for all replicas together. */
  readonly threads: number;
  /** Index of the GPU. */
  readonly gpu: number;
}

/** Starts a runtime for each replica, and divides the CPU threads among them. */
export async function startRuntimes({ device, threads, gpu }: Machine, replicas: number): Promise<Runtime[]> {
  const each = Math.max(1, Math.floor(threads / replicas));
  return Promise.all(Array.from({ length: replicas }, () => Runtime.start({ device, threads: each, gpu })));
}

/** Resolves `precision: auto`. On a GPU this runs a small program in float16. */
export async function resolvePrecision(
  settings: SettingsPart<"device" | "precision">,
  machine: Machine,
  warn?: (message: string) => void,
): Promise<Precision> {
  if (settings.device === "cpu") return choosePrecision(settings, undefined, warn);
  const [runtime] = (await startRuntimes(machine, 1)) as [Runtime];
  try {
    return await choosePrecision(settings, runtime, warn);
  } finally {
    await runtime.close();
  }
}

/** A replica with the runtime and the programs that it uses. */
export interface CompiledReplica {
  readonly runtime: Runtime;
  readonly engine: CompiledEngine;
  readonly workers: Workers;
}

/** All replicas of a process as one worker. */
export class Replicas implements Workers {
  constructor(
    private readonly replicas: readonly Workers[],
    private readonly layout: TrainableLayout,
  ) {}

  async gradient(
    estimator: DirectEstimator,
    samples: readonly TrainingSample[],
    request: GradientRequest,
  ): Promise<GradientResult & ScoredSamples> {
    const all = await this.share(samples, (replica, some) => replica.gradient(estimator, some, request));
    return { ...this.added(all), ...joinSamples(all) };
  }

  async sample(samples: readonly TrainingSample[], request: GradientRequest): Promise<SampledBatch> {
    const all = await this.share(samples, (replica, some) => replica.sample(some, request));
    return {
      trajectories: all.flatMap(({ trajectories }) => trajectories),
      ...joinRollouts(all),
    };
  }

  async gradientFromTrajectories(
    estimator: RolloutEstimator,
    batch: StoredBatch,
    request: GradientRequest,
  ): Promise<GradientResult> {
    return this.added(
      await this.share([...batch.trajectories.keys()], (replica, places) =>
        replica.gradientFromTrajectories(estimator, partOf(batch, places), request),
      ),
    );
  }

  /** Each replica takes consecutive items. */
  private share<T, R>(items: readonly T[], work: (replica: Workers, some: readonly T[]) => Promise<R>): Promise<R[]> {
    const size = this.replicas.length;
    return Promise.all(this.replicas.map((replica, rank) => work(replica, shareOf(items, { rank, size }))));
  }

  /** Adds the gradients in a fixed order, whichever replica ends first. */
  private added(all: readonly GradientResult[]): GradientResult {
    const [{ gradient }, ...others] = all as [GradientResult, ...GradientResult[]];
    for (const other of others) {
      for (const [i, value] of other.gradient.entries()) gradient[i] = (gradient[i] as number) + value;
    }
    const summary = addSummaries(all);
    if (!summary.overflowed) requireFiniteParameters(gradient, this.layout, "the gradient");
    return { gradient, ...summary };
  }
}

/** Compiles the same graphs in each runtime. The replicas share the text encoder of the first one. */
export async function compileReplicas(
  runtimes: readonly Runtime[],
  setup: TrainingSetup,
  graphs: TrainingGraphs,
  { maxSavedCalls, packUpTo }: Pick<MemoryPlan, "maxSavedCalls" | "packUpTo">,
): Promise<CompiledReplica[]> {
  for (const runtime of runtimes) runtime.packUpTo = packUpTo;
  const prompts = PromptEncoder.compile(runtimes[0] as Runtime, setup.pipeline, graphs.sampler.text);
  return Promise.all(
    runtimes.map(async (runtime) => {
      const engine = await CompiledEngine.compile(runtime, setup, graphs, { maxSavedCalls, prompts });
      return { runtime, engine, workers: new Replica(engine, setup.reward.name) };
    }),
  );
}
