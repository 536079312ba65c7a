/** Keeping residuals instead of computing the U-Net twice: the same gradients, in the memory that the user names. */

import { afterAll, describe, expect, test } from "vitest";
import type { Settings, SettingsInput } from "../src/config/settings.js";
import type { MemoryPlan } from "../src/engine/memory.js";
import { drawSamples } from "../src/engine/samples.js";
import { planWork } from "../src/engine/work.js";
import { InputError } from "../src/errors/index.js";
import type { DirectEstimator } from "../src/estimators/estimator.js";
import { openEstimator } from "../src/estimators/index.js";
import { showBytes } from "../src/io/bytes.js";
import { openPipeline } from "../src/pipeline/pipeline.js";
import { Runtime } from "../src/runtime/runtime.js";
import { openTrainable } from "../src/train/open-trainable.js";
import { plan } from "../src/train/plan.js";
import { compileEngine, setupOf } from "./engine.js";
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
      runSaving: async (...feeds) => {
        const result = await program.runSaving(...feeds);
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
  const estimator = (await openEstimator(settings.estimator)) as DirectEstimator;
  const { layout, initial } = await openTrainable(settings, pipeline);
  const parts = { settings, pipeline, reward, estimator, layout };
  return { parts, estimator, initial, memory: (await planWork(setupOf(parts))).memory };
}

/** The gradients of two updates. */
async function learn(on: Runtime, settings: Settings, change: Partial<MemoryPlan>): Promise<Float64Array[]> {
  const { parts, estimator, initial } = await opened(settings);
  const { engine, replica } = await compileEngine(on, parts, change);
  // Both factors away from zero, so that both have a gradient.
  const weights = (await initial()).map((value, i) => value + 0.02 * Math.sin(i));
  const found: Float64Array[] = [];
  for (const step of [1, 2]) {
    const samples = drawSamples(step, settings, estimator, engine.latentElements);
    const request = { parameters: weights, globalBatchSize: samples.length };
    found.push((await replica.gradient(estimator, samples, request)).gradient);
  }
  await engine.release();
  return found;
}

describe("the gradient", () => {
  const truncations = { "every step": FULL.estimator.truncation, "steps drawn for each picture": { mode: "per-step" } };
  for (const [name, truncation] of Object.entries(truncations)) {
    test(`is the same whether all calls, some or none are kept, with ${name}`, async () => {
      const settings = tinySettings({ estimator: { truncation } as SettingsInput["estimator"] });
      const expected = await learn(runtime, settings, { maxSavedCalls: 0, recomputes: true });
      for (const maxSavedCalls of [1, Number.POSITIVE_INFINITY]) {
        let found: Float64Array[] = [];
        const { most, left } = await countingKept(async (counting) => {
          found = await learn(counting, settings, { maxSavedCalls, recomputes: false });
        });
        for (const [i, gradient] of found.entries()) {
          expect(distance(gradient, expected[i] as Float64Array)).toBeLessThan(roundingTolerance("float32", 10));
        }
        expect(most).toBeGreaterThan(0);
        expect(most).toBeLessThanOrEqual(maxSavedCalls);
        expect(left).toBe(0);
      }
    });
  }
});

describe("a budget", async () => {
  const settings = tinySettings(FULL);
  const { memory: roomy } = await opened({ ...settings, memory: 1e15 });

  test("that is large keeps every call and computes none twice", async () => {
    expect(roomy).toMatchObject({ maxSavedCalls: settings.sampling.steps, recomputes: false });
    expect(await plan({ ...settings, memory: 1e15 }, { calibrate: false })).toMatchObject({
      unetBackwardCallsPerStep: 2 * 3,
      unetRecomputedCallsPerStep: 0,
      memory: roomy,
    });
  });

  test("is respected: with less of it fewer calls are kept, and what is expected stays within", async () => {
    let before = roomy.maxSavedCalls;
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
      expect(found.maxSavedCalls).toBeLessThanOrEqual(before);
      before = found.maxSavedCalls;
      lowest = Math.min(lowest, found.expectedBytes);
    }
    await expect(opened({ ...settings, memory: 1e6 })).rejects.toThrow(
      `memory 1.00 MB is too little: this run needs about ${showBytes(lowest)}`,
    );
  });
});
