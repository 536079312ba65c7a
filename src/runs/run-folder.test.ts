import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { parse } from "yaml";
import { inputError } from "../../test/errors.js";
import { plan } from "../../test/made-up-run.js";
import { settingsFrom } from "../config/load.js";
import type { SettingsInput } from "../config/settings.js";
import { fillFolder, writeFolderAtomic } from "../io/atomic-folder.js";
import { UNET_FILES } from "../pipeline/export.js";
import type { EvaluationResult } from "../scoring/evaluation.js";
import { float32 } from "../tensor/host.js";
import type { StepMetrics } from "../train/events.js";
import { safetensorsChunks } from "../weights/safetensors.js";
import { adapterPath, savedSteps } from "./record/checkpoints.js";
import { readMetrics } from "./record/metrics.js";
import { readSamples } from "./record/samples.js";
import { openAdapter, recipeOfAdapter } from "./record/tuned.js";
import { RunFolder } from "./run-folder.js";

const scratch = await mkdtemp(join(tmpdir(), "alignprop-runs-"));
afterAll(() => rm(scratch, { recursive: true }));

function metrics(step: number, evaluated?: number): StepMetrics {
  const row = {
    step,
    epoch: 0,
    samples: step * 4,
    loss: 1,
    reward_mean: 1,
    reward_std: 0,
    reward_queries: 4,
    unet_calls: 8,
    grad_norm: 1,
    seconds: 1,
  };
  const evaluation = evaluated === undefined ? {} : { eval_reward_mean: evaluated, eval_reward_std: 0 };
  return { ...row, peak_rss_bytes: 1, ...evaluation };
}

function evaluation(reward: number): EvaluationResult {
  const images = [{ width: 2, height: 1, pixels: new Uint8Array([255, 0, 0, 0, 0, 255]) }];
  return { prompts: ["a fox"], seeds: [7], rewards: [reward], images, mean: reward, std: 0 };
}

const state = new Map([["training_state.safetensors", new Uint8Array([1, 2, 3])]]);

async function start(name: string, changes: SettingsInput = {}): Promise<RunFolder> {
  const run = await RunFolder.plan(await settingsFrom({ out: join(scratch, name), ...changes }));
  await run.observe({ kind: "started", plan, step: 0 });
  return run;
}

/** The events of a step that evaluates, with this mean reward, and saves a checkpoint. */
async function step(run: RunFolder, number: number, reward: number): Promise<void> {
  await run.observe({ kind: "evaluated", step: number, result: evaluation(reward) });
  await run.observe({ kind: "stepped", metrics: metrics(number, reward) });
  await run.observe({ kind: "checkpointed", step: number, files: state });
}

describe("a run's folder", () => {
  test("is not created before training starts", async () => {
    const out = join(scratch, "late");
    await RunFolder.plan(await settingsFrom({ out }));
    await expect(readdir(out)).rejects.toThrow("ENOENT");
  });

  test("holds settings, a row per step, images with their rewards, checkpoints and a report", async () => {
    const run = await start("whole");
    await run.observe({ kind: "evaluated", step: 0, result: evaluation(1) });
    await step(run, 1, 2);
    await run.observe({ kind: "finished", result: { step: 1, steps: 1, interrupted: false, seconds: 1 } });

    expect((await readdir(run.path)).sort()).toEqual([
      "checkpoints",
      "config.yaml",
      "metrics.jsonl",
      "report.html",
      "samples",
    ]);
    expect(await readMetrics(run.path)).toEqual([metrics(1, 2)]);
    expect((await readdir(join(run.path, "samples/step-000001"))).sort()).toEqual(["000.png", "index.json"]);
    expect(await readSamples(run.path, 1)).toEqual([{ file: "000.png", prompt: "a fox", seed: 7, reward: 2 }]);
    expect([...(await readFile(join(run.path, "checkpoints/step-000001/training_state.safetensors")))]).toEqual([
      1, 2, 3,
    ]);
  });

  test("has settings that serve as a recipe for the same run", async () => {
    const run = await start("config");
    const text = await readFile(join(run.path, "config.yaml"), "utf8");
    expect(await settingsFrom(parse(text) as SettingsInput)).toEqual(run.settings);
  });

  test("keeps the last checkpoints and the best one", async () => {
    const run = await start("keep", { checkpoint: { every: 1, keep_last: 2, keep_best: true } });
    for (const [number, reward] of [5, 9, 6, 7, 8].entries()) await step(run, number + 1, reward);
    expect(await savedSteps(run.path)).toEqual([2, 4, 5]);
  });

  test("keeps only the last checkpoints with keep_best: false", async () => {
    const run = await start("keep-last", { checkpoint: { every: 1, keep_last: 1, keep_best: false } });
    for (const [number, reward] of [9, 6, 7].entries()) await step(run, number + 1, reward);
    expect(await savedSteps(run.path)).toEqual([3]);
  });

  test("gets the first free number if settings.out is null", async () => {
    const before = process.cwd();
    process.chdir(scratch);
    try {
      const runs = await Promise.all(
        [1, 2].map(async () => {
          const run = await RunFolder.plan(await settingsFrom({}, "twice"));
          await run.observe({ kind: "started", plan, step: 0 });
          return run.path;
        }),
      );
      expect(runs.sort()).toEqual([join("runs", "twice-1"), join("runs", "twice-2")]);
    } finally {
      process.chdir(before);
    }
  });
});

describe("an adapter in a run's folder", () => {
  test("leads to the recipe of its run, from the run, the checkpoint or the file", async () => {
    const run = await start("adapters");
    await step(run, 1, 5);
    const checkpoint = join(run.path, "checkpoints/step-000001");
    for (const path of [run.path, checkpoint, join(checkpoint, "training_state.safetensors")]) {
      expect(await recipeOfAdapter(path)).toBe(join(run.path, "config.yaml"));
    }
    expect(await recipeOfAdapter(join(run.path, "samples/step-000001"))).toBeUndefined();
  });
});

describe("a run as an adapter", () => {
  test("is the checkpoint with the best evaluation, not the last one", async () => {
    const run = await start("best");
    for (const [number, reward] of [5, 7, 6].entries()) await step(run, number + 1, reward);
    expect(await adapterPath(run.path)).toBe(join(run.path, "checkpoints/step-000002"));
    const last = join(run.path, "checkpoints/step-000003");
    expect(await adapterPath(last)).toBe(last);
  });

  test("is refused before its first checkpoint", async () => {
    const run = await start("young");
    await expect(adapterPath(run.path)).rejects.toThrow(inputError("run-incomplete", { path: run.path }));
  });
});

test("a run that trained the whole U-Net cannot be opened as an adapter", async () => {
  const run = await start("unet");
  const weights = Buffer.concat(safetensorsChunks(new Map([["conv_in.bias", float32(new Float32Array(1), [1])]])));
  const files = new Map([
    [UNET_FILES.config, Buffer.from("{}")],
    [UNET_FILES.weights, weights],
  ]);
  await run.observe({ kind: "checkpointed", step: 1, files });
  const facts = { path: run.path, found: "unet", expected: "adapter" };
  await expect(openAdapter(run.path, "mix blends adapters")).rejects.toThrow(inputError("adapter-unsupported", facts));
});

describe("a run with an early-stop rule", () => {
  const monitored: SettingsInput = {
    checkpoint: { every: 1, keep_last: 1 },
    evaluation: { held_out: "clip" },
    early_stop: { patience: 2 },
    train: { steps: 9 },
  };

  /** The events of a step whose reward keeps rising, with this held-out reward. */
  async function held(run: RunFolder, number: number, heldOut: number): Promise<void> {
    const result = { ...evaluation(number), heldOut: { rewards: [heldOut], mean: heldOut, std: 0 } };
    await run.observe({ kind: "evaluated", step: number, result });
    const row = { ...metrics(number, number), eval_held_out_mean: heldOut, eval_held_out_std: 0 };
    await run.observe({ kind: "stepped", metrics: row });
    await run.observe({ kind: "checkpointed", step: number, files: state });
  }

  test("keeps the checkpoint that is best by the rule, resolves to it, and reports it", async () => {
    const run = await start("ruled", monitored);
    for (const [number, heldOut] of [0.5, 0.9, 0.7].entries()) await held(run, number + 1, heldOut);
    expect(await savedSteps(run.path)).toEqual([2, 3]);
    expect(await adapterPath(run.path)).toBe(join(run.path, "checkpoints/step-000002"));
    expect(await readSamples(run.path, 2)).toEqual([
      { file: "000.png", prompt: "a fox", seed: 7, reward: 2, held_out: 0.9 },
    ]);
    const report = await readFile(run.report, "utf8");
    expect(report).toContain(
      "Rule: stop when the held-out clip reward has not risen above its best in 2 evaluations in a row.",
    );
    expect(report).toContain("The best checkpoint is step 2.");
  });

  test("is not resumed after the rule ended it, unless the rule is changed", async () => {
    const run = await start("ended", monitored);
    for (const [number, heldOut] of [0.9, 0.8, 0.7].entries()) await held(run, number + 1, heldOut);
    const suggestion = "--set early_stop=null";
    const facts = { path: run.path, step: 3, setting: "early_stop", reason: "no improvement", suggestion };
    const refused = expect(RunFolder.resume(run.path)).rejects;
    await refused.toThrow(inputError("run-finished", facts));
    await expect(RunFolder.resume(run.path)).rejects.toThrow(
      "the held-out clip reward has not risen above the 0.900 of step 1 in 2 evaluations",
    );
    const override = { path: ["early_stop"], value: null, origin: "--set early_stop=null" };
    expect((await RunFolder.resume(run.path, [override])).settings.early_stop).toBeNull();
  });
});

describe("an output folder is refused", () => {
  test("if it is not empty", async () => {
    await mkdir(join(scratch, "full"));
    await writeFile(join(scratch, "full/note.txt"), "");
    const settings = await settingsFrom({ out: join(scratch, "full") });
    const facts = { path: join(scratch, "full"), entries: 1, example: "note.txt", suggestion: undefined };
    await expect(RunFolder.plan(settings)).rejects.toThrow(inputError("output-exists", facts));
  });

  test("if it holds a run, with the option that resumes it", async () => {
    const run = await start("taken");
    await expect(RunFolder.plan(run.settings)).rejects.toThrow(
      inputError("output-exists", { path: run.path, suggestion: `--resume ${run.path}` }),
    );
  });

  test("if it or a parent of it is a file", async () => {
    await writeFile(join(scratch, "file"), "");
    const file = join(scratch, "file");
    await expect(RunFolder.plan(await settingsFrom({ out: file }))).rejects.toThrow(
      inputError("output-unwritable", { path: file, found: "file" }),
    );
    await expect(RunFolder.plan(await settingsFrom({ out: join(file, "run") }))).rejects.toThrow(
      inputError("output-unwritable", { path: join(file, "run"), folder: file, found: "file" }),
    );
  });
});

describe("resuming", () => {
  test("continues from the last checkpoint and deletes the steps after it", async () => {
    const run = await start("resumed");
    await step(run, 1, 5);
    await run.observe({ kind: "evaluated", step: 2, result: evaluation(6) });
    await run.observe({ kind: "stepped", metrics: metrics(2, 6) });
    // The process was killed while it was writing.
    await writeFile(join(run.path, "metrics.jsonl"), '{"step": 3, "lo', { flag: "a" });
    await mkdir(join(run.path, "checkpoints/.step-000002.x.tmp"));
    await writeFile(join(run.path, ".report.html.x.tmp"), "");

    const again = await RunFolder.resume(run.path);
    expect(again.resumeFrom).toBe(join(run.path, "checkpoints/step-000001"));
    expect((await readMetrics(run.path)).length).toBe(2);
    await again.observe({ kind: "started", plan, step: 1 });
    expect(await readFile(join(run.path, "metrics.jsonl"), "utf8")).toBe(`${JSON.stringify(metrics(1, 5))}\n`);
    expect(await readdir(join(run.path, "samples"))).toEqual(["step-000001"]);
    expect(await readdir(join(run.path, "checkpoints"))).toEqual(["step-000001"]);
    expect(await readdir(run.path)).not.toContain(".report.html.x.tmp");
    await step(again, 2, 4);
    expect((await readMetrics(run.path)).map((row) => row.eval_reward_mean)).toEqual([5, 4]);
  });

  test("applies overrides to the settings of the run", async () => {
    const run = await start("longer");
    await step(run, 1, 5);
    const overrides = [{ path: ["train", "steps"], value: 99, origin: "--steps 99" }];
    expect((await RunFolder.resume(run.path, overrides)).settings).toEqual({ ...run.settings, train: { steps: 99 } });
  });

  test("is refused without a run, without a checkpoint, and after the last step", async () => {
    await expect(RunFolder.resume(scratch)).rejects.toThrow(
      inputError("run-not-found", { path: scratch, expected: "config.yaml" }),
    );
    const fresh = await start("fresh");
    await expect(RunFolder.resume(fresh.path)).rejects.toThrow(inputError("run-incomplete", { path: fresh.path }));
    const done = await start("done", { train: { steps: 1 } });
    await step(done, 1, 5);
    await expect(RunFolder.resume(done.path)).rejects.toThrow(
      inputError("run-finished", { path: done.path, step: 1, steps: 1, suggestion: "--steps 2" }),
    );
  });
});

describe("a folder that is written atomically", () => {
  test("keeps its old content and leaves no other files if filling it fails", async () => {
    const path = join(scratch, "atomic/step-000001");
    await writeFolderAtomic(path, (folder) => writeFile(join(folder, "a"), "old"));
    const failing = writeFolderAtomic(path, async (folder) => {
      await writeFile(join(folder, "a"), "new");
      throw new Error("disk full");
    });
    await expect(failing).rejects.toThrow("disk full");
    expect(await readdir(join(scratch, "atomic"))).toEqual(["step-000001"]);
    expect(await readFile(join(path, "a"), "utf8")).toBe("old");
  });

  test("replaces the existing folder", async () => {
    const path = join(scratch, "again/step-000001");
    for (const name of ["a", "b"]) await writeFolderAtomic(path, (folder) => writeFile(join(folder, name), ""));
    expect(await readdir(path)).toEqual(["b"]);
  });
});

describe("a folder of the user", () => {
  test("may be the working directory", async () => {
    const before = process.cwd();
    const path = await mkdtemp(join(scratch, "here-"));
    process.chdir(path);
    try {
      await fillFolder(".", (folder) => writeFile(join(folder, "a"), "new"));
    } finally {
      process.chdir(before);
    }
    expect(await readdir(path)).toEqual(["a"]);
  });

  test("is left as it was if filling it fails", async () => {
    const failing = (path: string) =>
      fillFolder(path, async (folder) => {
        await writeFile(join(folder, "a"), "half");
        throw new Error("disk full");
      });
    const empty = await mkdtemp(join(scratch, "empty-"));
    await expect(failing(empty)).rejects.toThrow("disk full");
    expect(await readdir(empty)).toEqual([]);
    await expect(failing(join(empty, "new/er"))).rejects.toThrow("disk full");
    expect(await readdir(empty)).toEqual([]);
  });
});
