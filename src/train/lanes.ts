/**
 * Several copies of a run's programs side by side, each in a worker of its own with its share of the processor's threads and of
 * every update's pictures. Small nets are faster so: two threads that share each small operation wait for each other at its end.
 */
import type { Reward } from "../rewards/index.js";
import { Runtime } from "../runtime/runtime.js";
import type { Estimator } from "./estimators/estimator.js";
import { trainingGraphs } from "./graphs.js";
import { joinParts } from "./judge.js";
import type { LearnedLayout } from "./learned.js";
import { type Experience, Learner, requireFinite } from "./learner.js";
import type { MemoryPlan } from "./memory.js";
import type { Pipeline } from "./pipeline.js";
import { choosePrecision, type Precision } from "./precision.js";
import type { TrainingSample } from "./samples.js";
import { type Settings, threadsOf } from "./settings.js";

/** Starts a runtime for each lane; the threads are divided among them. */
export async function startLanes(settings: Settings, lanes: number): Promise<Runtime[]> {
  const threads = Math.max(1, Math.floor(threadsOf(settings) / lanes));
  return Promise.all(Array.from({ length: lanes }, () => Runtime.start({ device: settings.device, threads })));
}

/** What `precision: auto` comes to may have to be tried on the device. */
export async function precisionHere(settings: Settings, warn?: (message: string) => void): Promise<Precision> {
  if (settings.device === "cpu") return choosePrecision(settings, undefined, warn);
  const [runtime] = (await startLanes(settings, 1)) as [Runtime];
  try {
    return await choosePrecision(settings, runtime, warn);
  } finally {
    await runtime.close();
  }
}

/** The learners of all lanes as one. */
export class Learners {
  private constructor(
    readonly lanes: readonly { readonly runtime: Runtime; readonly learner: Learner }[],
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
    const lanes = await Promise.all(
      runtimes.map(async (runtime) => ({
        runtime,
        learner: await Learner.compile(
          runtime,
          pipeline,
          reward,
          estimator,
          layout,
          settings,
          precision,
          memory,
          graphs,
        ),
      })),
    );
    return new Learners(lanes, layout);
  }

  get latentElements(): number {
    return (this.lanes[0] as { learner: Learner }).learner.sampler.latentElements;
  }

  /** As `Learner.learn`; each lane takes as many of the pictures, one lane's after another's. */
  async learn(samples: readonly TrainingSample[], parameters: Float32Array, scale?: number): Promise<Experience> {
    const share = samples.length / this.lanes.length;
    const seen = await Promise.all(
      this.lanes.map(({ learner }, i) => learner.learn(samples.slice(i * share, (i + 1) * share), parameters, scale)),
    );
    // The lanes' gradients add up in one order, whichever ends first.
    const [{ gradient }, ...others] = seen as [Experience, ...Experience[]];
    for (const other of others) {
      for (const [i, value] of other.gradient.entries()) gradient[i] = (gradient[i] as number) + value;
    }
    const overflowed = seen.some((each) => each.overflowed);
    if (!overflowed) requireFinite(gradient, this.layout, "the gradient");
    return {
      gradient,
      overflowed,
      loss: seen.reduce((sum, { loss }) => sum + loss / this.lanes.length, 0),
      rewards: seen.flatMap(({ rewards }) => rewards),
      parts: joinParts(seen.map(({ parts }) => parts)),
    };
  }
}
