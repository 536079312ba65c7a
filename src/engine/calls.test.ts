import { describe, expect, test } from "vitest";
import { FAKE_LAYOUT, FakeEngine } from "../../test/fake-engine.js";
import { tinySettings } from "../../test/tiny.js";
import type { Settings, SettingsInput } from "../config/settings.js";
import { ddimSteps, readSchedulerConfig } from "../diffusion/ddim.js";
import type { DirectEstimator } from "../estimators/estimator.js";
import { type EstimatorContext, openEstimator } from "../estimators/index.js";
import type { Pipeline } from "../pipeline/index.js";
import { countCalls } from "./calls.js";
import { divide } from "./division.js";
import { Replica } from "./replica.js";
import { Replicas } from "./replicas.js";
import { drawSamples } from "./samples.js";
import { trainingStep } from "./step.js";

const scheduler = readSchedulerConfig({ clip_sample: false }, "scheduler_config.json");
const pipeline = { scheduler } as Pipeline;
const layout = FAKE_LAYOUT;

/** Calls of real training steps on fake engines: means over the steps. */
async function calls(settings: Settings, replicas: number, maxSavedCalls: number) {
  const estimator = await openEstimator(settings.estimator);
  const steps = ddimSteps(scheduler, settings.sampling.steps, { eta: settings.sampling.eta });
  const { microBatch: batch } = divide(settings, { replicas });
  const engines = Array.from({ length: replicas }, () => new FakeEngine({ steps, batch, maxSavedCalls }));
  const workers = new Replicas(
    engines.map((engine) => new Replica(engine, "distance")),
    layout,
  );
  const klWeight = settings.kl.weight > 0 ? settings.kl.weight : undefined;
  const request = {
    parameters: Float32Array.of(0.1, 0.1),
    baseParameters: Float32Array.of(0.1, 0.2),
    ...(klWeight !== undefined && { klWeight }),
  };
  let estimatorState: unknown;
  for (let step = 1; step <= settings.train.steps; step++) {
    const samples = drawSamples(step, settings, estimator, 2).map((sample) => ({ ...sample, prompt: "0.5" }));
    const options = { workers, estimator, samples, estimatorState, request: () => request, update: () => {} };
    ({ estimatorState } = await trainingStep(options));
  }
  const mean = (count: (engine: FakeEngine) => number) =>
    engines.reduce((sum, engine) => sum + count(engine), 0) / settings.train.steps;
  return {
    counts: {
      forward: mean((engine) => engine.forwardCalls),
      backwardSaved: mean((engine) => engine.backwardSaved),
      backwardRecomputed: mean((engine) => engine.backwardRecomputed),
      scored: mean((engine) => engine.scoreCalls),
    },
    mostHeld: Math.max(...engines.map((engine) => engine.mostHeld)),
    left: engines.reduce((sum, { held }) => sum + held, 0),
  };
}

async function counted(settings: Settings, replicas: number, maxSavedCalls: number) {
  const estimator = await openEstimator(settings.estimator);
  const setup = { settings, estimator, pipeline, layout, precision: "float32" } as const;
  return countCalls(setup, divide(settings, { replicas }), maxSavedCalls);
}

const BATCH = { samples_per_epoch: 8, total: 8, per_device: 4 };
const CASES: Record<string, SettingsInput> = {
  "alignprop with a mask per sample": { estimator: { name: "alignprop", truncation: { mode: "per-step" } } },
  "alignprop with a fixed mask": { estimator: { name: "alignprop", truncation: { mode: "fixed", k: 2 } } },
  draft: { estimator: "draft" },
  "draft with a KL penalty": { estimator: "draft", kl: { weight: 0.5 } },
  "draft-lv": { estimator: { name: "draft-lv", noises: 2 } },
  refl: { estimator: { name: "refl", low: 1 } },
  "adjoint-matching": { estimator: "adjoint-matching", sampling: { steps: 4, eta: 1 } },
  ddpo: { estimator: { name: "ddpo", inner_epochs: 2 }, sampling: { steps: 4, eta: 1 } },
  "rwr with a KL penalty": { estimator: "rwr", kl: { weight: 0.5 } },
};

describe("the counted calls are those of real steps", () => {
  for (const [name, changes] of Object.entries(CASES)) {
    const settings = tinySettings({ sampling: { steps: 4 }, ...changes, batch: BATCH, steps: 3 });
    for (const replicas of [1, 2]) {
      test.each([0, 1, 3, Number.POSITIVE_INFINITY])(
        `of ${name}, ${replicas} replicas, at most %d saved`,
        async (limit) => {
          const { mostSaved, mostSamples: _, ...counts } = await counted(settings, replicas, limit);
          const real = await calls(settings, replicas, limit);
          expect(counts).toEqual(real.counts);
          expect(real.mostHeld).toBeLessThanOrEqual(limit);
          expect(real.left).toBe(0);
          expect(mostSaved).toBeLessThanOrEqual(real.mostHeld);
        },
      );
    }
  }
});

test("the largest numbers of saved calls and of samples are those that one context holds", async () => {
  const most = async (changes: SettingsInput) => {
    const settings = tinySettings({ sampling: { steps: 4 }, ...changes, batch: BATCH, steps: 1 });
    const { mostSaved, mostSamples } = await counted(settings, 1, Number.POSITIVE_INFINITY);
    return [mostSaved, mostSamples];
  };
  // Full chains of one micro-batch at a time.
  expect(await most({ estimator: "draft" })).toEqual([4, 4]);
  // Samples with masks of their own are one group of two micro-batches.
  expect((await most({ estimator: { name: "alignprop", truncation: { mode: "per-step" } } }))[1]).toBe(8);
  // Calls of the base model do not count: the chain, and no other call.
  expect(await most({ estimator: "adjoint-matching", sampling: { steps: 4, eta: 1 } })).toEqual([4, 4]);
  // One call at a time, but the trajectories of all samples.
  expect(await most({ estimator: "ddpo", sampling: { steps: 4, eta: 1 } })).toEqual([1, 8]);
});

test("counts hold for all ranks together, and for at most the first 20 steps", async () => {
  const settings = tinySettings({ estimator: "draft", sampling: { steps: 4 }, batch: BATCH, steps: 1_000_000 });
  const estimator = (await openEstimator(settings.estimator)) as DirectEstimator;
  let contexts = 0;
  const spying: DirectEstimator = {
    ...estimator,
    addGradient: (context: EstimatorContext) => {
      contexts++;
      return estimator.addGradient(context);
    },
  };
  const setup = { settings, estimator: spying, pipeline, layout, precision: "float32" } as const;
  const found = await countCalls(setup, divide(settings, { ranks: 2, localRanks: 2 }), 0);
  // 8 samples are two micro-batches, one on each rank.
  expect(found).toMatchObject({ forward: 2 * 4, backwardSaved: 0, backwardRecomputed: 2 * 4, scored: 2 });
  expect(contexts).toBe(20 * 2);
});
