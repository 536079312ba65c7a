import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, test } from "vitest";
import { inputError } from "../../../test/errors.js";
import { constant, input, mean, mul } from "../../ops/index.js";
import { fromNumbers } from "../../tensor/host.js";
import { fromTensors } from "../../weights/source.js";
import { checkReward, rewardInFloat64 } from "../check.js";
import { openReward, pathsOnly, rewardSettings, rewardTitle } from "../index.js";
import { defineReward } from "./define.js";

const scratch = await mkdtemp(join(tmpdir(), "alignprop-define-"));
afterAll(() => rm(scratch, { recursive: true }));

const PALETTE = fileURLToPath(new URL("../../../docs/examples/palette.js", import.meta.url));

const open = (settings: unknown) => openReward(rewardSettings.parse(settings), pathsOnly);

let files = 0;
async function moduleOf(text: string): Promise<string> {
  const file = join(scratch, `reward-${files++}.mjs`);
  await writeFile(file, text);
  return file;
}

describe("the palette of the documentation", () => {
  test("passes the check that the built-in rewards pass", async () => {
    const { problems, rewards } = await checkReward(await open(PALETTE));
    expect(problems).toEqual([]);
    for (const reward of rewards) expect(reward).toBeLessThan(0);
  });

  test("scores an image in its colors 0, and its gradient points to the nearest color", async () => {
    const options = { colours: ["#ff0000", "#0000ff"] };
    const reward = await open({ name: "module", file: PALETTE, options });
    const run = await rewardInFloat64(reward, [2, 3, 1, 1]);
    const { rewards, gradient } = run(Float64Array.from([1, 0, 0, 0.2, 0, 0.7]), ["", ""]);
    expect(rewards[0]).toBeCloseTo(0, 6);
    expect(rewards[1]).toBeLessThan(-0.04);
    // Less red and more blue.
    expect(gradient?.[3]).toBeLessThan(0);
    expect(gradient?.[5]).toBeGreaterThan(0);
  });

  test("reports an invalid option", async () => {
    const opening = open({ name: "module", file: PALETTE, options: { colours: ["red"] } });
    await expect(opening).rejects.toThrow(
      inputError("reward-invalid", { path: PALETTE, reason: expect.stringContaining('colours: "red"') }),
    );
  });
});

describe("a module", () => {
  test("may export a reward, and its file name is the title", async () => {
    const file = await moduleOf(
      `export default { name: "gray", weights: { names: () => [], get: () => undefined, describe: "none" },
        build: (images) => ({ rewards: images.node, inputs: {} }), feeds: () => ({}), warnings: () => [] };`,
    );
    expect((await open(file)).name).toBe("gray");
    expect(rewardTitle(rewardSettings.parse(file))).toMatch(/^reward-\d+$/);
  });

  test.each([
    ["export default 3;", { expected: "reward" }],
    ["export const reward = 3;", { expected: "reward" }],
    ["export default () => ({ name: 'x' });", { expected: "reward" }],
    ["export default (", { problem: "the module cannot be imported" }],
    ["throw new Error('on the way in');", { problem: "the module cannot be imported", reason: "on the way in" }],
    [
      "export default () => { throw new Error('in the function'); };",
      { problem: "its function failed", reason: "in the function" },
    ],
    [
      "export default ({ defineReward }) => defineReward({ name: 'x', build: (images) => images });",
      { problem: "its graph cannot be built", reason: expect.stringContaining("float32[2, 3, 64, 64]") },
    ],
    [
      "export default ({ defineReward, ops }) => defineReward({ name: 'x', build: (images) => ops.matmul(images, ops.constant([1], [1, 1])) });",
      { problem: "its graph cannot be built", reason: expect.stringContaining("matmul") },
    ],
  ])("%s is refused", async (text, facts) => {
    const file = await moduleOf(text);
    await expect(open(file)).rejects.toThrow(inputError("reward-invalid", { path: file, ...facts }));
  });

  test("that does not exist, or is TypeScript, is refused", async () => {
    await expect(open("/no/such/reward.js")).rejects.toThrow(
      inputError("file-not-found", { path: "/no/such/reward.js" }),
    );
    const parsed = rewardSettings.safeParse({ name: "module", file: "reward.ts" });
    expect(parsed.error?.issues[0]?.message).toContain("compile TypeScript first");
  });
});

describe("the check", () => {
  test("finds a reward that depends on the other images of the batch", async () => {
    const crowd = defineReward({
      name: "crowd",
      build: (images) => mul(mean(images, [1, 2, 3]), mean(images, [0, 1, 2, 3])),
    });
    expect((await checkReward(crowd)).problems).toEqual([
      "the reward of an image depends on the other images of the batch",
    ]);
  });

  test("finds a reward that does not depend on the image", async () => {
    const fixed = defineReward({ name: "fixed", build: () => constant([1, 2], [2]) });
    expect((await checkReward(fixed)).problems).toEqual(["the reward does not depend on the image"]);
    const { problems } = await checkReward(
      defineReward({ name: "zero", build: (images) => mul(mean(images, [1, 2, 3]), 0) }),
    );
    expect(problems).toEqual(["the gradient is zero, so nothing can be learned from it"]);
  });
});

test("a definition is refused if its names could collide with those of the trainer", () => {
  const build = (images: ReturnType<typeof input>) => mean(images, [1, 2, 3]);
  const weights = fromTensors(new Map([["unet.w", fromNumbers([1], [1])]]));
  expect(() => defineReward({ name: "x", weights, build })).toThrow(/unet\.w .*"reward\."/);
  expect(() => defineReward({ name: "", build })).toThrow(/name .*found ""/);
  const reward = defineReward({
    name: "x",
    build: (images) => ({ rewards: build(images), inputs: { latents: input([1]) } }),
  });
  expect(() => reward.build(input([1, 3, 4, 4]))).toThrow(/latents .*"reward_"/);
});
