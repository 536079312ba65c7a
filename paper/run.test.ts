import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { inputError } from "../test/errors.js";
import { folderOf, readMethod } from "./comparison.js";
import { METHODS, type Method, settingsOf } from "./methods.js";
import { readCurve, runTo } from "./run.js";

test("a run starts, resumes, and is left alone when it is done; a run with other settings is refused", async () => {
  const out = await mkdtemp(join(tmpdir(), "paper-"));
  const method: Method = {
    ...(METHODS.find(({ name }) => name === "k1") as Method),
    rates: [1e-3],
    steps: 2,
    seeds: [5],
  };
  const run = { method, rate: 1e-3, seed: 5 };
  const whole = await settingsOf(run);
  const settings = {
    ...whole,
    threads: 1,
    sampling: { ...whole.sampling, steps: 2 },
    prompts: { ...whole.prompts, eval: ["fox"] },
    batch: { samples_per_epoch: 2, total: 2, per_device: 2 },
    evaluation: { ...whole.evaluation, every: 1, seeds_per_prompt: 1, batch: 1 },
    checkpoint: { ...whole.checkpoint, every: 1 },
  };
  const folder = folderOf(out, run);
  const steps: number[] = [];
  const observer = (event: { kind: string; metrics?: { step: number } }) => {
    if (event.metrics) steps.push(event.metrics.step);
  };

  expect(await runTo(folder, settings, 1, { observer })).toBe(true);
  expect(await runTo(folder, settings, 1, { observer })).toBe(false);
  expect(await runTo(folder, settings, 2, { observer })).toBe(true);
  expect(steps).toEqual([1, 2]);

  const curve = await readCurve(folder, 1);
  // 2 denoising steps, K = 1, 2 samples per training step: 2 forward calls and 1 backward call per sample.
  expect(curve.map(({ update, queries, unet_calls }) => [update, queries, unet_calls])).toEqual([
    [0, 0, 0],
    [1, 2, 6],
    [2, 4, 12],
  ]);
  for (const { agreement } of curve) expect(Math.abs(agreement)).toBeLessThanOrEqual(1);
  const { mean, tuning } = await readMethod(out, method, 1);
  expect(tuning.chosen).toBe(1e-3);
  expect(mean.map(({ reward }) => reward)).toEqual(curve.map(({ reward }) => reward));

  const other = { ...settings, optimizer: { ...settings.optimizer, beta1: 0.5 } };
  await expect(runTo(folder, other, 2)).rejects.toThrow(
    inputError("run-mismatch", { path: folder, setting: "optimizer.beta1", found: "0.9", expected: "0.5" }),
  );

  // A run that was killed before its first checkpoint starts again.
  const empty = folderOf(out, { ...run, seed: 6 });
  await runTo(empty, { ...settings, seed: 6 }, 1);
  const metrics = await readFile(join(empty, "metrics.jsonl"), "utf8");
  await writeFile(join(empty, "metrics.jsonl"), "");
  await rm(join(empty, "checkpoints"), { recursive: true });
  expect(await runTo(empty, { ...settings, seed: 6 }, 1)).toBe(true);
  const timeless = (row: string) => ({ ...JSON.parse(row), seconds: 0, peak_rss_bytes: 0 });
  expect(timeless(await readFile(join(empty, "metrics.jsonl"), "utf8"))).toEqual(timeless(metrics));
});
