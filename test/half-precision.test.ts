/** Training with the U-Net in float16. On the CPU it is slow but rounds in the same way, so these tests run on any machine. */
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
import { tinySettings } from "./tiny.js";

const scratch = await mkdtemp(join(tmpdir(), "alignprop-half-"));
afterAll(() => rm(scratch, { recursive: true }));

const float16Settings = (changes: SettingsInput & { steps?: number } = {}) =>
  tinySettings({ precision: "float16", ...changes });

/** Trains, and writes the checkpoints into `folders`, by step. */
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

describe("training in float16", () => {
  test("raises the reward on held-out prompts as float32 does", async () => {
    const settings = (precision: Settings["precision"]) =>
      tinySettings({
        precision,
        estimator: { truncation: { mode: "fixed", k: null } },
        optimizer: { learning_rate: 1e-2 },
        evaluation: { every: 8, batch: 8, seeds_per_prompt: 8 },
        steps: 8,
      });
    const [float32, float16] = [await record(settings("float32")), await record(settings("float16"))];
    const gain = ({ evaluations: [before, after] }: typeof float32) => (after as number) - (before as number);
    expect(gain(float32)).toBeGreaterThan(0.02);
    expect(gain(float16)).toBeGreaterThan(0.02);
    // The first step starts from the same weights, so the gradients differ only by the rounding of float16.
    const norms = [float32, float16].map(({ steps }) => steps[0]?.grad_norm as number) as [number, number];
    expect(Math.abs(norms[1] / norms[0] - 1)).toBeLessThan(0.02);
    expect(float16.steps[0]?.loss).toBeCloseTo(float32.steps[0]?.loss as number, 3);
  });

  test("reports its precision and loss scale, warns that it is not faster on the CPU, and saves no residuals", () => {
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

  test("stores weights and moments in float32, with more precision than float16", async () => {
    const { tensors } = await stateOf(uninterrupted.folders.get(4));
    for (const { dtype } of tensors.values()) expect(dtype).toBe("float32");
    const weights = tensors.get("weights")?.data as Float32Array;
    // Float16 has 10 explicit mantissa bits, float32 has 13 more.
    const finer = weights.filter((value) => (new Uint32Array(Float32Array.of(value).buffer)[0] as number) & 0x1fff);
    expect(finer.length).toBeGreaterThan(weights.length / 2);
  });

  test("resumes after 2 steps as if it had never stopped", async () => {
    const first = await record(float16Settings({ steps: 2 }));
    const resumed = await record(float16Settings(), first.folders.get(2));
    expect(resumed.steps).toEqual(uninterrupted.steps.slice(2));
    expect(await stateOf(resumed.folders.get(4))).toEqual(await stateOf(uninterrupted.folders.get(4)));
  });

  test("trains the whole U-Net as well, with the gradient of float32", async () => {
    const settings = { trainable: "unet", steps: 1 } as const;
    const [float32, float16] = [await record(tinySettings(settings)), await record(float16Settings(settings))];
    const norms = [float32, float16].map(({ steps }) => steps[0]?.grad_norm as number) as [number, number];
    expect(Math.abs(norms[1] / norms[0] - 1)).toBeLessThan(0.02);
  });
});

describe("a gradient that overflows float16", async () => {
  const tooLarge = (skipped: number) => withScale(uninterrupted.folders.get(2), { scale: 2 ** 15, good: 7, skipped });
  const overflowing = await record(float16Settings({ checkpoint: { every: 1 }, steps: 8 }), await tooLarge(0));
  const scales = overflowing.steps.map(({ loss_scale }) => loss_scale);
  const skipped = overflowing.steps.filter((row) => row.skipped).length;

  test("is skipped and halves the loss scale, until one fits", () => {
    expect(skipped).toBeGreaterThan(0);
    expect(skipped).toBeLessThan(overflowing.steps.length);
    expect(scales).toEqual(scales.map((_, i) => 2 ** (15 - Math.min(i, skipped))));
    for (const [i, { step, skipped: wasSkipped, grad_norm, reward_mean }] of overflowing.steps.entries()) {
      expect([step, wasSkipped]).toEqual([3 + i, i < skipped ? true : undefined]);
      if (wasSkipped) expect(grad_norm).toBeNull();
      else expect(grad_norm).toBeGreaterThan(0);
      // The images of a skipped step are generated and scored as well.
      expect(reward_mean).toBeLessThan(0);
    }
  });

  test("leaves weights and optimizer state unchanged", async () => {
    const before = await stateOf(uninterrupted.folders.get(2));
    const after = await stateOf(overflowing.folders.get(2 + skipped));
    expect(after.tensors).toEqual(before.tensors);
    expect([before.state.optimizerStep, after.state.optimizerStep]).toEqual([2, 2]);
    expect(after.state).toMatchObject({
      step: 2 + skipped,
      lossScale: { scale: 2 ** (15 - skipped), good: 0, skipped },
    });
    const last = await stateOf(overflowing.folders.get(8));
    expect(last.state).toMatchObject({
      step: 8,
      optimizerStep: 8 - skipped,
      lossScale: { good: 6 - skipped, skipped: 0 },
    });
    expect(last.tensors).not.toEqual(before.tensors);
  });

  test("ends the run if it is the tenth in a row", async () => {
    await expect(record(float16Settings(), await tooLarge(9))).rejects.toThrow(
      inputError("not-finite", { step: 3, skipped: 10, lossScale: 32768 }),
    );
  });

  test("does not affect a run that resumes in float32", async () => {
    const { steps } = await record(tinySettings(), await tooLarge(9));
    expect(steps.map(({ step, loss_scale, skipped }) => [step, loss_scale, skipped])).toEqual([
      [3, undefined, undefined],
      [4, undefined, undefined],
    ]);
  });
});
