import { describe, expect, test } from "vitest";
import {
  expectedChain,
  FAKE_STEPS,
  FakeEngine,
  type FakeEngineOptions,
  fakeRollout,
  fakeSamples,
} from "../../test/fake-engine.js";
import { draft } from "../estimators/draft.js";
import type { DirectEstimator } from "../estimators/index.js";
import { equalParts } from "../estimators/rollout.js";
import { Replica } from "./replica.js";

const PARAMETERS = Float32Array.of(2, 1);
const SAMPLES = fakeSamples([
  { prompt: 1, x: [1, -1] },
  { prompt: 2, x: [0.5, 2] },
  { prompt: 3, x: [-0.5, 0] },
  { prompt: 4, x: [0, 1] },
]);
const estimator = draft.create({ name: "draft", k: null }) as DirectEstimator;

function open(options: FakeEngineOptions = {}) {
  const engine = new FakeEngine({ globalBatchSize: 4, ...options });
  return { engine, replica: new Replica(engine, "distance") };
}
const request = { parameters: PARAMETERS, globalBatchSize: 4 };

describe("the gradient of a replica", () => {
  test("sums over groups, and so do loss and cost", async () => {
    const { engine, replica } = open({ maxSavedCalls: 3 });
    const expected = expectedChain(SAMPLES, [2, 1]);
    const mean = expected.losses.reduce((sum, loss) => sum + loss, 0) / 4;
    expect(await replica.gradient(estimator, SAMPLES, request)).toEqual({
      gradient: expected.gradient,
      overflowed: false,
      loss: mean,
      rewards: expected.losses.map((loss) => -loss),
      parts: undefined,
      cost: { unetCalls: 4 * 3 * 2, rewardQueries: 4 },
    });
    // Masks are alike, so each micro-batch is a group. Its residuals are free before the next one starts.
    expect([engine.mostHeld, engine.held, engine.backwardRecomputed]).toEqual([3, 0, 0]);
  });

  test("is the same if masks differ, so that all micro-batches are one group", async () => {
    const masks = ["..x", "x.x", ".xx", "..x"];
    const samples = SAMPLES.map((sample, i) => ({
      ...sample,
      mask: [...(masks[i] as string)].map((mark) => mark === "x"),
    }));
    const { engine, replica } = open({ maxSavedCalls: 9 });
    const { gradient } = await replica.gradient(estimator, samples, request);
    expect(gradient).toEqual(expectedChain(samples, [2, 1]).gradient);
    // Step 2: two calls with residuals. Step 1 and step 0: one sample each, of another micro-batch.
    expect([engine.backwardSaved, engine.backwardRecomputed]).toEqual([2, 2]);
  });

  test("divides by the global batch size, of which these samples may be a part", async () => {
    const { replica } = open({ globalBatchSize: 16 });
    const found = await replica.gradient(estimator, SAMPLES, { ...request, globalBatchSize: 16 });
    const { gradient, losses } = expectedChain(SAMPLES, [2, 1], { globalBatchSize: 16 });
    expect(found.gradient).toEqual(gradient);
    expect(found.loss).toBe(losses.reduce((sum, loss) => sum + loss, 0) / 16);
  });

  test("of no samples is 0", async () => {
    const { gradient, loss, rewards } = await open().replica.gradient(estimator, [], request);
    expect([[...gradient], loss, rewards]).toEqual([[0, 0], 0, []]);
  });

  test("adds the KL penalty to the loss", async () => {
    // Only the last step (t = 2) is differentiated. w = w₀ and p − p₀ = ½, so ε̂ − ε̂_base = ½ (c + t) = ½ (2 + 2) = 2.
    const samples = fakeSamples([{ prompt: 2, x: [1, 1], mask: "..x" }]);
    const { replica } = open({ batch: 1 });
    const kl = { klWeight: 0.5, baseParameters: Float32Array.of(2, 0.5) };
    const found = await replica.gradient(estimator, samples, { ...request, ...kl });
    const [loss] = expectedChain(samples, [2, 1]).losses as [number];
    expect(found.kl).toBe(2 ** 2 / 4);
    expect(found.loss).toBe((loss + 0.5 * 2 ** 2) / 4);
  });
});

describe("a float16 gradient that overflows in one group", () => {
  // The latents of the last two samples are so large that dL/dw overflows at any loss scale.
  const samples = [
    ...SAMPLES.slice(0, 2),
    ...fakeSamples([
      { prompt: 3, x: [2 ** 16, 2 ** 16] },
      { prompt: 4, x: [0, 1] },
    ]),
    ...SAMPLES.slice(2),
  ];
  const float16 = { ...request, lossScale: 256, globalBatchSize: 6 };

  test("marks the result, and the samples after it are scored but not differentiated", async () => {
    const { engine, replica } = open({ float16: true, maxSavedCalls: 2, globalBatchSize: 6 });
    const { overflowed, rewards, loss } = await replica.gradient(estimator, samples, float16);
    const { losses } = expectedChain(samples, [2, 1]);
    expect(overflowed).toBe(true);
    expect(rewards).toEqual(losses.map((loss) => Math.fround(-loss)));
    expect((loss * 6) / losses.reduce((sum, each) => sum + each, 0)).toBeCloseTo(1, 6);
    // Three steps of the first group, the one that overflowed, and none of the last group.
    expect(engine.backwardSaved + engine.backwardRecomputed).toBe(3 + 1);
    expect(engine.held).toBe(0);
  });

  test("leaves the losses of a rollout's interrupted groups out", async () => {
    const { engine, replica } = open({ float16: true, maxSavedCalls: 2 });
    const rollout = fakeRollout((count) => equalParts(count, 1));
    const unmasked = samples.map((sample) => ({ ...sample, mask: [] }));
    const { trajectories } = await replica.sample(unmasked, float16);
    const batch = { trajectories, weights: samples.map(() => 1), update: 0 };
    const { overflowed, loss } = await replica.gradientFromTrajectories(rollout, batch, float16);
    const first = { ...batch, trajectories: trajectories.slice(0, 2), weights: [1, 1] };
    const known = await replica.gradientFromTrajectories(rollout, first, float16);
    expect([overflowed, known.overflowed]).toEqual([true, false]);
    expect(loss).toBe(known.loss);
    expect(engine.held).toBe(0);
  });
});

test("residuals are released if the estimator fails", async () => {
  const { engine, replica } = open({ maxSavedCalls: 9 });
  const failing: DirectEstimator = {
    ...estimator,
    addGradient: async (context) => {
      await context.sample();
      await context.callUnet({ step: 0, x: new Float32Array(4) });
      throw new RangeError("a bug in the estimator");
    },
  };
  await expect(replica.gradient(failing, SAMPLES, request)).rejects.toThrow(RangeError);
  expect([engine.mostHeld, engine.held]).toEqual([4, 0]);
});

describe("a rollout", () => {
  const rollout = fakeRollout((count) => equalParts(count, 1));

  test("stores x_T … x_0 of each sample with its reward, and saves no residuals", async () => {
    const { engine, replica } = open({ maxSavedCalls: 9 });
    const samples = SAMPLES.map((sample) => ({ ...sample, mask: [] }));
    const { trajectories, rewards, cost } = await replica.sample(samples, request);
    const { final, losses } = expectedChain(samples, [2, 1]);
    expect(trajectories.map(({ sample }) => sample)).toEqual(samples);
    expect(trajectories.map(({ latents }) => latents.length)).toEqual([4, 4, 4, 4]);
    expect(trajectories.map(({ latents }) => latents[0])).toEqual(samples.map((sample) => sample.noise().initial));
    expect(trajectories.flatMap(({ latents }) => [...(latents[3] as Float32Array)])).toEqual(final);
    expect(rewards).toEqual(losses.map((loss) => -loss));
    expect(cost).toEqual({ unetCalls: 4 * 3, rewardQueries: 4 });
    expect(engine.mostHeld).toBe(0);
  });

  test("gives a gradient from any of its trajectories, in whole or incomplete micro-batches", async () => {
    const { replica } = open();
    const { trajectories } = await replica.sample(SAMPLES, request);
    const weights = [1, -2, 4];
    const some = [3, 0, 2].map((i) => trajectories[i] as (typeof trajectories)[number]);
    const batch = { trajectories: some, weights, update: 0 };
    const three = { ...request, globalBatchSize: 3 };
    const found = await replica.gradientFromTrajectories(rollout, batch, three);
    // See fakeRollout: dL/dw = mean of weight · X, dL/dp = mean of weight · 2 (3 c + 0 + 1 + 2), L = w · dL/dw + p · dL/dp.
    let [dw, dp] = [0, 0];
    for (const [i, { sample, latents }] of some.entries()) {
      const sum = latents.slice(0, FAKE_STEPS.length).reduce((all, x) => all + (x[0] as number) + (x[1] as number), 0);
      dw += (weights[i] as number) * sum;
      dp += (weights[i] as number) * 2 * (3 * Number(sample.prompt) + 3);
    }
    expect(found.gradient[0]).toBeCloseTo(dw / 3, 4);
    expect(found.gradient[1]).toBeCloseTo(dp / 3, 4);
    expect(found.loss).toBeCloseTo((2 * dw + dp) / 3, 4);
    expect(found.cost).toEqual({ unetCalls: 3 * 3 * 3, rewardQueries: 0 });
  });
});
