/** Keeping residuals instead of computing the U-Net twice: the same gradients, in the memory that the user names. */

import { afterAll, describe, expect, test } from "vitest";
import type { Settings, SettingsInput } from "../src/config/settings.js";
import { CompiledEngine } from "../src/engine/engine.js";
import { type MemoryPlan, memoryOf } from "../src/engine/memory.js";
import { Learner } from "../src/engine/replica.js";
import { samplesOf } from "../src/engine/samples.js";
import { InputError } from "../src/errors/index.js";
import type { UpdateEstimator } from "../src/estimators/estimator.js";
import { openEstimator } from "../src/estimators/index.js";
import { showBytes } from "../src/io/bytes.js";
import { openPipeline } from "../src/pipeline/pipeline.js";
import { Runtime } from "../src/runtime/runtime.js";
import { openLearned } from "../src/train/initial.js";
import { plan } from "../src/train/plan.js";
import { TINY_SD, tinyReward, tinySettings } from "./tiny.js";
import { distance, roundingTolerance } from "./tolerance.js";

const pipeline = await openPipeline(TINY_SD);
const reward = await tinyReward("compressibility");
const runtime = await Runtime.start({ threads: 1 });
afterAll(() => runtime.close());

const FULL = { estimator: { truncation: { mode: "fixed", k: null } } } satisfies SettingsInput;

/** What is held in the worker while `work` runs: how many calls at most, and how many at the end. */
async function countingKept(work: (runtime: Runtime) => Promise<void>): Promise<{ most: number; left: number }> {
  let [alive, most] = [0, 0];
  const compile: Runtime["compile"] = async (...graph) => {
    const program = await runtime.compile(...graph);
    return {
      ...program,
      runKeeping: async (...feeds) => {
        const result = await program.runKeeping(...feeds);
        const release = result.kept.release;
        most = Math.max(most, ++alive);
        Object.assign(result.kept, {
          release: async () => {
            alive--;
            await release();
          },
        });
        return result;
      },
    };
  };
  await work(Object.assign(Object.create(runtime) as Runtime, { compile }));
  return { most, left: alive };
}

async function opened(settings: Settings) {
  const estimator = (await openEstimator(settings.estimator)) as UpdateEstimator;
  const { layout, start } = await openLearned(settings, pipeline);
  return { estimator, layout, start, memory: memoryOf(settings, pipeline, reward, layout, estimator) };
}

/** The gradients of two updates. */
async function learn(on: Runtime, settings: Settings, change: Partial<MemoryPlan>): Promise<Float64Array[]> {
  const { estimator, layout, start, memory } = await opened(settings);
  const engine = await CompiledEngine.compile(on, {
    pipeline,
    reward,
    estimator,
    layout,
    settings,
    memory: { ...memory, ...change },
  });
  const learner = new Learner(engine, reward.name);
  // Both factors away from zero, so that both have a gradient.
  const weights = (await start()).map((value, i) => value + 0.02 * Math.sin(i));
  const found: Float64Array[] = [];
  for (const step of [1, 2]) {
    const samples = samplesOf(step, settings, estimator, engine.latentElements);
    found.push((await learner.learn(estimator, samples, { parameters: weights, total: samples.length })).gradient);
  }
  await engine.release();
  return found;
}

describe("the gradient", () => {
  const truncations = { "every step": FULL.estimator.truncation, "steps drawn for each picture": { mode: "per-step" } };
  for (const [name, truncation] of Object.entries(truncations)) {
    test(`is the same whether all calls, some or none are kept, with ${name}`, async () => {
      const settings = tinySettings({ estimator: { truncation } as SettingsInput["estimator"] });
      const expected = await learn(runtime, settings, { keptAtOnce: 0, recomputes: true });
      for (const keptAtOnce of [1, Number.POSITIVE_INFINITY]) {
        let found: Float64Array[] = [];
        const { most, left } = await countingKept(async (counting) => {
          found = await learn(counting, settings, { keptAtOnce, recomputes: false });
        });
        for (const [i, gradient] of found.entries()) {
          expect(distance(gradient, expected[i] as Float64Array)).toBeLessThan(roundingTolerance("float32", 10));
        }
        expect(most).toBeGreaterThan(0);
        expect(most).toBeLessThanOrEqual(keptAtOnce);
        expect(left).toBe(0);
      }
    });
  }
});

describe("a budget", async () => {
  const settings = tinySettings(FULL);
  const { memory: roomy } = await opened({ ...settings, memory: 1e15 });

  test("that is large keeps every call and computes none twice", async () => {
    expect(roomy).toMatchObject({ keptAtOnce: settings.sampling.steps, recomputes: false });
    expect(await plan({ ...settings, memory: 1e15 }, { calibrate: false })).toMatchObject({
      unetBackwardCallsPerUpdate: 2 * 3,
      unetRecomputedCallsPerUpdate: 0,
      memory: roomy,
    });
  });

  test("is respected: with less of it fewer calls are kept, and what is expected stays within", async () => {
    let before = roomy.keptAtOnce;
    let lowest = roomy.expectedBytes;
    for (let memory = roomy.expectedBytes; ; memory -= roomy.residualBytes / 2) {
      let found: MemoryPlan;
      try {
        found = (await opened({ ...settings, memory })).memory;
      } catch (error) {
        expect(error).toBeInstanceOf(InputError);
        break;
      }
      expect(found.expectedBytes).toBeLessThanOrEqual(memory);
      expect(found.keptAtOnce).toBeLessThanOrEqual(before);
      before = found.keptAtOnce;
      lowest = Math.min(lowest, found.expectedBytes);
    }
    await expect(opened({ ...settings, memory: 1e6 })).rejects.toThrow(
      `memory 1.00 MB is too little: this run needs about ${showBytes(lowest)}`,
    );
  });
});
