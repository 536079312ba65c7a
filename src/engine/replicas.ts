/**
 * Several copies of a run's programs side by side, each in a worker of its own with its share of the processor's threads and of
 * every update's pictures. Small nets are faster so: two threads that share each small operation wait for each other at its end.
 */

import { shareOf } from "../cluster/share.js";
import { type Settings, threadsOf } from "../config/settings.js";
import type { Estimator, Lesson, RoundEstimator, UpdateEstimator } from "../estimators/estimator.js";
import type { TrainingSample } from "../estimators/sample.js";
import type { LearnedLayout } from "../pipeline/parameters.js";
import type { Pipeline } from "../pipeline/pipeline.js";
import { choosePrecision, type Precision } from "../pipeline/precision.js";
import type { Reward } from "../rewards/index.js";
import { Runtime } from "../runtime/runtime.js";
import type { Update } from "./context.js";
import { CompiledEngine } from "./engine.js";
import { trainingGraphs } from "./graphs.js";
import type { MemoryPlan } from "./memory.js";
import { Learner, type Learnt, type Rollout, requireFinite, type Sampled, type Seen } from "./replica.js";
import { pick } from "./samples.js";
import { costOf, joined, summed } from "./sharding.js";

/** Starts a runtime for each lane; the threads are divided among them. `gpu`: which of several. */
export async function startLanes(settings: Settings, lanes: number, gpu = 0): Promise<Runtime[]> {
  const threads = Math.max(1, Math.floor(threadsOf(settings) / lanes));
  return Promise.all(Array.from({ length: lanes }, () => Runtime.start({ device: settings.device, threads, gpu })));
}

/** What `precision: auto` comes to may have to be tried on the device. */
export async function precisionHere(settings: Settings, warn?: (message: string) => void, gpu = 0): Promise<Precision> {
  if (settings.device === "cpu") return choosePrecision(settings, undefined, warn);
  const [runtime] = (await startLanes(settings, 1, gpu)) as [Runtime];
  try {
    return await choosePrecision(settings, runtime, warn);
  } finally {
    await runtime.close();
  }
}

export interface Lane {
  readonly runtime: Runtime;
  readonly engine: CompiledEngine;
  readonly learner: Learner;
}

/** The learners of all lanes as one. */
export class Learners {
  private constructor(
    readonly lanes: readonly Lane[],
    readonly layout: LearnedLayout,
  ) {}

  /** `settings`: those of one lane (`laneSettings`). */
  static async compile(
    runtimes: readonly Runtime[],
    pipeline: Pipeline,
    reward: Reward,
    estimator: Estimator,
    layout: LearnedLayout,
    settings: Settings,
    precision: Precision,
    memory: MemoryPlan,
  ): Promise<Learners> {
    const graphs = trainingGraphs(settings, pipeline, reward, layout, estimator, precision);
    const options = { pipeline, reward, estimator, layout, settings, precision, memory, graphs };
    const lanes = await Promise.all(
      runtimes.map(async (runtime) => {
        const engine = await CompiledEngine.compile(runtime, options);
        return { runtime, engine, learner: new Learner(engine, reward.name) };
      }),
    );
    return new Learners(lanes, layout);
  }

  get latentElements(): number {
    return (this.lanes[0] as Lane).engine.latentElements;
  }

  /** As `Learner.learn`; each lane takes as many of the pictures, one lane's after another's. */
  async learn(estimator: UpdateEstimator, samples: readonly TrainingSample[], update: Update): Promise<Learnt & Seen> {
    const seen = await this.share(samples, (learner, some) => learner.learn(estimator, some, update));
    return { ...this.added(seen), ...joined(seen) };
  }

  async sample(samples: readonly TrainingSample[], update: Update): Promise<Sampled> {
    const seen = await this.share(samples, (learner, some) => learner.sample(some, update));
    return { rollouts: seen.flatMap(({ rollouts }) => rollouts), cost: costOf(seen), ...joined(seen) };
  }

  async relearn(
    estimator: RoundEstimator,
    rollouts: readonly Rollout[],
    { weights, update: number }: Omit<Lesson, "trajectory">,
    update: Update,
  ): Promise<Learnt> {
    return this.added(
      await this.share([...rollouts.keys()], (learner, places) =>
        learner.relearn(estimator, pick(rollouts, places), { weights: pick(weights, places), update: number }, update),
      ),
    );
  }

  private share<T, R>(items: readonly T[], work: (learner: Learner, some: readonly T[]) => Promise<R>): Promise<R[]> {
    const size = this.lanes.length;
    return Promise.all(this.lanes.map(({ learner }, rank) => work(learner, shareOf(items, { rank, size }))));
  }

  /** The lanes' gradients add up in one order, whichever ends first. */
  private added(all: readonly Learnt[]): Learnt {
    const [{ gradient }, ...others] = all as [Learnt, ...Learnt[]];
    for (const other of others) {
      for (const [i, value] of other.gradient.entries()) gradient[i] = (gradient[i] as number) + value;
    }
    const told = summed(all);
    if (!told.overflowed) requireFinite(gradient, this.layout, "the gradient");
    return { gradient, ...told };
  }
}
