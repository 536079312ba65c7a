import { describe, expect, test } from "vitest";
import { tinySettings } from "../../test/tiny.js";
import { accumulationSteps, evaluationBatchSize, stepsPerEpoch } from "./batch.js";
import { settingsFrom } from "./load.js";

describe("without a recipe, the settings are AlignProp's own", async () => {
  const settings = await settingsFrom({});

  test("train 14 updates of 128 pictures on 45 animals and evaluate on 6 others", () => {
    expect(settings.train.steps).toBe(14); // 7 epochs × 256 / 128
    expect(settings.batch).toEqual({ samples_per_epoch: 256, total: 128, per_device: 4 });
    expect([settings.prompts.train.length, settings.prompts.eval.length]).toEqual([45, 6]);
  });

  test("sample and optimise with the published numbers", () => {
    expect(settings.sampling).toMatchObject({ steps: 50, eta: 0, guidance_scale: 7.5 });
    expect(settings.loss).toEqual({ form: "target", target: 10, scale: 0.01 });
    expect(settings.lora).toEqual({ start: null, rank: 4, alpha: null, targets: ["attention"] });
    expect(settings.estimator).toEqual({ name: "alignprop", truncation: { mode: "per-step", low: 0, high: null } });
    expect(settings.optimizer).toEqual({
      learning_rate: 1e-3,
      beta1: 0.9,
      beta2: 0.999,
      epsilon: 1e-8,
      weight_decay: 0.1,
      max_grad_norm: 5,
    });
  });
});

describe("the batch's bookkeeping", () => {
  test("accumulates total / (per device × devices) micro-batches", () => {
    const batch = { samples_per_epoch: 256, total: 128, per_device: 4 };
    expect(accumulationSteps(batch)).toBe(32);
    expect(accumulationSteps(batch, 4)).toBe(8);
    expect(stepsPerEpoch(batch)).toBe(2);
  });

  test("names the nearest numbers where an update is no whole number of micro-batches", () => {
    expect(() => accumulationSteps({ samples_per_epoch: 200, total: 100, per_device: 7 })).toThrow(
      "batch.total 100 is not a multiple of 7 (batch.per_device); try batch.total 98 or batch.per_device 5",
    );
  });

  test("names the nearest number where an epoch is no whole number of updates", () => {
    expect(() => accumulationSteps({ samples_per_epoch: 100, total: 32, per_device: 4 })).toThrow(
      "batch.samples_per_epoch 100 is not a multiple of batch.total 32; try batch.samples_per_epoch 96",
    );
  });

  test("proposes numbers that then divide", () => {
    expect(() => accumulationSteps({ samples_per_epoch: 32, total: 100, per_device: 7 })).toThrow(
      "try batch.samples_per_epoch 98 with batch.total 98",
    );
    expect(accumulationSteps({ samples_per_epoch: 98, total: 98, per_device: 7 })).toBe(14);
  });

  test("counts all devices", () => {
    expect(() => accumulationSteps({ samples_per_epoch: 12, total: 12, per_device: 4 }, 2)).toThrow(
      "batch.total 12 is not a multiple of 8 (batch.per_device x 2 devices); try batch.total 16 or batch.per_device 3",
    );
  });
});

describe("an evaluation within a run", () => {
  const sampledAtOnce = (batch: number, perDevice: number, seedsPerPrompt: number) =>
    evaluationBatchSize(
      tinySettings({
        batch: { samples_per_epoch: 8, total: 8, per_device: perDevice },
        evaluation: { batch, seeds_per_prompt: seedsPerPrompt },
      }),
    );

  test("samples no more pictures at once than it has", () => {
    expect(sampledAtOnce(16, 4, 3)).toBe(3); // one prompt
    expect(sampledAtOnce(2, 4, 3)).toBe(2);
  });

  test("shares training's programs where its batch is as large", () => {
    expect(sampledAtOnce(4, 4, 1)).toBe(4);
  });
});
