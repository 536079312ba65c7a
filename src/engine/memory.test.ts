import { describe, expect, test } from "vitest";
import { FAKE_LAYOUT } from "../../test/fake-engine.js";
import { tinySettings } from "../../test/tiny.js";
import type { Settings, SettingsInput } from "../config/settings.js";
import { readSchedulerConfig } from "../diffusion/ddim.js";
import { openEstimator } from "../estimators/index.js";
import { add, input, parameter, sum } from "../ops/index.js";
import type { Pipeline } from "../pipeline/index.js";
import { type Division, divide } from "./division.js";
import type { TrainingGraphs } from "./graphs.js";
import { planMemory } from "./memory.js";
import type { MemoryPlan } from "./memory-plan.js";
import type { TrainingSetup } from "./setup.js";

const RESIDUAL_BYTES = 1e9;
const GRAPH = (() => {
  const latents = input([2, 4, 8, 8]);
  return { name: "fake", inputs: { latents }, outputs: { output: add(latents, latents) } };
})();
const SAMPLER = { batch: 2, size: { height: 8, width: 8 }, text: GRAPH, denoise: GRAPH, decode: GRAPH };
/** Programs of a few kilobytes, and residuals of a gigabyte. */
const GRAPHS = {
  sampler: SAMPLER,
  vjp: GRAPH,
  split: { forward: GRAPH, backward: GRAPH, residuals: [], residualBytes: RESIDUAL_BYTES },
  float32: { denoise: GRAPH, evaluationDenoise: GRAPH, vjp: GRAPH },
  scorer: { kind: "joint", graph: GRAPH },
  evaluation: { sampler: SAMPLER, scorer: [], monitors: [] },
} as unknown as TrainingGraphs;

/** Full chains of 4 steps, so that 4 calls can be saved. */
const CHANGES: SettingsInput = { sampling: { steps: 4 }, estimator: "draft" };

async function plannedOrLeast(
  changes: Partial<Settings>,
  parts: Partial<Division> = {},
  setup: Partial<TrainingSetup> = {},
  graphs: TrainingGraphs = GRAPHS,
) {
  const settings = { ...tinySettings(CHANGES), ...changes };
  const opened = {
    settings,
    estimator: await openEstimator(settings.estimator),
    pipeline: { scheduler: readSchedulerConfig({ clip_sample: false }, "scheduler_config.json") } as Pipeline,
    layout: FAKE_LAYOUT,
    monitors: {},
    precision: "float32",
    ...setup,
  } as TrainingSetup;
  return planMemory(opened, divide(settings, parts), graphs, settings.memory ?? Number.POSITIVE_INFINITY);
}

async function planned(...parts: Parameters<typeof plannedOrLeast>): Promise<MemoryPlan> {
  const plan = await plannedOrLeast(...parts);
  if ("least" in plan) throw new Error(`the plan needs ${plan.least} bytes`);
  return plan;
}

describe("the memory plan", async () => {
  const roomy = await planned({ memory: 1e15 });

  test("saves every call if the budget allows it, and recomputes none", () => {
    expect(roomy).toMatchObject({ maxSavedCalls: 4, recomputes: false, residualBytes: RESIDUAL_BYTES, replicas: 1 });
    // 240 MB of the process, and the residuals of 4 calls.
    expect(roomy.expectedBytes / (240e6 + 4 * RESIDUAL_BYTES)).toBeCloseTo(1, 3);
  });

  test("saves one call less for each gigabyte that the budget lacks, and recomputes those", async () => {
    // A megabyte more than needed, because a plan that recomputes has one program more.
    for (const missing of [1, 2, 3]) {
      const memory = roomy.expectedBytes + 1e6 - missing * RESIDUAL_BYTES;
      const found = await planned({ memory });
      expect(found).toMatchObject({ maxSavedCalls: 4 - missing, recomputes: true });
      expect(found.expectedBytes).toBeLessThanOrEqual(memory);
    }
  });

  test("counts the residuals of a recomputed call besides the saved ones, if a large network recomputes by the split programs", async () => {
    // 256 MiB of live values: such a program returns its memory, and the joint program is left out.
    const latents = input([2, 4, 4096, 4096]);
    const large = { name: "large", inputs: { latents }, outputs: { output: add(latents, latents) } };
    const graphs = { ...GRAPHS, vjp: large, float32: { ...GRAPHS.float32, vjp: large } };
    const memory = roomy.expectedBytes + 1e6 - RESIDUAL_BYTES;
    // 3 GB are left: two saved calls and a recomputed one.
    expect(await planned({ memory }, {}, {}, graphs)).toMatchObject({ maxSavedCalls: 2, recomputes: true });
  });

  test("fails below what the run needs without saved residuals, and says how much that is", async () => {
    // Without residuals there are no split programs, and the residuals of the first call cost nothing here.
    const { expectedBytes: least } = await planned({ memory: 1e15, device: "cuda" });
    expect(least).toBeLessThan(241e6);
    expect(await plannedOrLeast({ memory: 1e6 })).toEqual({ least });
    expect(await planned({ memory: Math.ceil(least) })).toMatchObject({ maxSavedCalls: 0, recomputes: true });
  });

  test("saves nothing on a GPU or in float16", async () => {
    for (const plan of [
      await planned({ memory: 1e15, device: "cuda" }),
      await planned({ memory: 1e15 }, {}, { precision: "float16" }),
    ]) {
      expect(plan).toMatchObject({ maxSavedCalls: 0, recomputes: true });
    }
  });

  test("maps no weights on a GPU, which holds a copy of its own", async () => {
    const latents = input([2, 4, 8, 8]);
    const weight = parameter("w", [4, 2 ** 25, 1, 1], "float32");
    const large = { name: "large", inputs: { latents }, outputs: { output: add(latents, sum(weight, [1])) } };
    const graphs = {
      ...GRAPHS,
      sampler: { ...SAMPLER, denoise: large },
      float32: { ...GRAPHS.float32, denoise: large },
    };
    for (const memory of [1e15, 2e9]) {
      const { packUpTo, mappedBytes } = await planned({ memory, device: "cuda" }, {}, {}, graphs);
      expect([packUpTo, mappedBytes]).toEqual([Number.POSITIVE_INFINITY, 0]);
    }
    expect((await planned({ memory: 1e15 }, {}, {}, graphs)).packUpTo).toBeGreaterThan(0);
  });

  test("divides the budget among replicas, and expects the sum of their bytes", async () => {
    const two = await planned({ memory: 1e15 }, { replicas: 2 });
    // Both replicas process a whole chain, of half as many samples.
    expect(two).toMatchObject({ replicas: 2, maxSavedCalls: 4, recomputes: false });
    expect(two.expectedBytes / (240e6 + 2 * 4 * RESIDUAL_BYTES)).toBeCloseTo(1, 3);
    const memory = two.expectedBytes + 1e6 - 2 * RESIDUAL_BYTES;
    expect(await planned({ memory }, { replicas: 2 })).toMatchObject({ maxSavedCalls: 3, recomputes: true });
  });

  test("counts the trajectories and the parameters of the base model where a run needs them", async () => {
    const changes = tinySettings({ ...CHANGES, kl: { weight: 1 } });
    const { expectedBytes } = await planned({ memory: 1e15, kl: changes.kl });
    // Outputs beside x_t, float32: 4 steps · 2 samples · [4, 8, 8]. And 8 bytes for each of 2 parameters.
    expect(expectedBytes - roomy.expectedBytes).toBe(4 * (4 * 2 * 4 * 8 * 8) + 8 * 2);
  });
});
