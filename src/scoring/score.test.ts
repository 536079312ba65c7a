import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { inputError } from "../../test/errors.js";
import { tinyReward, tinySettings } from "../../test/tiny.js";
import { writePng } from "../images/write.js";
import { defineReward, ops } from "../rewards/index.js";
import { score } from "./score.js";

const scratch = await mkdtemp(join(tmpdir(), "alignprop-score-"));
afterAll(() => rm(scratch, { recursive: true }));

/** A gray image of 4 x 2 pixels. */
const gray = (level: number) => ({ width: 4, height: 2, pixels: new Uint8Array(24).fill(level) });
const brightness = defineReward({ name: "brightness", build: (images) => ops.mean(images, [1, 2, 3]) });

test("score takes a path, a file, an image in memory, and one that is read on demand", async () => {
  const file = join(scratch, "gray.png");
  await writePng(file, gray(51));
  const images = [file, { file }, { image: gray(102) }, { name: "dark", read: async () => gray(0) }];
  const { rewards, mean } = await score(images, tinySettings(), { reward: brightness });
  for (const [i, expected] of [0.2, 0.2, 0.4, 0].entries()) expect(rewards[i]).toBeCloseTo(expected, 6);
  expect(mean).toBeCloseTo(0.2, 6);
});

test("score names the image without the prompt that a reward reads", async () => {
  const images = [{ image: gray(0), prompt: "a cat" }, { image: gray(0) }];
  await expect(score(images, tinySettings(), { reward: await tinyReward("clip") })).rejects.toThrow(
    inputError("reward-needs-prompt", { path: "image 1" }),
  );
});
