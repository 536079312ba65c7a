/** What an estimator asks for, counted by letting it work on latents of no elements: the very code that trains, without the numbers. */

import type { Settings } from "../config/settings.js";
import { type DdimStep, ddimSteps } from "../diffusion/ddim.js";
import type { Estimator } from "../estimators/estimator.js";
import type { Pipeline } from "../pipeline/pipeline.js";
import type { Engine } from "./engine.js";
import { Learner } from "./replica.js";
import { samplesOf } from "./samples.js";
import { playRound } from "./step.js";

/** Programs that are run for micro-batches. */
export interface Calls {
  /** Of the U-Net; those whose residuals are kept are among them. */
  readonly forward: number;
  /** Ways back that begin with kept residuals. */
  readonly kept: number;
  /** Ways back that compute the forward pass again. */
  readonly recomputed: number;
  /** Of the decoder and the reward. */
  readonly judged: number;
}

const none = new Float32Array();

class DryEngine implements Engine {
  readonly calls = { forward: 0, kept: 0, recomputed: 0, judged: 0 };
  readonly latentElements = 0;
  readonly learned = 0;

  constructor(
    readonly steps: readonly DdimStep[],
    readonly batch: number,
    readonly keptAtOnce: number,
  ) {}

  async condition() {
    return {};
  }

  async forward(_told: object, _x: Float32Array, _step: number, keep: boolean) {
    this.calls.forward++;
    return { output: none, ...(keep && { kept: { outputs: {}, bytes: 0, release: async () => {} } }) };
  }

  async backward(...[, , , , kept]: Parameters<Engine["backward"]>) {
    this.calls[kept ? "kept" : "recomputed"]++;
    return { dParameters: none, dx: none };
  }

  async judge(_latents: Float32Array, prompts: readonly string[]) {
    this.calls.judged++;
    const zeros = new Float32Array(prompts.length);
    return { rewards: zeros, losses: zeros, dLatents: none };
  }

  async reward(latents: Float32Array, prompts: readonly string[]) {
    return await this.judge(latents, prompts);
  }
}

/** The mean over the run's own draws; over its first steps where they are many. */
export async function dryRun(
  settings: Settings,
  { scheduler }: Pick<Pipeline, "scheduler">,
  estimator: Estimator,
  keptAtOnce: number,
): Promise<Calls> {
  const { sampling, batch, train } = settings;
  const engine = new DryEngine(ddimSteps(scheduler, sampling.steps, sampling), batch.per_device, keptAtOnce);
  const learner = new Learner(engine, "reward");
  const steps = Math.min(train.updates, 20);
  // Prompts decide nothing here, and a plan may have none.
  const promptless = { ...settings, prompts: { ...settings.prompts, train: [""] } };
  const { weight } = settings.kl;
  const update = { parameters: none, base: none, ...(weight > 0 && { kl: weight }) };
  let memory: unknown;
  for (let step = 1; step <= steps; step++) {
    const samples = samplesOf(step, promptless, estimator, 0);
    const played = await playRound(
      learner,
      estimator,
      samples,
      memory,
      () => update,
      () => {},
    );
    memory = played.memory;
  }
  const { forward, kept, recomputed, judged } = engine.calls;
  return { forward: forward / steps, kept: kept / steps, recomputed: recomputed / steps, judged: judged / steps };
}
