import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { inputError } from "../../test/errors.js";
import { TINY_REWARD, tinyReward } from "../../test/tiny.js";
import { fromNumbers } from "../tensor/host.js";
import { Rng } from "../tensor/rng.js";
import { writeSafetensors } from "../weights/safetensors.js";
import { checkReward, rewardInFloat64 } from "./check.js";
import { rewardNames, rewardSettings } from "./index.js";

const scratch = await mkdtemp(join(tmpdir(), "alignprop-rewards-"));
afterAll(() => rm(scratch, { recursive: true }));

const shape = [2, 3, 16, 16] as const;
const prompts = ["a cat", "two dogs"];
const rng = new Rng(9);
const pixels = Float64Array.from({ length: 2 * 3 * 16 * 16 }, () => rng.uniform());

test("a prompt that is longer than CLIP's context gives a warning, from rewards that read prompts", async () => {
  const long = `cat ${"horse ".repeat(100)}`;
  const [warning, ...others] = (await tinyReward("clip")).warnings(["a cat", long, long]);
  expect(others).toEqual([]);
  expect(warning).toMatch(
    /^the prompt "cat horse .*…" is longer than the 77 tokens of the reward clip; its end is left out: "horse/,
  );
  expect((await tinyReward("hps")).warnings([long])[0]).toContain("of the reward hps;");
  expect((await tinyReward("aesthetic")).warnings([long])).toEqual([]);
});

const CHECKED = [
  "aesthetic",
  "clip",
  "hps",
  "pickscore",
  "compressibility",
  "incompressibility",
  { name: "compressibility", quality: 60 },
  { name: "clip", texts: ["a cat", "a dog"] },
  { name: "clip", away: ["a horse"] },
];

describe("a reward", () => {
  for (const chosen of CHECKED) {
    const label = typeof chosen === "string" ? chosen : JSON.stringify(chosen);
    test(`${label} has the gradient of finite differences, and scores each image independently`, async () => {
      const { problems, directions } = await checkReward(await tinyReward(chosen), { pixels, prompts });
      expect(problems).toEqual([]);
      expect(directions).toHaveLength(3);
    });
  }

  test("clip is a cosine that depends on the prompt", async () => {
    const run = await rewardInFloat64(await tinyReward("clip"), shape);
    const { rewards } = run(pixels, prompts);
    const other = run(pixels, ["a cat", "three horses"]).rewards;
    for (const value of rewards) expect(Math.abs(value)).toBeLessThanOrEqual(1);
    expect(other[0]).toBe(rewards[0]);
    expect(other[1]).not.toBe(rewards[1]);
  });

  test("clip with texts and away is the difference of the mean similarities, whatever the prompt", async () => {
    const each = async (text: string) =>
      (await rewardInFloat64(await tinyReward("clip"), shape))(pixels, [text, text]).rewards;
    const reward = await tinyReward({ name: "clip", texts: ["a cat", "a dog"], away: ["two horses"] });
    const { rewards } = (await rewardInFloat64(reward, shape))(pixels, prompts);
    const [cat, dog, horses] = [await each("a cat"), await each("a dog"), await each("two horses")];
    for (const [i, value] of rewards.entries()) {
      expect(value).toBeCloseTo(((cat[i] as number) + (dog[i] as number)) / 2 - (horses[i] as number), 6);
    }
    expect(reward.feeds(prompts)).toEqual({});
  });

  test("pickscore is the cosine of hps times exp(logit_scale) on the same weights", async () => {
    const of = async (name: string) => (await rewardInFloat64(await tinyReward(name), shape))(pixels, prompts).rewards;
    const [cosine, score] = [await of("hps"), await of("pickscore")];
    for (const [i, value] of score.entries()) expect(value / (cosine[i] as number)).toBeCloseTo(1 / 0.07, 2);
  });

  test("is listed by its name in recipes, and an unknown name is refused", () => {
    expect(rewardNames).toContain("pickscore");
    expect(rewardSettings.safeParse("asthetic").success).toBe(false);
    expect(rewardSettings.safeParse("toString").success).toBe(false);
  });

  test("aesthetic refuses a head that belongs to another CLIP", async () => {
    await cp(join(TINY_REWARD, "clip"), join(scratch, "clip"), { recursive: true });
    const config = join(scratch, "clip", "config.json");
    const text = await readFile(config, "utf8");
    await writeFile(config, text.replaceAll('"projection_dim": 8', '"projection_dim": 16'));
    const opening = tinyReward({ name: "aesthetic", clip: join(scratch, "clip") });
    await expect(opening).rejects.toThrow(
      inputError("model-mismatch", { found: 8, expected: 16, clip: join(scratch, "clip") }),
    );
  });

  test("aesthetic refuses a head whose last layer outputs more than one number", async () => {
    const head = join(scratch, "cut");
    await mkdir(head);
    const layer = new Map([["layers.0.weight", fromNumbers(new Array(4 * 8).fill(1), [4, 8])]]);
    await writeSafetensors(join(head, "model.safetensors"), layer);
    await expect(tinyReward({ name: "aesthetic", head })).rejects.toThrow(
      inputError("reward-invalid", { path: head, found: 4, expected: 1 }),
    );
  });

  test("aesthetic reads a linear head, whose layer has no number, from a single file", async () => {
    const [weight, bias] = [[1, -2, 3, -4, 5, -6, 7, -8], [0.5]];
    const linear = join(scratch, "linear.safetensors");
    await writeSafetensors(
      linear,
      new Map([
        ["weight", fromNumbers(weight, [1, 8])],
        ["bias", fromNumbers(bias, [1])],
      ]),
    );
    const numbered = join(scratch, "numbered.safetensors");
    await writeSafetensors(
      numbered,
      new Map([
        ["layers.0.weight", fromNumbers(weight, [1, 8])],
        ["layers.0.bias", fromNumbers(bias, [1])],
      ]),
    );
    const of = async (head: string) =>
      (await rewardInFloat64(await tinyReward({ name: "aesthetic", head }), shape))(pixels, prompts).rewards;
    expect([...(await of(linear))]).toEqual([...(await of(numbered))]);
  });

  test("clip refuses a tokenizer with more tokens than its text encoder, and cuts texts to a shorter context", async () => {
    const clip = join(scratch, "words");
    const config = join(clip, "config.json");
    await cp(join(TINY_REWARD, "clip"), clip, { recursive: true });
    const read = JSON.parse(await readFile(config, "utf8"));
    const change = (text: object) =>
      writeFile(config, JSON.stringify({ ...read, text_config: { ...read.text_config, ...text } }));
    await change({ vocab_size: 10 });
    await expect(tinyReward({ name: "clip", clip })).rejects.toThrow(
      inputError("model-mismatch", { reward: "clip", path: clip, expected: 10 }),
    );
    await change({ max_position_embeddings: 5 });
    const { reward_ids: ids } = (await tinyReward({ name: "clip", clip })).feeds(prompts);
    expect(ids?.shape).toEqual([2, 5]);
  });
});
