/** An estimator written from the docs alone, in a file of the user's: docs/examples/evolution.js. */

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
import { TINY_SD, tinyReward, tinySettings } from "./tiny.js";

const file = fileURLToPath(new URL("../docs/examples/evolution.js", import.meta.url));
const runtime = await Runtime.start({ threads: 1 });
afterAll(() => runtime.close());

test("takes one file of under 100 lines, which a recipe names", async () => {
  expect((await readFile(file, "utf8")).split("\n").length).toBeLessThan(100);
  expect(settingsSchema.parse({ estimator: file }).estimator).toEqual({ name: "module", file, options: {} });
});

test("gives the directional derivative along its draw that the reward's gradient has", async () => {
  // One micro-batch, and so one δ: g = (∇L·δ) δ, of which |g|² / (g·∇L) = |δ|², about the number of parameters.
  const settings = tinySettings({ batch: { samples_per_epoch: 4, total: 4, per_device: 4 } });
  const pipeline = await openPipeline(TINY_SD);
  const reward = await tinyReward("aesthetic"); // smooth
  const { layout, initial } = await openTrainable(settings, pipeline);
  const parameters = (await initial()).map((value, i) => value + 0.02 * Math.sin(i));
  const gradientOf = async (chosen: object) => {
    const estimator = (await openEstimator(settingsSchema.parse({ estimator: chosen }).estimator)) as DirectEstimator;
    const { engine, replica } = await compileEngine(runtime, { pipeline, reward, estimator, layout, settings });
    const samples = drawSamples(1, settings, estimator, engine.latentElements);
    const { gradient } = await replica.gradient(estimator, samples, { parameters, globalBatchSize: 4 });
    await engine.release();
    return gradient;
  };
  const exact = await gradientOf({ name: "draft" });
  const found = await gradientOf({ name: "module", file, options: { sigma: 3e-3 } });
  const dot = (a: Float64Array, b: Float64Array) => a.reduce((sum, value, i) => sum + value * (b[i] as number), 0);
  expect(dot(found, exact)).toBeGreaterThan(0);
  expect(dot(found, found) / dot(found, exact) / layout.size).toBeGreaterThan(0.9);
  expect(dot(found, found) / dot(found, exact) / layout.size).toBeLessThan(1.1);
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
