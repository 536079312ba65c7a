import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { inputError } from "../../test/errors.js";
import { tinySettings } from "../../test/tiny.js";
import { alignprop } from "../estimators/alignprop.js";
import type { Estimator } from "../estimators/index.js";
import { defineReward, ops } from "../rewards/index.js";
import type { EvaluationResult } from "../scoring/index.js";
import { plan } from "../train/index.js";
import { loadAdapter, loadRun } from "./load-run.js";
import { resumeRun, type TrainProgress, trainRun } from "./train-run.js";

const scratch = await mkdtemp(join(tmpdir(), "alignprop-train-run-"));
afterAll(() => rm(scratch, { recursive: true }));

const channel = (name: string, index: number) =>
  defineReward({ name, build: (images) => ops.mean(ops.slice(images, 1, [index, index + 1]), [1, 2, 3]) });
const red = channel("red", 0);

/** The built-in estimator under another name. */
const mine = {
  ...(await alignprop.create({ name: "alignprop", truncation: { mode: "fixed", k: 1 } })),
  name: "mine",
} as Estimator;

const out = join(scratch, "straight");
const progress: TrainProgress[] = [];
const evaluated: EvaluationResult[] = [];
const straight = await trainRun(tinySettings(), {
  out,
  reward: red,
  estimator: mine,
  onProgress: (each) => void progress.push(each),
  observer: (event) => {
    if (event.kind === "evaluated") evaluated.push(event.result);
  },
});

describe("trainRun", () => {
  test("writes the run folder and returns what is in it", async () => {
    expect((await readdir(out)).sort()).toEqual([
      "checkpoints",
      "config.yaml",
      "metrics.jsonl",
      "report.html",
      "samples",
    ]);
    expect(straight).toMatchObject({ folder: out, step: 4, steps: 4, interrupted: false });
    expect(straight.last).toMatchObject({ step: 4, folder: join(out, "checkpoints/step-000004") });
    const { step, steps, interrupted, stopped, seconds, ...saved } = straight;
    expect(await loadRun(out)).toEqual(saved);
  });

  test("reports each step, with the reward and the time left", () => {
    expect(progress.map(({ step, steps }) => [step, steps])).toEqual([1, 2, 3, 4].map((step) => [step, 4]));
    expect(progress.map(({ reward }) => reward)).toEqual(straight.metrics.map(({ reward_mean }) => reward_mean));
    expect(progress.map(({ evaluationReward }) => evaluationReward !== undefined)).toEqual([false, true, false, true]);
    expect(progress[0]?.secondsLeft).toBeGreaterThan(0);
    expect(progress.at(-1)?.secondsLeft).toBe(0);
  });

  test("returns the very images and rewards that training evaluated", () => {
    expect(straight.base).toEqual(evaluated[0]);
    expect(straight.last?.evaluation).toEqual(evaluated[2]);
    expect(straight.evaluation).toEqual(evaluated[(straight.best?.step as number) / 2]);
  });

  test("returns the adapter of the best checkpoint, which loadAdapter finds by the run folder", async () => {
    expect(straight.adapter?.size).toBeGreaterThan(0);
    expect(await loadAdapter(out)).toEqual(straight.adapter);
  });

  test("records the reward and the estimator in the config and the report", async () => {
    const { settings } = straight;
    expect(settings.reward).toEqual({ name: "code", title: "red" });
    expect(settings.estimator).toEqual({ name: "code", title: "mine" });
    expect(await readFile(straight.report, "utf8")).toContain("red reward");
  });

  test("finishes and saves the current step when its signal is aborted, and resumes to the same result", async () => {
    const folder = join(scratch, "interrupted");
    const controller = new AbortController();
    const stopped = await trainRun(tinySettings(), {
      out: folder,
      reward: red,
      estimator: mine,
      signal: controller.signal,
      onProgress: ({ step }) => {
        if (step === 3) controller.abort();
      },
    });
    expect(stopped).toMatchObject({ step: 3, steps: 4, interrupted: true, last: { step: 3 } });
    const resumed = await resumeRun(folder, { reward: red, estimator: mine });
    expect(resumed).toMatchObject({ step: 4, interrupted: false });
    expect(resumed.last?.adapter).toEqual(straight.last?.adapter);
    expect(resumed.last?.evaluation).toEqual(straight.last?.evaluation);
  });

  test("refuses a folder that has files already", async () => {
    await expect(trainRun(tinySettings(), { out })).rejects.toThrow(out);
  });
});

describe("a run with parts made in code", () => {
  test("does not resume with another reward or without it", async () => {
    const more = { steps: 6, estimator: mine };
    await expect(resumeRun(out, { ...more, reward: channel("green", 1) })).rejects.toThrow(
      inputError("run-mismatch", { settings: ["reward.title"] }),
    );
    await expect(resumeRun(out, more)).rejects.toThrow(
      inputError("reward-invalid", { setting: "reward", reward: "red" }),
    );
  });

  test("does not resume with another estimator or without it", async () => {
    const more = { steps: 6, reward: red };
    await expect(resumeRun(out, { ...more, estimator: { ...mine, name: "other" } })).rejects.toThrow(
      inputError("run-mismatch", { settings: ["estimator.title"] }),
    );
    await expect(resumeRun(out, more)).rejects.toThrow(
      inputError("estimator-invalid", { setting: "estimator", estimator: "mine" }),
    );
  });

  test("is counted by a plan", async () => {
    const counted = await plan(tinySettings(), { reward: red, estimator: mine, calibrate: false });
    // Two micro-batches with three denoising steps each, of which one is differentiated.
    expect(counted).toMatchObject({ reward: "red", unetForwardCallsPerStep: 6, unetBackwardCallsPerStep: 2 });
  });
});

test("loadRun refuses a folder that is not a run folder", async () => {
  await expect(loadRun(scratch)).rejects.toThrow(inputError("run-not-found", { path: scratch }));
});
