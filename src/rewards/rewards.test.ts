import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, test } from "vitest";
import { gradients } from "../autodiff/index.js";
import { interpret } from "../graph/interpret.js";
import { filled, input } from "../ops/index.js";
import { fromNumbers, type HostTensor } from "../tensor/host.js";
import { Rng } from "../tensor/rng.js";
import { writeSafetensors } from "../weights/safetensors.js";
import { readTensor } from "../weights/source.js";
import { openReward, type Reward } from "./index.js";

const folder = fileURLToPath(new URL("../../test/goldens/tiny-reward", import.meta.url));
const scratch = await mkdtemp(join(tmpdir(), "alignprop-rewards-"));
afterAll(() => rm(scratch, { recursive: true }));

const shape = [2, 3, 16, 16];
const prompts = ["a cat", "two dogs"];

/** Rewards and their sum's gradient, in float64, as functions of the pixels. */
async function judge(reward: Reward) {
  const images = input(shape);
  const { rewards, inputs } = reward.build(images);
  const [dImages] = gradients([{ value: rewards, gradient: filled(rewards.shape, 1) }], [images]);
  if (!dImages) throw new Error(`${reward.name} has no gradient`);
  const graph = { name: reward.name, inputs: { images, ...inputs }, outputs: { rewards, dImages } };
  const weights = new Map<string, HostTensor>();
  for (const name of reward.weights.names()) {
    const stored = reward.weights.get(name);
    if (stored) weights.set(name, await readTensor(stored));
  }
  return (pixels: Float64Array, asked: readonly string[] = prompts) => {
    const feeds = { images: { shape, data: pixels }, ...reward.feeds(asked) };
    const results = interpret(graph, feeds, (name) => weights.get(name));
    return { rewards: results.rewards?.data as Float64Array, gradient: results.dImages?.data as Float64Array };
  };
}

const rng = new Rng(9);
const pixels = Float64Array.from({ length: 2 * 3 * 16 * 16 }, () => rng.uniform());

test("a prompt that is longer than CLIP's text tower reads is warned of, by the reward that reads prompts", async () => {
  const long = `cat ${"horse ".repeat(100)}`;
  const [warning, ...others] = (await openReward("clip", folder)).warnings(["a cat", long, long]);
  expect(others).toEqual([]);
  expect(warning).toMatch(
    /^the prompt "cat horse .*…" is longer than the 77 tokens of the reward clip; its end is left out: "horse/,
  );
  expect((await openReward("hps", folder)).warnings([long])[0]).toContain("of the reward hps;");
  expect((await openReward("aesthetic", folder)).warnings([long])).toEqual([]);
});

describe("a reward", () => {
  for (const name of ["aesthetic", "clip", "hps", "compressibility", "incompressibility"]) {
    test(`${name} has the gradient that finite differences show`, async () => {
      const run = await judge(await openReward(name, folder));
      const { gradient } = run(pixels);
      // Along one random direction, so that every pixel counts.
      const direction = pixels.map(() => rng.normal());
      const h = 1e-6;
      const along = (sign: number) =>
        run(pixels.map((p, i) => p + sign * h * (direction[i] as number))).rewards.reduce((sum, value) => sum + value);
      const numeric = (along(1) - along(-1)) / (2 * h);
      const analytic = gradient.reduce((sum, g, i) => sum + g * (direction[i] as number), 0);
      expect(Math.abs(analytic - numeric)).toBeLessThan(1e-4 * Math.abs(numeric) + 1e-8);
    });

    test(`${name} judges each picture by itself`, async () => {
      const run = await judge(await openReward(name, folder));
      const half = pixels.length / 2;
      const swapped = Float64Array.from(pixels, (_, i) => pixels[(i + half) % pixels.length] as number);
      const [a, b] = run(pixels).rewards;
      expect([...run(swapped, prompts.toReversed()).rewards]).toEqual([b, a]);
    });
  }

  test("clip is a cosine that depends on the prompt", async () => {
    const run = await judge(await openReward("clip", folder));
    const rewards = run(pixels).rewards;
    const other = run(pixels, ["a cat", "three horses"]).rewards;
    for (const value of rewards) expect(Math.abs(value)).toBeLessThanOrEqual(1);
    expect(other[0]).toBe(rewards[0]);
    expect(other[1]).not.toBe(rewards[1]);
  });

  test("that is unknown is refused with the nearest name", async () => {
    await expect(openReward("asthetic", folder)).rejects.toThrow(/"asthetic" is unknown; did you mean aesthetic\?/);
    await expect(openReward("toString", folder)).rejects.toThrow(/"toString" is unknown/);
  });

  test("aesthetic refuses a head that belongs to another CLIP", async () => {
    await cp(join(folder, "clip"), join(scratch, "clip"), { recursive: true });
    const config = join(scratch, "clip", "config.json");
    const text = await readFile(config, "utf8");
    await writeFile(config, text.replaceAll('"projection_dim": 8', '"projection_dim": 16'));
    await cp(join(folder, "aesthetic"), join(scratch, "aesthetic"), { recursive: true });
    await expect(openReward("aesthetic", scratch)).rejects.toThrow(/takes 8 features, but the CLIP in .* gives 16/);
  });

  test("aesthetic refuses a head whose last layer gives more than a score", async () => {
    const weights = join(scratch, "cut", "aesthetic");
    await cp(join(folder, "clip"), join(scratch, "cut", "clip"), { recursive: true });
    await mkdir(weights);
    const layer = new Map([["layers.0.weight", fromNumbers(new Array(4 * 8).fill(1), [4, 8])]]);
    await writeSafetensors(join(weights, "model.safetensors"), layer);
    await expect(openReward("aesthetic", join(scratch, "cut"))).rejects.toThrow(/gives 4 numbers .*; a reward is one/);
  });

  test("clip refuses a tokenizer with more words than its text model, and takes one with longer texts", async () => {
    const clip = join(scratch, "words", "clip");
    const config = join(clip, "config.json");
    await cp(join(folder, "clip"), clip, { recursive: true });
    const read = JSON.parse(await readFile(config, "utf8"));
    const change = (text: object) =>
      writeFile(config, JSON.stringify({ ...read, text_config: { ...read.text_config, ...text } }));
    await change({ vocab_size: 10 });
    await expect(openReward("clip", join(scratch, "words"))).rejects.toThrow(/but the text model takes ids below 10\./);
    await change({ max_position_embeddings: 5 });
    const { reward_ids: ids } = (await openReward("clip", join(scratch, "words"))).feeds(prompts);
    expect(ids?.shape).toEqual([2, 5]);
  });
});
