import { describe, expect, test } from "vitest";
import { inputError } from "../../test/errors.js";
import { tinySettings } from "../../test/tiny.js";
import { accumulationSteps, batchProblems, evaluationBatchSize, stepsPerEpoch } from "./batch.js";
import { settingsFrom } from "./load.js";

describe("without a recipe, the settings are AlignProp's own", async () => {
  const settings = await settingsFrom({});

  test("train 14 steps of 128 samples on 45 animals and evaluate on 6 others", () => {
    expect(settings.train.steps).toBe(14); // 7 epochs × 256 / 128
    expect(settings.batch).toEqual({ samples_per_epoch: 256, total: 128, per_device: 4 });
    expect([settings.prompts.train.length, settings.prompts.eval.length]).toEqual([45, 6]);
  });

  test("sample and optimize with the published numbers", () => {
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

describe("the arithmetic of batches", () => {
  test("accumulates total / (per device × devices) micro-batches", () => {
    const batch = { samples_per_epoch: 256, total: 128, per_device: 4 };
    expect(accumulationSteps(batch)).toBe(32);
    expect(accumulationSteps(batch, 4)).toBe(8);
    expect(stepsPerEpoch(batch)).toBe(2);
  });

  test("suggests the nearest numbers if a step is not a whole number of micro-batches", () => {
    // 100 / 7: the nearest multiple of 7 is 98, and the nearest divisor of 100 is 5.
    const error = inputError("settings-conflict", {
      settings: ["batch.total"],
      setting: "batch.total",
      with: "batch.per_device",
      found: 100,
      divisor: 7,
      suggestion: 98,
      per_device: 5,
    });
    expect(() => accumulationSteps({ samples_per_epoch: 200, total: 100, per_device: 7 })).toThrow(error);
  });

  test("suggests the nearest number if an epoch is not a whole number of steps", () => {
    const error = inputError("settings-conflict", {
      settings: ["batch.samples_per_epoch"],
      setting: "batch.samples_per_epoch",
      with: "batch.total",
      found: 100,
      divisor: 32,
      suggestion: 96,
    });
    expect(() => accumulationSteps({ samples_per_epoch: 100, total: 32, per_device: 4 })).toThrow(error);
  });

  test("suggests numbers that divide together", () => {
    const problems = batchProblems({ samples_per_epoch: 32, total: 100, per_device: 7 }, 1);
    expect(problems.map(({ facts }) => [facts.setting, facts.suggestion])).toEqual([
      ["batch.total", 98],
      ["batch.samples_per_epoch", 98],
    ]);
    expect(accumulationSteps({ samples_per_epoch: 98, total: 98, per_device: 7 })).toBe(14);
  });

  test("counts all devices", () => {
    const batch = { samples_per_epoch: 12, total: 12, per_device: 4 };
    expect(() => accumulationSteps(batch, 2)).toThrow(
      inputError("settings-conflict", {
        setting: "batch.total",
        found: 12,
        divisor: 8,
        devices: 2,
        suggestion: 16,
        per_device: 3,
      }),
    );
  });
});

describe("an evaluation within a run", () => {
  const batchOf = (batch: number, perDevice: number, seedsPerPrompt: number) =>
    evaluationBatchSize(
      tinySettings({
        batch: { samples_per_epoch: 8, total: 8, per_device: perDevice },
        evaluation: { batch, seeds_per_prompt: seedsPerPrompt },
      }),
    );

  test("generates no more images at once than it has", () => {
    expect(batchOf(16, 4, 3)).toBe(3); // one prompt
    expect(batchOf(2, 4, 3)).toBe(2);
  });

  test("shares the programs of training if its batch is as large", () => {
    expect(batchOf(4, 4, 1)).toBe(4);
  });
});
