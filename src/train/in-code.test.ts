import { describe, expect, test } from "vitest";
import { tinySettings } from "../../test/tiny.js";
import { settingsFrom } from "../config/index.js";
import type { DirectEstimator } from "../estimators/index.js";
import { defineReward, ops } from "../rewards/index.js";
import { withLossInCode, withPartsInCode } from "./in-code.js";

const red = defineReward({ name: "red", build: (images) => ops.mean(ops.slice(images, 1, [0, 1]), [1, 2, 3]) });
const still: DirectEstimator = {
  kind: "direct",
  name: "still",
  usesRewardGradient: false,
  mask: (steps) => new Array(steps).fill(false),
  needsDx: () => false,
  addGradient: async () => {},
};

describe("settings of a run with parts made in code", () => {
  test("name the reward and the estimator, and are valid settings of a recipe", async () => {
    const settings = withPartsInCode(tinySettings(), { reward: red, estimator: still });
    expect(settings.reward).toEqual({ name: "code", title: "red" });
    expect(settings.estimator).toEqual({ name: "code", title: "still" });
    expect(await settingsFrom(settings)).toMatchObject({ reward: settings.reward, estimator: settings.estimator });
  });

  test("stay as they are without such parts", () => {
    expect(withPartsInCode(tinySettings(), {})).toEqual(tinySettings());
  });

  test("maximize the reward instead of aiming at the target of the reward that it replaces", async () => {
    const aesthetic = await settingsFrom({ reward: "aesthetic" });
    expect(aesthetic.loss).toMatchObject({ form: "target", target: 10 });
    expect(withLossInCode(aesthetic, { reward: red }).loss).toEqual({ form: "maximize", target: 0, scale: 0.01 });
    expect(withLossInCode(aesthetic, {}).loss).toEqual(aesthetic.loss);
  });

  test("keep a loss of their own", async () => {
    const chosen = await settingsFrom({ reward: "aesthetic", loss: { target: 1 } });
    expect(withLossInCode(chosen, { reward: red }).loss).toEqual(chosen.loss);
  });
});
