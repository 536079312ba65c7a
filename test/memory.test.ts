/** Saved residuals instead of recomputed forward passes: the gradients are the same, within the memory budget. */

import { afterAll, afterEach, describe, expect, test, vi } from "vitest";
import type { Settings, SettingsInput } from "../src/config/settings.js";
import type { TrainingGraphs } from "../src/engine/graphs.js";
import type { MemoryPlan } from "../src/engine/memory-plan.js";
import { drawSamples } from "../src/engine/samples.js";
import { UnetVjp } from "../src/engine/unet-vjp.js";
import { planWork, WorkPlanner } from "../src/engine/work.js";
import type { InputError } from "../src/errors/index.js";
import type { DirectEstimator } from "../src/estimators/estimator.js";
import { openEstimator } from "../src/estimators/index.js";
import { add, input } from "../src/ops/index.js";
import { openPipeline } from "../src/pipeline/pipeline.js";
import { Runtime } from "../src/runtime/runtime.js";
import { float32, type HostTensor, toFloat32 } from "../src/tensor/host.js";
import { Rng } from "../src/tensor/rng.js";
import { sizeOf } from "../src/tensor/shape.js";
import { openTrainable } from "../src/train/open-trainable.js";
import { plan } from "../src/train/plan.js";
import { compileEngine, setupOf } from "./engine.js";
import { inputError } from "./errors.js";
import { TINY_SD, tinyReward, tinySettings } from "./tiny.js";
import { distance, MODEL_TOLERANCE, roundingTolerance } from "./tolerance.js";

const pipeline = await openPipeline(TINY_SD);
const reward = await tinyReward("compressibility");
const runtime = await Runtime.start({ threads: 1 });
afterAll(() => runtime.close());

const FULL = { estimator: { truncation: { mode: "fixed", k: null } } } satisfies SettingsInput;

/** Counts the calls whose residuals a worker holds: the most at the same time while `work` runs, and those left at its end. */
async function countSavedCalls(work: (runtime: Runtime) => Promise<void>): Promise<{ most: number; left: number }> {
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

/** The gradients of two steps. */
async function gradientsOf(on: Runtime, settings: Settings, change: Partial<MemoryPlan>): Promise<Float64Array[]> {
  const { parts, estimator, initial } = await opened(settings);
  const { engine, replica } = await compileEngine(on, parts, change);
  // Neither factor is zero, so that both have a gradient.
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
  const truncations = { "every step": FULL.estimator.truncation, "random steps for each sample": { mode: "per-step" } };
  for (const [name, truncation] of Object.entries(truncations)) {
    test(`is the same if the residuals of all, some or no calls are saved, with ${name}`, async () => {
      const settings = tinySettings({ estimator: { truncation } as SettingsInput["estimator"] });
      const expected = await gradientsOf(runtime, settings, { maxSavedCalls: 0, recomputes: true });
      for (const maxSavedCalls of [1, Number.POSITIVE_INFINITY]) {
        let found: Float64Array[] = [];
        const { most, left } = await countSavedCalls(async (counting) => {
          found = await gradientsOf(counting, settings, { maxSavedCalls, recomputes: false });
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

/** Random inputs of the U-Net's VJP. Factors of an adapter are small. */
function vjpFeeds({ vjp }: TrainingGraphs): Record<string, HostTensor> {
  const rng = new Rng(3);
  return Object.fromEntries(
    Object.entries(vjp.inputs).map(([name, { shape }]) => [
      name,
      float32(
        Float32Array.from({ length: sizeOf(shape) }, () => (name === "parameters" ? 0.03 : 0.3) * rng.normal()),
        shape,
      ),
    ]),
  );
}

test("the U-Net's VJP is the same however the weights are held, joint or split", async () => {
  const { parts } = await opened(tinySettings(FULL));
  const { graphs } = await planWork(setupOf(parts), { threads: 1 });
  const feeds = vjpFeeds(graphs);
  const { upstream: _, ...forwardFeeds } = feeds;
  const own = await Runtime.start({ threads: 1 });
  const results: Record<string, HostTensor>[] = [];
  for (const packUpTo of [Number.POSITIVE_INFINITY, 0]) {
    own.packUpTo = packUpTo;
    const vjp = await UnetVjp.compile(own, pipeline.weights, graphs, 1);
    results.push(await vjp.backward(feeds));
    const { kept } = await vjp.forward(forwardFeeds);
    results.push(await vjp.backward(feeds, kept));
    await vjp.release();
  }
  await own.close();
  const [expected, ...others] = results as [Record<string, HostTensor>, ...Record<string, HostTensor>[]];
  for (const found of others) {
    for (const [name, tensor] of Object.entries(expected)) {
      expect(distance(toFloat32(found[name] as HostTensor), toFloat32(tensor))).toBeLessThan(MODEL_TOLERANCE);
    }
  }
});

test("a large network recomputes by the split programs, with the numbers of the joint program", async () => {
  const { parts } = await opened(tinySettings(FULL));
  const { graphs } = await planWork(setupOf(parts), { threads: 1 });
  // A graph of 256 MiB takes the place of the joint program, which is then never compiled.
  const x = input([2 ** 26]);
  const large = { name: "large", inputs: { x }, outputs: { y: add(x, x) } };
  const joint = await UnetVjp.compile(runtime, pipeline.weights, graphs, 0);
  const split = await UnetVjp.compile(runtime, pipeline.weights, { ...graphs, vjp: large }, 1);
  const feeds = vjpFeeds(graphs);
  const [expected, found] = [await joint.backward(feeds), await split.backward(feeds)];
  expect(Object.keys(found)).toEqual(Object.keys(expected));
  for (const [name, tensor] of Object.entries(expected)) {
    expect(distance(toFloat32(found[name] as HostTensor), toFloat32(tensor))).toBeLessThan(1e-6);
  }
  await joint.release();
  await split.release();
});

describe("the work of a run", () => {
  const settings = tinySettings({ ...FULL, batch: { samples_per_epoch: 8, total: 8, per_device: 4 } });
  const workOf = async (change: Partial<Settings>, localSize = 1) => {
    const { parts } = await opened({ ...settings, memory: 1e15 });
    const setup = setupOf({ ...parts, settings: { ...settings, ...change } });
    return planWork(setup, { threads: 1, ranks: { size: localSize, localSize } });
  };
  afterEach(() => {
    vi.restoreAllMocks();
  });

  test("uses smaller micro-batches where memory is too small for batch.per_device", async () => {
    const { memory } = await workOf({ memory: 1e15 });
    const refusal = await workOf({ memory: 1e6 }).catch((error: unknown) => error as InputError);
    expect(refusal).toEqual(inputError("memory-too-small", { setting: "memory", found: 1e6 }));
    const least = (refusal as InputError).facts.expected as number;
    const found: number[] = [];
    for (let budget = memory.expectedBytes; budget >= least; budget -= (memory.expectedBytes - least) / 40) {
      found.push((await workOf({ memory: budget })).division.microBatch);
    }
    expect([...new Set(found)]).toEqual([4, 2, 1]);
  });

  test("is planned for a few budgets, each of which takes more memory than the one before", async () => {
    const { parts } = await opened({ ...settings, memory: 1e15 });
    const works = await new WorkPlanner(setupOf(parts), { threads: 1 }).options();
    expect(works.length).toBeGreaterThan(1);
    const bytes = works.map(({ memory }) => memory.expectedBytes);
    expect(bytes).toEqual(bytes.toSorted((a, b) => a - b));
    expect(new Set(bytes).size).toBe(works.length);
    expect(works.at(-1)?.memory).toEqual((await workOf({ memory: 1e15 })).memory);
  });

  test("without a budget stays within half of the free memory of this process if it can, else within all of it", async () => {
    const { memory } = await workOf({ memory: 1e15 });
    vi.spyOn(process, "availableMemory").mockReturnValue(2.01 * memory.expectedBytes);
    expect((await workOf({ memory: null })).memory).toEqual(memory);
    const shared = await workOf({ memory: null }, 2);
    expect(shared.memory.expectedBytes - shared.memory.mappedBytes).toBeLessThanOrEqual(1.01 * memory.expectedBytes);
    const refusal = (await workOf({ memory: 1e6 }).catch((error: unknown) => error)) as InputError;
    const least = refusal.facts.expected as number;
    vi.spyOn(process, "availableMemory").mockReturnValue(least + 1e3);
    expect((await workOf({ memory: null })).division.microBatch).toBeLessThan(4);
    vi.spyOn(process, "availableMemory").mockReturnValue(0.9 * least);
    await expect(workOf({ memory: null })).rejects.toThrow(
      inputError("memory-too-small", { expected: Math.ceil(least) }),
    );
  });
});

describe("a budget", async () => {
  const settings = tinySettings(FULL);
  const { memory: ample } = await opened({ ...settings, memory: 1e15 });

  test("that is large saves the residuals of every call and recomputes none", async () => {
    expect(ample).toMatchObject({ maxSavedCalls: settings.sampling.steps, recomputes: false });
    expect(await plan({ ...settings, memory: 1e15 }, { calibrate: false })).toMatchObject({
      unetBackwardCallsPerStep: 2 * 3,
      unetRecomputedCallsPerStep: 0,
      memory: ample,
    });
  });

  test("is respected, whatever it is", async () => {
    for (let memory = ample.expectedBytes; ; memory -= ample.residualBytes / 2) {
      let found: MemoryPlan;
      try {
        found = (await opened({ ...settings, memory })).memory;
      } catch (error) {
        expect(error).toEqual(inputError("memory-too-small", { found: memory }));
        break;
      }
      // Pages of mapped files may not fit.
      expect(found.expectedBytes - found.mappedBytes).toBeLessThanOrEqual(memory);
      if (found.expectedBytes > memory) expect(found.packUpTo).toBe(0);
    }
    const refusal = await opened({ ...settings, memory: 1e6 }).catch((error: unknown) => error as InputError);
    expect(refusal).toEqual(inputError("memory-too-small", { setting: "memory", found: 1e6 }));
    const expected = (refusal as InputError).facts.expected as number;
    expect((await opened({ ...settings, memory: expected })).memory.packUpTo).toBe(0);
    await expect(opened({ ...settings, memory: 0.99 * expected })).rejects.toThrow(inputError("memory-too-small"));
  });
});
