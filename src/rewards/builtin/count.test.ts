import { cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, test } from "vitest";
import { inputError } from "../../../test/errors.js";
import { tinyReward } from "../../../test/tiny.js";
import { input } from "../../ops/index.js";
import { checkReward } from "../check.js";
import { sizeWithin } from "../towers/detector.js";
import { numberIn } from "./count.js";

const scratch = await mkdtemp(join(tmpdir(), "alignprop-count-"));
afterAll(() => rm(scratch, { recursive: true }));

const DETECTOR = fileURLToPath(new URL("../../../test/goldens/reward-yolos-tiny", import.meta.url));

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

test("the target is the number in the prompt, or the one in the settings", async () => {
  const asked = await tinyReward({ name: "count", detector: DETECTOR, object: "cat" });
  expect([...(asked.feeds(["two cats", "a cat"]).reward_count?.data ?? [])]).toEqual([2, 1]);
  const fixed = await tinyReward({ name: "count", detector: DETECTOR, object: "cat", count: 4 });
  expect(fixed.feeds(["two cats"])).toEqual({});
  expect((await checkReward(asked)).problems).toEqual([]);
});

test("the embedded counting model has the gradient of finite differences", async () => {
  const { problems, rewards } = await checkReward(await tinyReward({ name: "count", count: 3 }));
  expect(problems).toEqual([]);
  for (const reward of rewards) expect(Math.abs(reward)).toBeLessThanOrEqual(2);
});

describe("the input of a detector", () => {
  test("has the given shorter side, unless the longer side would exceed its limit", () => {
    expect(sizeWithin(64, 64, { shortest: 512, longest: 1333 })).toEqual([512, 512]);
    expect(sizeWithin(100, 200, { shortest: 512, longest: 1333 })).toEqual([512, 1024]);
    expect(sizeWithin(100, 400, { shortest: 512, longest: 800 })).toEqual([200, 800]);
    // As in DetrImageProcessor: the shorter side is rounded (31.5 up), the longer one rounded down (40.95, 53.3).
    expect(sizeWithin(20, 26, { shortest: 31.5, longest: 56 })).toEqual([32, 40]);
    expect(sizeWithin(480, 800, { shortest: 32, longest: 1333 })).toEqual([32, 53]);
  });
});

describe("the reward count is refused", () => {
  test.each([
    [{ detector: DETECTOR }, inputError("reward-invalid", { setting: "reward.object", path: DETECTOR })],
    [
      { object: "fox" },
      inputError("settings-conflict", { setting: "reward.object", found: "fox", missing: "reward.detector" }),
    ],
    [
      { detector: DETECTOR, object: "catt" },
      inputError("reward-invalid", {
        setting: "reward.object",
        path: DETECTOR,
        found: "catt",
        suggestion: "cat",
        expected: ["cat", "dog"],
      }),
    ],
  ])("with the settings %j", async (settings, error) => {
    await expect(tinyReward({ name: "count", ...settings })).rejects.toThrow(error);
  });

  /** A copy of a golden's folder with changes in its config.json or another JSON file. */
  async function changed(golden: string, changes: object, file = "config.json"): Promise<string> {
    const folder = await mkdtemp(join(scratch, "detector-"));
    await cp(fileURLToPath(new URL(`../../../test/goldens/${golden}`, import.meta.url)), folder, { recursive: true });
    const json = JSON.parse(await readFile(join(folder, file), "utf8"));
    await writeFile(join(folder, file), JSON.stringify({ ...json, ...changes }));
    return folder;
  }

  test.each([
    ["reward-yolos", { model_type: "yolo" }, "model_type", '"yolo"', "yolos, detr"],
    ["reward-detr", { position_embedding_type: "learned" }, "position_embedding_type", '"learned"', "sine"],
    ["reward-detr", { encoder_attention_heads: 3 }, "encoder_attention_heads", "3", /d_model.*16/],
    ["reward-detr", { dilation: true }, "dilation", "true", "false"],
    ["reward-detr", { backbone_config: { model_type: "swin" } }, "backbone_config.model_type", '"swin"', /timm_back/],
    ["reward-detr", { backbone_config: null }, "backbone_config", "null", /object/],
    ["reward-detr-timm", { backbone: "resnet50d" }, "backbone", '"resnet50d"', /resnet18, .*resnet152/],
    [
      "reward-detr-timm",
      { backbone_kwargs: { out_indices: [1, 2, 3] } },
      "backbone_kwargs.out_indices",
      "[1,2,3]",
      /must end with 4/,
    ],
  ])("with a config.json of another model (%s, %j)", async (golden, changes, key, found, expected) => {
    const detector = await changed(golden, changes);
    await expect(tinyReward({ name: "count", detector, object: "cat" })).rejects.toThrow(
      inputError("config-invalid", {
        path: join(detector, "config.json"),
        keys: [key],
        found: [found],
        expected: [expect.stringMatching(expected)],
      }),
    );
  });

  test.each([
    [
      "reward-detr-timm",
      { num_queries: 6 },
      inputError("tensor-mismatch", {
        tensor: "reward.detector.model.query_position_embeddings.weight",
        found: [5, 16],
        expected: [6, 16],
      }),
    ],
    [
      "reward-detr",
      { use_timm_backbone: true, backbone_config: null },
      inputError("tensor-missing", {
        tensor: "reward.detector.model.backbone.conv_encoder.model.layer1.0.conv2.weight",
      }),
    ],
  ])("with weights of another model (%s, %j)", async (golden, changes, error) => {
    const opening = tinyReward({ name: "count", detector: await changed(golden, changes), object: "cat" });
    await expect(opening.then((reward) => reward.build(input([1, 3, 32, 32])))).rejects.toThrow(error);
  });

  test("with a preprocessor_config.json that asks for unsupported preprocessing", async () => {
    const detector = await changed("reward-detr", { pad_size: { height: 64, width: 64 } }, "preprocessor_config.json");
    const opening = tinyReward({ name: "count", detector, object: "cat" });
    await expect(opening).rejects.toThrow(
      inputError("config-invalid", {
        path: join(detector, "preprocessor_config.json"),
        keys: ["pad_size"],
        found: ['{"height":64,"width":64}'],
        expected: [expect.stringContaining("null")],
      }),
    );
  });
});
