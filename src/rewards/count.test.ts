import { cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, test } from "vitest";
import { tinyReward } from "../../test/tiny.js";
import { checkReward } from "./check.js";
import { numberIn } from "./count.js";
import { sizeWithin } from "./detector.js";

const scratch = await mkdtemp(join(tmpdir(), "alignprop-count-"));
afterAll(() => rm(scratch, { recursive: true }));

const DETECTOR = fileURLToPath(new URL("../../test/goldens/reward-yolos-tiny", import.meta.url));

test.each([
  ["three foxes", 3],
  ["a photo of 12 dogs on a bench", 12],
  ["a fox", 1],
  ["Four horses and two cats", 4],
  ["zero", 0],
  ["someone in a tent", 1],
  ["", 1],
])("%j names the number %i", (prompt, number) => {
  expect(numberIn(prompt)).toBe(number);
});

test("the target is the prompt's number, or the same for all", async () => {
  const asked = await tinyReward({ name: "count", detector: DETECTOR, object: "cat" });
  expect([...(asked.feeds(["two cats", "a cat"]).reward_count?.data ?? [])]).toEqual([2, 1]);
  const fixed = await tinyReward({ name: "count", detector: DETECTOR, object: "cat", count: 4 });
  expect(fixed.feeds(["two cats"])).toEqual({});
  expect((await checkReward(asked)).problems).toEqual([]);
});

test("the embedded judge of numbers has the gradient that finite differences show", async () => {
  const { problems, rewards } = await checkReward(await tinyReward({ name: "count", count: 3 }));
  expect(problems).toEqual([]);
  for (const reward of rewards) expect(Math.abs(reward)).toBeLessThanOrEqual(2);
});

describe("a detector's picture", () => {
  test("has the wanted shorter side, unless the longer one would be too long, in whole patches", () => {
    expect(sizeWithin(64, 64, { shortest: 512, longest: 1333, unit: 16 })).toEqual([512, 512]);
    expect(sizeWithin(100, 200, { shortest: 512, longest: 1333, unit: 16 })).toEqual([512, 1024]);
    expect(sizeWithin(100, 400, { shortest: 512, longest: 800, unit: 16 })).toEqual([192, 800]);
    expect(sizeWithin(20, 26, { shortest: 32, longest: 56, unit: 8 })).toEqual([32, 40]);
  });
});

describe("a reward that counts is refused", () => {
  test.each([
    [{ detector: DETECTOR }, "reward.object: name what the detector counts"],
    [{ object: "fox" }, "leave it out, or name a detector"],
    [{ detector: DETECTOR, object: "catt" }, 'knows no "catt"; did you mean cat? It knows cat, dog'],
  ])("%j: %s", async (settings, message) => {
    await expect(tinyReward({ name: "count", ...settings })).rejects.toThrow(message);
  });

  test("with a detector of another kind, by its kind", async () => {
    await cp(DETECTOR, join(scratch, "other"), { recursive: true });
    const config = join(scratch, "other", "config.json");
    const text = await readFile(config, "utf8");
    await writeFile(config, text.replace('"model_type": "yolos"', '"model_type": "yolo"'));
    const opening = tinyReward({ name: "count", detector: join(scratch, "other"), object: "cat" });
    await expect(opening).rejects.toThrow(/config\.json: model_type is "yolo"; supported: yolos/);
  });
});
