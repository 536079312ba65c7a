/** The compiled program, started as a shell starts it. */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { PROGRAM } from "../../test/command-line.js";
import { TINY_SD } from "../../test/tiny.js";

const scratch = await mkdtemp(join(tmpdir(), "alignprop-process-"));
afterAll(() => rm(scratch, { recursive: true }));

function start(...args: string[]): ChildProcess & { output: { out: string; err: string } } {
  const child = Object.assign(spawn(process.execPath, [PROGRAM, ...args], { cwd: scratch }), {
    output: { out: "", err: "" },
  });
  child.stdout?.on("data", (text) => {
    child.output.out += text;
  });
  child.stderr?.on("data", (text) => {
    child.output.err += text;
  });
  return child;
}

function ended(child: ChildProcess): Promise<number | null> {
  return new Promise((resolve) => child.on("close", resolve));
}

/** Waits until the program has printed this on stderr. */
async function said(child: ReturnType<typeof start>, pattern: RegExp): Promise<void> {
  while (!pattern.test(child.output.err)) {
    if (child.exitCode !== null) throw new Error(`ended early: ${child.output.err}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

describe("the compiled program", () => {
  test("ends with exit code 2, one message and no stack trace on bad input", async () => {
    const child = start("train", "--model", "nowhere");
    expect(await ended(child)).toBe(2);
    expect(child.output.out).toBe("");
    expect(child.output.err).toMatch(/^error: .*nowhere.*model_index\.json.*\n$/);
    expect(await readdir(scratch)).toEqual([]);
  });

  test("finishes its step, saves it and prints how to continue if it is interrupted", async () => {
    const tiny = [
      "sampling.steps=3",
      "estimator.truncation={ mode: fixed, k: 1 }",
      "batch={samples_per_epoch: 2, total: 2, per_device: 2}",
    ];
    const sets = [...tiny, "evaluation.every=100000", "checkpoint.every=100000"].flatMap((set) => ["--set", set]);
    const flags = ["--model", TINY_SD, "--reward", "compressibility", "--threads", "1", "--steps", "99999"];
    const child = start("train", ...flags, "--out", "run", ...sets);
    await said(child, /^step /m);
    child.kill("SIGINT");
    expect(await ended(child)).toBe(0);
    expect(child.output.err).toContain("Finishing this step and saving");
    const step = /Stopped after step (\d+) of 99999/.exec(child.output.out)?.[1] ?? "";
    expect(child.output.out).toContain("npx alignprop train --resume run\n");
    expect(await readdir(join(scratch, "run/checkpoints"))).toEqual([`step-${step.padStart(6, "0")}`]);
  });
});
