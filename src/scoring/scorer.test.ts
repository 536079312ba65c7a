import { afterAll, beforeAll, expect, test } from "vitest";
import { TINY_SD, tinyReward } from "../../test/tiny.js";
import type { LossSettings } from "../config/settings.js";
import { openPipeline } from "../pipeline/pipeline.js";
import { combination, type PartSettings, partSettings } from "../rewards/combination.js";
import type { Reward } from "../rewards/index.js";
import { partMeans } from "../rewards/scores.js";
import { Runtime } from "../runtime/runtime.js";
import { float32, type HostTensor } from "../tensor/host.js";
import { Rng } from "../tensor/rng.js";
import { lossAndSlope, trainingScorerGraphs } from "./graphs.js";
import { ImageScorer, LatentScorer } from "./scorer.js";

let runtime: Runtime;
beforeAll(async () => {
  runtime = await Runtime.start({ threads: 1 });
});
afterAll(() => runtime.close());

const pipeline = await openPipeline(TINY_SD);
const prompts = ["a cat", "two dogs", "a horse"];
const size = { height: 8, width: 8 };
const rng = new Rng(3);
const latents = float32(
  Float32Array.from({ length: 3 * 4 * 64 }, () => rng.normal()),
  [3, 4, 8, 8],
);

const part = (settings: Partial<PartSettings>) => partSettings.parse(settings);

/** A sum of two different rewards. The second one scores half of the prompts. */
async function sumOf(batch: { clip?: number; jpeg?: number }): Promise<Reward> {
  return combination([
    {
      reward: { ...(await tinyReward("clip")), ...(batch.clip && { batch: batch.clip }) },
      settings: part({ weight: 2 }),
    },
    {
      reward: { ...(await tinyReward("compressibility")), ...(batch.jpeg && { batch: batch.jpeg }) },
      settings: part({ scale: 0.1, target: -1, share: 0.5 }),
    },
  ]);
}

async function scored(reward: Reward, loss: LossSettings) {
  const options = { loss, batch: 3, size, samples: 6 };
  const graphs = trainingScorerGraphs(pipeline, reward, options, { gradient: true });
  const scorer = await LatentScorer.compile(runtime, pipeline, reward, { graphs, loss, samples: 6 });
  const found = await scorer.scoreWithGradient(latents, prompts);
  await scorer.release();
  return { kind: graphs.kind, ...found };
}

const expectNear = (actual: ArrayLike<number>, expected: ArrayLike<number>, tolerance: number) => {
  const scale = Math.max(...Array.from(expected, Math.abs));
  const worst = Math.max(...Array.from(expected, (value, i) => Math.abs((actual[i] as number) - value)));
  expect(actual.length).toBe(expected.length);
  expect(worst).toBeLessThan(tolerance * scale);
};

for (const loss of [
  { form: "maximize", target: 0, scale: 0.5 },
  { form: "target", target: 0.2, scale: 2 },
] as const) {
  test(`parts with smaller batches give the same as one program: ${loss.form}`, async () => {
    const together = await scored(await sumOf({}), loss);
    expect(together.kind).toBe("joint");
    for (const batch of [{ clip: 1 }, { clip: 2, jpeg: 1 }]) {
      const apart = await scored(await sumOf(batch), loss);
      expect(apart.kind).toBe("separate");
      expectNear(apart.rewards, together.rewards, 1e-5);
      expectNear(apart.losses, together.losses, 1e-5);
      expectNear(apart.dLatents, together.dLatents, 1e-4);
      expect(Object.keys(apart.parts ?? {})).toEqual(["clip", "compressibility"]);
      expectNear((apart.parts?.clip ?? []) as number[], (together.parts?.clip ?? []) as number[], 1e-5);
      const nulls = (parts: typeof apart.parts) => parts?.compressibility?.map((value) => value === null);
      expect(nulls(apart.parts)).toEqual(nulls(together.parts));
    }
  });
}

test("a single reward may have a smaller batch as well", async () => {
  const loss = { form: "target", target: 10, scale: 1 } as const;
  const clip = await tinyReward("clip");
  const [whole, one] = [await scored(clip, loss), await scored({ ...clip, batch: 1 }, loss)];
  expect([whole.kind, one.kind, one.parts]).toEqual(["joint", "separate", undefined]);
  expectNear(one.dLatents, whole.dLatents, 1e-4);
});

test("images get the same rewards and parts as their latents in training", async () => {
  const reward = await sumOf({ jpeg: 2 });
  const { rewards, parts } = await scored(reward, { form: "maximize", target: 0, scale: 1 });
  const graphs = trainingScorerGraphs(
    pipeline,
    reward,
    { loss: { form: "maximize", target: 0, scale: 1 }, batch: 3, size, samples: 6 },
    { gradient: true },
  );
  if (graphs.kind !== "separate") throw new Error("jpeg has a batch of its own");
  const decoder = await runtime.compile(graphs.decode, pipeline.weights);
  const { images } = await decoder.run({ latents });
  const scorer = new ImageScorer(runtime, reward);
  const scores = await scorer.score(images as HostTensor, prompts);
  expectNear(scores.rewards, rewards, 1e-5);
  expectNear((scores.parts?.clip ?? []) as number[], (parts?.clip ?? []) as number[], 1e-5);
  await scorer.release();
  await decoder.release();
});

test("the loss of a reward and its slope", () => {
  // 3 |r - 2| at 0: loss 6, slope -3;  -3 r at 2: loss -6, slope -3
  expect(lossAndSlope(0, { form: "target", target: 2, scale: 3 })).toEqual([6, -3]);
  expect(lossAndSlope(5, { form: "target", target: 2, scale: 3 })).toEqual([9, 3]);
  expect(lossAndSlope(2, { form: "maximize", target: 0, scale: 3 })).toEqual([-6, -3]);
});

test("the mean of a part is over the images that it scored", () => {
  expect(partMeans({ a: [1, 3], b: [null, 4], c: [null, null] })).toEqual({ a: 2, b: 4 });
});
