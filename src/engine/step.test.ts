import { describe, expect, test } from "vitest";
import { FAKE_STEPS, FakeEngine, type FakeEngineOptions, fakeRollout, fakeSamples } from "../../test/fake-engine.js";
import { draft } from "../estimators/draft.js";
import type { DirectEstimator, RolloutEstimator } from "../estimators/index.js";
import { equalParts, repeated } from "../estimators/rollout.js";
import type { GradientRequest, GradientResult } from "./gradient.js";
import { Replica } from "./replica.js";
import { type StepOptions, trainingStep } from "./step.js";

const rows = [
  { prompt: 1, x: [1, -1] },
  { prompt: 2, x: [0.5, 2] },
  { prompt: 3, x: [-0.5, 0] },
  { prompt: 4, x: [0, 1] },
];
const SAMPLES = fakeSamples(rows);
/** Samples of a rollout estimator have no mask. */
const UNMASKED = fakeSamples(rows.map((row) => ({ ...row, mask: "" })));

/** A step whose optimizer is gradient descent with a learning rate of 2^-10. */
function open(options: Partial<StepOptions> = {}, engine: FakeEngineOptions = {}) {
  const workers = new Replica(new FakeEngine({ globalBatchSize: 4, ...engine }), "distance");
  const parameters = Float32Array.of(2, 1);
  const updates: GradientResult[] = [];
  const requests: Omit<GradientRequest, "globalBatchSize">[] = [];
  const step = (more: Pick<StepOptions, "estimator" | "samples">) =>
    trainingStep({
      workers,
      estimatorState: undefined,
      request: () => {
        const request = { parameters: parameters.slice() };
        requests.push(request);
        return request;
      },
      update: (result) => {
        updates.push(result);
        for (const [i, value] of result.gradient.entries()) parameters[i] = (parameters[i] as number) - value / 1024;
      },
      ...options,
      ...more,
    });
  return { step, workers, updates, requests };
}

describe("the step of a direct estimator", () => {
  test("is one gradient and one optimizer update", async () => {
    const { step, workers, updates } = open();
    const estimator = draft.create({ name: "draft", k: null }) as DirectEstimator;
    const result = await step({ estimator, samples: SAMPLES });
    const parameters = Float32Array.of(2, 1);
    const expected = await workers.gradient(estimator, SAMPLES, { parameters, globalBatchSize: 4 });
    expect(updates).toEqual([expected]);
    const { rewards, parts, loss, cost } = expected;
    expect(result).toEqual({ rewards, parts, loss, kl: undefined, cost, estimatorState: undefined });
  });
});

describe("the step of a rollout estimator", () => {
  const estimator = fakeRollout((count) => repeated(equalParts(count, 2), 2));

  test("samples once and makes an update for each minibatch, from the parameters as they are by then", async () => {
    const { step, workers, updates, requests } = open();
    const indices = new Set<number>();
    const spying: RolloutEstimator = {
      ...estimator,
      addGradient: (context, batch) => {
        indices.add(batch.update);
        return estimator.addGradient(context, batch);
      },
    };
    const { rewards, cost, loss } = await step({ estimator: spying, samples: UNMASKED });
    expect([...indices]).toEqual([0, 1, 2, 3]);
    // One request for the samples, and one for each of the four updates.
    const [first, ...others] = requests.map(({ parameters }) => parameters) as [Float32Array, ...Float32Array[]];
    expect(others).toHaveLength(4);
    expect(others[0]).toEqual(first);
    for (const [i, other] of others.slice(1).entries()) expect(other).not.toEqual(others[i]);
    const rolled = await workers.sample(UNMASKED, { parameters: first, globalBatchSize: 4 });
    expect(rewards).toEqual(rolled.rewards);
    for (const [update, parameters] of others.entries()) {
      const places = update % 2 === 0 ? [0, 2] : [1, 3];
      const batch = {
        trajectories: places.map((i) => rolled.trajectories[i] as (typeof rolled.trajectories)[number]),
        weights: places.map((i) => rewards[i] as number),
        update,
      };
      const expected = await workers.gradientFromTrajectories(estimator, batch, { parameters, globalBatchSize: 2 });
      expect(updates[update]).toEqual(expected);
    }
    expect(loss).toBeCloseTo(updates.reduce((sum, each) => sum + each.loss, 0) / 4, 9);
    // 4 samples and 3 steps; then 4 updates of 2 samples and 3 steps, each a forward call and a backward call that counts 2.
    expect(cost).toEqual({ unetCalls: 4 * 3 + 4 * (2 * 3 * 3), rewardQueries: 4 });
  });

  test("passes its state from step to step", async () => {
    // fakeRollout's state is the sum of a step's rewards. It is added to the weights of the next step.
    const seen: (readonly number[])[] = [];
    const spying: RolloutEstimator = {
      ...estimator,
      addGradient: (context, batch) => {
        seen.push(batch.weights);
        return estimator.addGradient(context, batch);
      },
    };
    const first = await open().step({ estimator: spying, samples: UNMASKED });
    const sum = first.rewards.reduce((total, reward) => total + reward, 0);
    expect(first.estimatorState).toBe(sum);
    const { estimatorState } = first;
    await open({ estimatorState }).step({ estimator: spying, samples: UNMASKED });
    expect(seen[0]).toEqual([first.rewards[0], first.rewards[2]]);
    expect(seen[4]).toEqual(seen[0]?.map((weight) => weight + sum));
  });

  test("reports the mean KL divergence over its updates", async () => {
    // w = w₀ and p − p₀ = ½ at the first update. At step t: d = ½ (c + t). The minibatches are c = 1, 3 and c = 2, 4.
    const base = { baseParameters: Float32Array.of(2, 0.5), klWeight: 0.25 };
    const { step, updates } = open({
      request: () => ({ parameters: Float32Array.of(2, 1), ...base }),
    });
    const { kl } = await step({ estimator: fakeRollout((count) => equalParts(count, 2)), samples: UNMASKED });
    const mean = (...prompts: number[]) =>
      prompts.flatMap((c) => FAKE_STEPS.map((_, t) => ((c + t) / 2) ** 2)).reduce((sum, each) => sum + each, 0) / 2;
    expect(updates.map((each) => each.kl)).toEqual([mean(1, 3), mean(2, 4)]);
    expect(kl).toBe((mean(1, 3) + mean(2, 4)) / 2);
    expect(await open().step({ estimator, samples: UNMASKED })).not.toHaveProperty("kl");
  });
});
