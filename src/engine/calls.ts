/**
 * The number of program calls that a run makes, for its plan and its memory. The estimator runs as in training, on latents
 * without elements and an engine that only counts.
 */
import { shareOf } from "../cluster/index.js";
import { type DdimStep, ddimSteps } from "../diffusion/ddim.js";
import type { TrainingSample } from "../estimators/index.js";
import { remembered } from "../graph/remembered.js";
import type { ConditioningInputs } from "../pipeline/index.js";
import type { Division } from "./division.js";
import type { BackwardCall, Engine, ForwardResult } from "./engine.js";
import { groupSamples } from "./groups.js";
import { Replica } from "./replica.js";
import { Replicas } from "./replicas.js";
import { drawSamples } from "./samples.js";
import type { TrainingSetup } from "./setup.js";
import { trainingStep } from "./step.js";

/** Calls on a micro-batch per training step, over all ranks and replicas: means over the run's first steps. */
export interface CallCounts {
  /** U-Net calls; includes those that save residuals. */
  readonly forward: number;
  /** Backward calls that start from saved residuals. */
  readonly backwardSaved: number;
  /** Backward calls that recompute the forward pass. */
  readonly backwardRecomputed: number;
  /** Calls of the decoder and the reward. */
  readonly scored: number;
  /** The largest number of calls whose residuals one replica holds at the same time. Calls of the base model are not counted. */
  readonly mostSaved: number;
  /** The largest number of samples whose trajectories one replica holds at the same time. */
  readonly mostSamples: number;
}

/** Random masks differ from step to step; these are enough for a mean. */
const MOST_STEPS = 20;

type CountedSetup = Omit<TrainingSetup, "reward" | "monitors">;

/** Counts that were made before, by `maxSavedCalls`. A plan for several budgets asks for the same ones again. */
const counted = remembered((_: CountedSetup) => remembered((_: Division) => new Map<number, Promise<CallCounts>>()));

/** `maxSavedCalls`: the limit of one replica. */
export function countCalls(setup: CountedSetup, division: Division, maxSavedCalls: number): Promise<CallCounts> {
  const known = counted(setup)(division);
  const counts = known.get(maxSavedCalls) ?? count(setup, division, maxSavedCalls);
  known.set(maxSavedCalls, counts);
  return counts;
}

async function count(
  setup: CountedSetup,
  { ranks, replicas, microBatch }: Division,
  maxSavedCalls: number,
): Promise<CallCounts> {
  const { settings, estimator, pipeline, layout } = setup;
  const { sampling, train, kl } = settings;
  const chain = ddimSteps(pipeline.scheduler, sampling.steps, { eta: sampling.eta });
  const size = ranks * replicas;
  const engines = Array.from({ length: size }, () => new CountingEngine(chain, microBatch, maxSavedCalls));
  const workers = new Replicas(
    engines.map((engine) => new Replica(engine, "reward")),
    layout,
  );
  const request = { parameters: TRAINED, baseParameters: BASE, ...(kl.weight > 0 && { klWeight: kl.weight }) };
  const steps = Math.min(train.steps, MOST_STEPS);
  let estimatorState: unknown;
  let mostSamples = 0;
  for (let step = 1; step <= steps; step++) {
    const samples = drawSamples(step, settings, estimator, 0);
    const shares = engines.map((_, rank) => shareOf(samples, { rank, size }));
    const held = (share: readonly TrainingSample[]) =>
      estimator.kind === "rollout"
        ? [share.length]
        : groupSamples(share, microBatch).map((group) => group.flat().length);
    mostSamples = Math.max(mostSamples, ...shares.flatMap(held));
    const options = { workers, estimator, samples, estimatorState, request: () => request, update: () => {} };
    ({ estimatorState } = await trainingStep(options));
  }
  const mean = (count: (engine: CountingEngine) => number) =>
    engines.reduce((sum, engine) => sum + count(engine), 0) / steps;
  return {
    forward: mean((engine) => engine.forwardCalls),
    backwardSaved: mean((engine) => engine.backwardSaved),
    backwardRecomputed: mean((engine) => engine.backwardRecomputed),
    scored: mean((engine) => engine.scoreCalls),
    mostSaved: Math.max(...engines.map((engine) => engine.mostSaved)),
    mostSamples,
  };
}

/** Two vectors of parameters, told apart by identity. */
const TRAINED = new Float32Array(0);
const BASE = new Float32Array(0);
const NONE = new Float32Array(0);
const OF_BASE: ConditioningInputs = {};
const OF_TRAINED: ConditioningInputs = {};

class CountingEngine implements Engine {
  readonly latentElements = 0;
  readonly parameterCount = 0;
  forwardCalls = 0;
  backwardSaved = 0;
  backwardRecomputed = 0;
  scoreCalls = 0;
  mostSaved = 0;
  private saved = 0;

  constructor(
    readonly steps: readonly DdimStep[],
    readonly batch: number,
    readonly maxSavedCalls: number,
  ) {}

  async condition(_prompts: readonly string[], parameters: Float32Array): Promise<ConditioningInputs> {
    return parameters === BASE ? OF_BASE : OF_TRAINED;
  }

  async forward(
    conditioning: ConditioningInputs,
    _x: Float32Array,
    _step: number,
    save: boolean,
  ): Promise<ForwardResult> {
    this.forwardCalls++;
    if (!save) return { output: NONE };
    const counts = conditioning === OF_TRAINED ? 1 : 0;
    this.saved += counts;
    this.mostSaved = Math.max(this.mostSaved, this.saved);
    const release = async () => {
      this.saved -= counts;
    };
    return { output: NONE, residuals: { outputs: {}, bytes: 0, release } };
  }

  async backward(_conditioning: ConditioningInputs, { residuals }: BackwardCall) {
    if (residuals) this.backwardSaved++;
    else this.backwardRecomputed++;
    return { dParameters: NONE, dx: NONE };
  }

  async scoreWithGradient(_latents: Float32Array, prompts: readonly string[]) {
    this.scoreCalls++;
    const zeros = new Float32Array(prompts.length);
    return { rewards: zeros, losses: zeros, dLatents: NONE };
  }

  async score(latents: Float32Array, prompts: readonly string[]) {
    return await this.scoreWithGradient(latents, prompts);
  }
}
