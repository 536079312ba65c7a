/** Training with the U-Net in float16, on the CPU: slow, but it rounds as a GPU does and runs everywhere. */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import type { Settings, SettingsInput } from "../src/config/settings.js";
import type { LossScale } from "../src/engine/loss-scale.js";
import { STATE_FILE } from "../src/train/checkpoint.js";
import type { TrainEvent } from "../src/train/events.js";
import { train } from "../src/train/trainer.js";
import { openSafetensors, safetensorsChunks } from "../src/weights/safetensors.js";
import { readTensor, type StoredTensor } from "../src/weights/source.js";
import { inputError } from "./errors.js";
import { TINY_REWARD, tinySettings } from "./tiny.js";
import { distance, roundingTolerance } from "./tolerance.js";

const scratch = await mkdtemp(join(tmpdir(), "alignprop-half-"));
afterAll(() => rm(scratch, { recursive: true }));

/**
 * Multiplies the adapter's gradient by alpha / rank = 8: at a loss scale of 2^15 it overflows with a margin of eight or
 * more. Without that factor some gradients overflow and some do not, and which ones depends on rounding.
 */
const ALPHA = 16;

const float16Settings = (changes: SettingsInput & { steps?: number } = {}) =>
  tinySettings({ precision: "float16", lora: { rank: 2, alpha: ALPHA }, ...changes });

/** A run, its checkpoints written below `folders` by their steps. */
async function record(settings: Settings, resume?: string) {
  const events: TrainEvent[] = [];
  const folders = new Map<number, string>();
  await train(
    settings,
    async (event) => {
      events.push(event);
      if (event.kind !== "checkpointed") return;
      const folder = await mkdtemp(join(scratch, "checkpoint-"));
      const state = event.files.get(STATE_FILE);
      await writeFile(join(folder, STATE_FILE), state instanceof Uint8Array ? state : Buffer.concat(state ?? []));
      folders.set(event.step, folder);
    },
    { resume },
  );
  const steps = events.flatMap((event) => {
    if (event.kind !== "stepped") return [];
    const { seconds: _, peak_rss_bytes: __, ...row } = event.metrics;
    return [row];
  });
  const evaluations = events.flatMap((event) => (event.kind === "evaluated" ? [event.result.mean] : []));
  return { events, folders, steps, evaluations };
}

async function stateOf(folder: string | undefined) {
  const file = await openSafetensors(join(folder ?? "", STATE_FILE));
  const tensors = await Promise.all(
    [...file.names()].map(async (name) => [name, await readTensor(file.get(name) as StoredTensor)] as const),
  );
  return { metadata: file.metadata, state: JSON.parse(file.metadata.state ?? ""), tensors: new Map(tensors) };
}

/** A copy of the checkpoint with another loss scale. */
async function withScale(folder: string | undefined, lossScale: LossScale): Promise<string> {
  const { metadata, state, tensors } = await stateOf(folder);
  const changed = await mkdtemp(join(scratch, "scaled-"));
  const chunks = safetensorsChunks(tensors, { ...metadata, state: JSON.stringify({ ...state, lossScale }) });
  await writeFile(join(changed, STATE_FILE), Buffer.concat(chunks));
  return changed;
}

const uninterrupted = await record(float16Settings());

/** A run in each precision from the same weights, with the gradient of its first step: the first moment of AdamW. */
async function inBothPrecisions(settings: SettingsInput & { steps: number }) {
  // A smooth reward. The gradient of `compressibility` jumps where a coefficient of the cosine transform changes its sign,
  // so rounding the images changes its norm by up to 25 %, however exact the U-Net's own gradient is.
  const reward = { name: "aesthetic", clip: join(TINY_REWARD, "clip"), head: join(TINY_REWARD, "aesthetic") };
  const recordIn = async (precision: Settings["precision"]) => {
    const run = await record(tinySettings({ reward, precision, checkpoint: { every: 1 }, ...settings }));
    const { tensors } = await stateOf(run.folders.get(1));
    return { ...run, gradient: tensors.get("first_moment")?.data as Float32Array };
  };
  return [await recordIn("float32"), await recordIn("float16")] as const;
}

/** The largest differences found were 5.7 % of the gradient, 1.6 % of its norm and 0.08 % of the loss. */
function expectSameFirstStep([single, half]: Awaited<ReturnType<typeof inBothPrecisions>>) {
  expect(distance(half.gradient, single.gradient)).toBeLessThan(roundingTolerance("float16", 120));
  const ratio = (name: "grad_norm" | "loss") => (half.steps[0]?.[name] as number) / (single.steps[0]?.[name] as number);
  expect(Math.abs(ratio("grad_norm") - 1)).toBeLessThan(roundingTolerance("float16", 35));
  expect(Math.abs(ratio("loss") - 1)).toBeLessThan(roundingTolerance("float16", 2));
}

describe("training in float16", () => {
  test("gives an adapter float32's gradient through the whole chain, and raises the reward on held-out prompts", async () => {
    const runs = await inBothPrecisions({
      estimator: { truncation: { mode: "fixed", k: null } },
      optimizer: { learning_rate: 1e-2 },
      evaluation: { every: 8, batch: 8, seeds_per_prompt: 8 },
      steps: 8,
    });
    expectSameFirstStep(runs);
    for (const { evaluations } of runs) {
      const [before, after] = evaluations as [number, number];
      expect(after - before).toBeGreaterThan(0.05); // 0.27 in float32, 0.28 to 0.32 in float16
    }
  });

  test("gives every weight of the U-Net float32's gradient", async () => {
    expectSameFirstStep(await inBothPrecisions({ trainable: "unet", steps: 1 }));
  });

  test("reports the precision and the loss scale, warns that the CPU gains nothing, and saves no residuals", () => {
    const [started] = uninterrupted.events;
    expect(started).toMatchObject({ kind: "started", plan: { precision: "float16", memory: { maxSavedCalls: 0 } } });
    expect(uninterrupted.events).toContainEqual({
      kind: "warned",
      message: expect.stringContaining("no speed on the CPU"),
    });
    expect(uninterrupted.steps.map(({ loss_scale, skipped }) => [loss_scale, skipped])).toEqual(
      new Array(4).fill([256, undefined]),
    );
  });

  test("keeps weights and moments in float32", async () => {
    const { tensors } = await stateOf(uninterrupted.folders.get(4));
    for (const { dtype } of tensors.values()) expect(dtype).toBe("float32");
    const weights = tensors.get("weights")?.data as Float32Array;
    // A float16 has 10 bits after the leading one.
    const finer = weights.filter((value) => (new Uint32Array(Float32Array.of(value).buffer)[0] as number) & 0x1fff);
    expect(finer.length).toBeGreaterThan(weights.length / 2);
  });

  test("resumes after 2 steps as if it had never stopped", async () => {
    const first = await record(float16Settings({ steps: 2 }));
    const resumed = await record(float16Settings(), first.folders.get(2));
    expect(resumed.steps).toEqual(uninterrupted.steps.slice(2));
    expect(await stateOf(resumed.folders.get(4))).toEqual(await stateOf(uninterrupted.folders.get(4)));
  });
});

describe("a gradient that overflows float16", async () => {
  const tooLarge = (skipped: number) => withScale(uninterrupted.folders.get(2), { scale: 2 ** 15, good: 7, skipped });
  const overflowing = await record(float16Settings({ checkpoint: { every: 1 }, steps: 10 }), await tooLarge(0));
  const wasSkipped = overflowing.steps.map((row) => row.skipped === true);
  /** Steps skipped before the first gradient that fits. */
  const skipped = wasSkipped.indexOf(false);

  test("halves the scale and is skipped, until one fits", () => {
    expect(skipped).toBeGreaterThan(0);
    for (const [i, { step, loss_scale, skipped: flag, grad_norm, reward_mean }] of overflowing.steps.entries()) {
      expect([step, flag]).toEqual([3 + i, wasSkipped[i] ? true : undefined]);
      expect(loss_scale).toBe(2 ** (15 - wasSkipped.slice(0, i).filter(Boolean).length));
      if (flag) expect(grad_norm).toBeNull();
      else expect(grad_norm).toBeGreaterThan(0);
      // Its images were sampled and scored all the same.
      expect(reward_mean).toBeLessThan(0);
    }
  });

  test("leaves weights and optimizer as they were", async () => {
    const before = await stateOf(uninterrupted.folders.get(2));
    const after = await stateOf(overflowing.folders.get(2 + skipped));
    expect(after.tensors).toEqual(before.tensors);
    expect([before.state.optimizerStep, after.state.optimizerStep]).toEqual([2, 2]);
    expect(after.state).toMatchObject({
      step: 2 + skipped,
      lossScale: { scale: 2 ** (15 - skipped), good: 0, skipped },
    });
    const last = await stateOf(overflowing.folders.get(10));
    expect(last.state).toMatchObject({
      step: 10,
      optimizerStep: 10 - wasSkipped.filter(Boolean).length,
      lossScale: {
        good: wasSkipped.length - 1 - wasSkipped.lastIndexOf(true),
        skipped: wasSkipped.length - 1 - wasSkipped.lastIndexOf(false),
      },
    });
    expect(last.tensors).not.toEqual(before.tensors);
  });

  test("ends the run if it is the tenth in a row", async () => {
    await expect(record(float16Settings(), await tooLarge(9))).rejects.toThrow(
      inputError("not-finite", { step: 3, skipped: 10, lossScale: 32768 }),
    );
  });

  test("is ignored by a run that goes on in float32", async () => {
    const { steps } = await record(float16Settings({ precision: "float32" }), await tooLarge(9));
    expect(steps.map(({ step, loss_scale, skipped }) => [step, loss_scale, skipped])).toEqual([
      [3, undefined, undefined],
      [4, undefined, undefined],
    ]);
  });
});
