/** Estimators in files of the user: docs/examples/evolution.js, without a gradient, and docs/examples/last-steps.js, with one. */

import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { afterAll, expect, test } from "vitest";
import { settingsSchema } from "../src/config/settings.js";
import { drawSamples } from "../src/engine/samples.js";
import type { DirectEstimator } from "../src/estimators/estimator.js";
import { openEstimator } from "../src/estimators/index.js";
import { openPipeline } from "../src/pipeline/pipeline.js";
import { Runtime } from "../src/runtime/runtime.js";
import type { StepMetrics } from "../src/train/events.js";
import { openTrainable } from "../src/train/open-trainable.js";
import { plan } from "../src/train/plan.js";
import { train } from "../src/train/trainer.js";
import { compileEngine } from "./engine.js";
import { inputError } from "./errors.js";
import { TINY_SD, tinyReward, tinySettings } from "./tiny.js";

const example = (name: string) => fileURLToPath(new URL(`../docs/examples/${name}`, import.meta.url));
const file = example("evolution.js");
const lastSteps = example("last-steps.js");
const runtime = await Runtime.start({ threads: 1 });
afterAll(() => runtime.close());

test("takes one file of under 100 lines, which a recipe names", async () => {
  expect((await readFile(file, "utf8")).split("\n").length).toBeLessThan(100);
  expect(settingsSchema.parse({ estimator: file }).estimator).toEqual({ name: "module", file, options: {} });
});

test("gives the directional derivative along its draw that the reward's gradient has", async () => {
  // One micro-batch, and so one δ: g = (∇L·δ) δ, of which |g|² / (g·∇L) = |δ|², about the number of parameters.
  const { gradient: exact } = await gradientOf({ name: "draft" });
  const { gradient: found } = await gradientOf({ name: "module", file, options: { sigma: 3e-3 } });
  expect(dot(found, exact)).toBeGreaterThan(0);
  expect(dot(found, found) / dot(found, exact) / found.length).toBeGreaterThan(0.9);
  expect(dot(found, found) / dot(found, exact) / found.length).toBeLessThan(1.1);
});

test.each([1, 2, 100])("DRaFT-K from the docs gives the built-in gradient and cost, K = %i", async (k) => {
  const steps = tinySettings({}).sampling.steps;
  const builtIn = await gradientOf({ name: "draft", k: Math.min(k, steps) });
  const found = await gradientOf({ name: "module", file: lastSteps, options: { k } });
  const error = found.gradient.map((value, i) => value - (builtIn.gradient[i] as number));
  expect(dot(builtIn.gradient, builtIn.gradient)).toBeGreaterThan(0);
  expect(Math.sqrt(dot(error, error) / dot(builtIn.gradient, builtIn.gradient))).toBeLessThan(1e-5);
  expect(found.cost).toEqual(builtIn.cost);
});

test("trains, and a plan counts it", async () => {
  const settings = tinySettings({ estimator: { name: "module", file }, steps: 2 });
  const rows: StepMetrics[] = [];
  await train(settings, (event) => {
    if (event.kind === "stepped") rows.push(event.metrics);
  });
  const counted = await plan(settings, { calibrate: false });
  expect(rows.map(({ unet_calls }) => unet_calls)).toEqual([4 * 2 * 3, 2 * 4 * 2 * 3]);
  expect(counted).toMatchObject({
    unetForwardCallsPerStep: 12,
    unetBackwardCallsPerStep: 0,
    rewardCallsPerStep: 4,
  });
});

test("that does not score its samples stops at the first step", async () => {
  const estimator: DirectEstimator = {
    kind: "direct",
    name: "silent",
    usesRewardGradient: false,
    mask: (steps) => new Array(steps).fill(false),
    needsDx: () => false,
    addGradient: async (context) => {
      await context.sample();
    },
  };
  await expect(train(tinySettings({ steps: 2 }), () => {}, { estimator })).rejects.toThrow(
    inputError("estimator-invalid", { estimator: "silent", found: 0, expected: 4, step: 1 }),
  );
});

/** The gradient of one step of four samples, which are one micro-batch. */
async function gradientOf(chosen: object) {
  const settings = tinySettings({ batch: { samples_per_epoch: 4, total: 4, per_device: 4 } });
  const pipeline = await openPipeline(TINY_SD);
  const reward = await tinyReward("aesthetic"); // smooth
  const { layout, initial } = await openTrainable(settings, pipeline);
  const parameters = (await initial()).map((value, i) => value + 0.02 * Math.sin(i));
  const estimator = (await openEstimator(settingsSchema.parse({ estimator: chosen }).estimator)) as DirectEstimator;
  const { engine, replica } = await compileEngine(runtime, { pipeline, reward, estimator, layout, settings });
  const samples = drawSamples(1, settings, estimator, engine.latentElements);
  const result = await replica.gradient(estimator, samples, { parameters, globalBatchSize: 4 });
  await engine.release();
  return result;
}

function dot(a: Float64Array, b: Float64Array): number {
  return a.reduce((sum, value, i) => sum + value * (b[i] as number), 0);
}
