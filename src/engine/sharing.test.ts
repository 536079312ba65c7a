/** One replica, several replicas and several ranks give the same results. */
import { describe, expect, test } from "vitest";
import { inputError } from "../../test/errors.js";
import { FAKE_LAYOUT, FakeEngine, type FakeEngineOptions, fakeRollout, fakeSamples } from "../../test/fake-engine.js";
import { fakeRanks } from "../../test/fake-ranks.js";
import { draft } from "../estimators/draft.js";
import type { DirectEstimator } from "../estimators/index.js";
import { equalParts } from "../estimators/rollout.js";
import type { GradientRequest, GradientResult, ScoredSamples } from "./gradient.js";
import { checksum, Ranks } from "./ranks.js";
import { Replica } from "./replica.js";
import { Replicas } from "./replicas.js";
import { pick } from "./samples.js";
import type { Workers } from "./workers.js";

const estimator = draft.create({ name: "draft", k: null }) as DirectEstimator;
const rollout = fakeRollout((count) => equalParts(count, 2));
const SAMPLES = fakeSamples(
  Array.from({ length: 8 }, (_, i) => ({ prompt: i + 1, x: [(i - 3) / 2, (i % 3) - 1], mask: "xxx" })),
);
const request: GradientRequest = {
  parameters: Float32Array.of(2, 1),
  globalBatchSize: 8,
  klWeight: 0.5,
  baseParameters: Float32Array.of(2, 0.5),
};

function replicasOf(count: number, options: FakeEngineOptions = {}) {
  const engines = Array.from({ length: count }, () => new FakeEngine({ globalBatchSize: 8, ...options }));
  const workers = new Replicas(
    engines.map((engine) => new Replica(engine, "distance")),
    FAKE_LAYOUT,
  );
  return { engines, workers };
}

/** The same work on every rank of a fake cluster of two, each with two replicas. */
async function onRanks<T>(work: (workers: Workers, rank: number) => Promise<T>, options: FakeEngineOptions = {}) {
  const ranks = fakeRanks(2).map((cluster) => ({ cluster, ...replicasOf(2, options) }));
  const results = await Promise.all(
    ranks.map(({ cluster, workers }) => work(new Ranks(cluster, workers), cluster.rank)),
  );
  return { results, engines: ranks.map(({ engines }) => engines) };
}

/** Samples, scores, and computes the gradient of the second half of them. */
async function roll(workers: Workers) {
  const { trajectories, rewards, cost } = await workers.sample(SAMPLES, request);
  const places = [1, 3, 5, 7];
  const batch = { trajectories: pick(trajectories, places), weights: [1, -1, 2, 0.5], update: 0 };
  const found = await workers.gradientFromTrajectories(rollout, batch, { ...request, globalBatchSize: 4 });
  return { rewards, cost, found, trajectories };
}

const single = new Replica(new FakeEngine({ globalBatchSize: 8 }), "distance");

/** A worker that takes a while and returns what it is given. */
function slow(gradient: number[], milliseconds: number, more: Partial<GradientResult> = {}): Workers {
  const result = { overflowed: false, loss: 0, cost: { unetCalls: 0, rewardQueries: 0 }, rewards: [], ...more };
  const after = () => new Promise<void>((resolve) => setTimeout(resolve, milliseconds));
  return {
    gradient: async () => {
      await after();
      return { ...result, gradient: Float64Array.from(gradient) } satisfies GradientResult & ScoredSamples;
    },
    sample: () => Promise.reject(new Error("not used")),
    gradientFromTrajectories: () => Promise.reject(new Error("not used")),
  };
}

describe("replicas", () => {
  test.each([1, 2, 4])("(%i of them) give the gradient, scores, loss and cost of one", async (count) => {
    const { workers } = replicasOf(count);
    expect(await workers.gradient(estimator, SAMPLES, request)).toEqual(
      await single.gradient(estimator, SAMPLES, request),
    );
  });

  test.each([1, 2, 4])("(%i of them) give the rollout of one", async (count) => {
    const { workers } = replicasOf(count);
    expect(await roll(workers)).toEqual(await roll(single));
  });

  test("take consecutive samples", async () => {
    const { workers, engines } = replicasOf(2);
    await workers.gradient(estimator, SAMPLES, request);
    expect(engines.map(({ scored }) => scored)).toEqual([
      [
        ["1", "2"],
        ["3", "4"],
      ],
      [
        ["5", "6"],
        ["7", "8"],
      ],
    ]);
  });

  test("are summed in their own order, whichever ends first", async () => {
    // In float64, (1e17 + 1) − 1e17 = 0, (1e17 − 1e17) + 1 = 1 and (−1e17 + 1) + 1e17 = 0.
    const sum = async (...delays: [number, number, number]) => {
      const gradients = [1e17, -1e17, 1];
      const workers = new Replicas(
        gradients.map((value, i) => slow([value, 0], delays[i] as number)),
        FAKE_LAYOUT,
      );
      return (await workers.gradient(estimator, SAMPLES, request)).gradient[0];
    };
    expect([await sum(0, 5, 10), await sum(10, 5, 0), await sum(5, 10, 0)]).toEqual([1, 1, 1]);
  });

  test("report a gradient that is not finite with its tensor, unless it is a float16 overflow", async () => {
    const workers = (more: Partial<GradientResult>) =>
      new Replicas([slow([1, 2], 0), slow([0, Number.NaN], 0, more)], FAKE_LAYOUT);
    await expect(workers({}).gradient(estimator, SAMPLES, request)).rejects.toThrow(
      inputError("not-finite", { tensor: "unet.to_q.lora_B.weight" }),
    );
    const { overflowed } = await workers({ overflowed: true }).gradient(estimator, SAMPLES, request);
    expect(overflowed).toBe(true);
  });
});

describe("ranks", () => {
  test("give the gradient, scores, loss and cost of one process, on every rank", async () => {
    const { results, engines } = await onRanks((workers) => workers.gradient(estimator, SAMPLES, request));
    const expected = await single.gradient(estimator, SAMPLES, request);
    expect(results).toEqual([expected, expected]);
    expect(engines.flat().map(({ scored }) => scored.flat())).toEqual([
      ["1", "2"],
      ["3", "4"],
      ["5", "6"],
      ["7", "8"],
    ]);
  });

  test("keep the latents of their own trajectories only, and give the rollout of one process", async () => {
    const { results } = await onRanks(roll);
    const { trajectories, ...expected } = await roll(single);
    for (const [rank, { trajectories: own, ...result }] of results.entries()) {
      expect(result).toEqual(expected);
      expect(own.map(({ sample }) => sample)).toEqual(SAMPLES);
      const isOwn = (i: number) => (rank === 0 ? i < 4 : i >= 4);
      expect(own.map(({ latents }) => latents)).toEqual(
        trajectories.map(({ latents }, i) => (isOwn(i) ? latents : [])),
      );
    }
  });

  test("with other parameters end the run, and name the first rank that differs", async () => {
    const work = (workers: Workers, rank: number) => {
      const parameters = Float32Array.of(2, 1 + rank * 2 ** -23);
      return workers.gradient(estimator, SAMPLES, { ...request, parameters });
    };
    await expect(onRanks(work)).rejects.toThrow(inputError("ranks-mismatch", { rank: 1, host: "b" }));
  });

  test("all skip the update if the gradient of one overflows", async () => {
    // Only rank 1 has the sample whose gradient overflows.
    const [huge] = fakeSamples([{ prompt: 1, x: [2 ** 16, 0] }]);
    const samples = [...SAMPLES.slice(0, 7), huge as NonNullable<typeof huge>];
    const float16 = { parameters: request.parameters, globalBatchSize: 8, lossScale: 256 };
    const { results } = await onRanks((workers) => workers.gradient(estimator, samples, float16), { float16: true });
    expect(results.map(({ overflowed }) => overflowed)).toEqual([true, true]);
  });
});

describe("the checksum of parameters", () => {
  test("changes with every bit, and is that of the values alone", () => {
    const values = Float32Array.from({ length: 64 }, (_, i) => Math.sin(i));
    const whole = checksum(values);
    expect(checksum(Float32Array.of(9, ...values, 9).subarray(1, 65))).toBe(whole);
    const bits = new Uint32Array(values.buffer);
    for (const i of bits.keys()) {
      bits[i] = (bits[i] as number) ^ 1;
      expect(checksum(values)).not.toBe(whole);
      bits[i] = (bits[i] as number) ^ 1;
    }
    expect(checksum(Float32Array.of(0))).not.toBe(checksum(Float32Array.of(-0)));
  });
});
