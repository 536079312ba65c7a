import { expect, test } from "vitest";
import { inputError } from "../../test/errors.js";
import { tinyReward } from "../../test/tiny.js";
import { mean } from "../ops/index.js";
import { fromNumbers } from "../tensor/host.js";
import { fromTensors } from "../weights/source.js";
import { checkReward, rewardInFloat64 } from "./check.js";
import { combination, type PartSettings, partSettings, position } from "./combination.js";
import { rewardSettings, rewardTitle } from "./index.js";
import { defineReward } from "./user/define.js";

/** The mean of all pixels. */
const brightness = (name: string) => defineReward({ name, build: (images) => mean(images, [1, 2, 3]) });

const one = (settings: Partial<PartSettings>) => ({
  reward: brightness("bright"),
  settings: partSettings.parse(settings),
});

/** Rewards, and their slopes with respect to the gray level, of images of one gray level each. */
async function scoresOf(members: Parameters<typeof combination>[0], grays: number[], prompts: string[]) {
  const run = await rewardInFloat64(combination(members), [grays.length, 3, 2, 2]);
  const pixels = Float64Array.from(grays.flatMap((gray) => new Array<number>(12).fill(gray)));
  const { rewards, gradient } = run(pixels, prompts);
  return { rewards: [...rewards], slopes: grays.map((_, i) => 12 * (gradient?.[i * 12] ?? 0)) };
}

test("a part adds weight times scale times its clamped value, or minus its distance from a target", async () => {
  const score = async (settings: Partial<PartSettings>, gray: number) => {
    const { rewards, slopes } = await scoresOf([one(settings)], [gray], [""]);
    return [rewards[0], slopes[0]].map((value) => Math.round((value as number) * 1e6) / 1e6);
  };
  expect(await score({}, 0.25)).toEqual([0.25, 1]);
  expect(await score({ weight: -2, scale: 3 }, 0.25)).toEqual([-1.5, -6]);
  // -4 |0.25 - 0.75| → slope +4 towards it
  expect(await score({ scale: 4, target: 0.75 }, 0.25)).toEqual([-2, 4]);
  // Outside of the clamp there is no gradient.
  expect(await score({ clamp: [0, 0.5] }, 0.8)).toEqual([0.5, 0]);
  expect(await score({ clamp: [0.5, null] }, 0.3)).toEqual([0.5, 0]);
  expect(await score({ clamp: [null, 0.5] }, 0.3)).toEqual([0.3, 1]);
});

test("two parts with a half each divide the prompts among them, always in the same way", async () => {
  const prompts = Array.from({ length: 200 }, (_, i) => `prompt ${i}`);
  const members = [one({ share: 0.5, label: "a" }), one({ share: 0.5, label: "b", weight: 10 })];
  const { parts = [] } = combination(members);
  const appliesTo = prompts.map((prompt) => parts.map((part) => part.appliesTo(prompt)));
  expect(appliesTo.every(([a, b]) => a !== b)).toBe(true);
  const share = appliesTo.filter(([a]) => a).length / prompts.length;
  // Standard deviation of the share: √(0.5 · 0.5 / 200) = 0.035.
  expect(Math.abs(share - 0.5)).toBeLessThan(0.12);

  const [first, second] = [
    prompts[appliesTo.findIndex(([a]) => a)] as string,
    prompts[appliesTo.findIndex(([a]) => !a)] as string,
  ];
  const { rewards } = await scoresOf(members, [0.5, 0.5], [first, second]);
  expect(rewards).toEqual([0.5, 5]);
});

test("a share wraps around the end", () => {
  const { parts = [] } = combination([one({ share: 0.8 }), one({ share: 0.5 })]);
  for (const prompt of Array.from({ length: 50 }, (_, i) => `p${i}`)) {
    const at = position(prompt);
    expect(parts.map((part) => part.appliesTo(prompt))).toEqual([at < 0.8, at >= 0.8 || at < 0.3]);
  }
});

test("a sum of rewards with weights and prompts has the gradient of finite differences", async () => {
  const root = (i: number) => `reward.${i}`;
  const clip = await tinyReward({ name: "clip", root: root(0) });
  const other = await tinyReward({ name: "clip", texts: ["a dog"], root: root(1) });
  const settings = partSettings.parse({ weight: 0.5 });
  const both = combination([
    { reward: clip, settings },
    { reward: other, settings },
    { reward: brightness("bright"), settings: partSettings.parse({ share: 0.5 }) },
  ]);
  expect(both.name).toBe("clip + clip-2 + bright");
  const { problems } = await checkReward(both);
  expect(problems).toEqual([]);
});

test("two rewards whose tensors have the same name are refused", () => {
  const weights = fromTensors(new Map([["reward.w", fromNumbers([1], [1])]]));
  const member = (name: string) => ({
    reward: defineReward({ name, weights, build: (images) => mean(images, [1, 2, 3]) }),
    settings: partSettings.parse({}),
  });
  expect(() => combination([member("a"), member("b")])).toThrow(
    inputError("reward-invalid", { tensor: "reward.w", rewards: ["a", "b"] }),
  );
});

test("in a recipe, a list or a mapping with combine is a sum, and a string in it is the name of a reward", () => {
  const list = rewardSettings.parse(["aesthetic", { name: "clip", weight: 2, clamp: [null, 0.3] }]);
  expect(list).toEqual(
    rewardSettings.parse({ combine: ["aesthetic", { name: "clip", weight: 2, clamp: [null, 0.3] }] }),
  );
  expect(rewardTitle(list)).toBe("aesthetic + clip");
  expect(rewardSettings.safeParse([{ name: "clip", wieght: 2 }]).success).toBe(false);
  expect(rewardSettings.safeParse([{ name: "clip", clamp: [1, 0] }]).success).toBe(false);
  expect(rewardSettings.safeParse([]).success).toBe(false);
  expect(rewardSettings.safeParse([["clip"]]).success).toBe(false);
});
