/** Training end to end on the tiny random model: events, resuming, stopping, and numbers that are not finite. */
import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import type { Settings } from "../src/config/settings.js";
import type { ErrorFacts } from "../src/errors/index.js";
import type { RgbImage } from "../src/images/rgb.js";
import type { FileContent } from "../src/io/files.js";
import { UNET_FILES } from "../src/pipeline/export.js";
import { generate } from "../src/pipeline/generate.js";
import { openPipeline } from "../src/pipeline/pipeline.js";
import { defineReward, ops } from "../src/rewards/index.js";
import { evaluate } from "../src/scoring/evaluate.js";
import { STATE_FILE } from "../src/train/checkpoint.js";
import type { TrainEvent, TrainResult } from "../src/train/events.js";
import { openTrainable } from "../src/train/open-trainable.js";
import { train } from "../src/train/trainer.js";
import { openWeights } from "../src/weights/folder.js";
import { PEFT_FILE } from "../src/weights/lora-files.js";
import { readLora } from "../src/weights/read-adapter.js";
import { inputError } from "./errors.js";
import { TINY_REWARD, TINY_SD, tinySettings } from "./tiny.js";

const CLIP = join(TINY_REWARD, "clip");

const scratch = await mkdtemp(join(tmpdir(), "alignprop-train-"));
afterAll(() => rm(scratch, { recursive: true }));

interface Recording {
  readonly events: TrainEvent[];
  readonly interrupted: boolean;
}

async function record(
  settings: Settings,
  options: Parameters<typeof train>[2] = {},
  listen: (event: TrainEvent) => void = () => {},
): Promise<Recording> {
  const events: TrainEvent[] = [];
  const { interrupted } = await train(
    settings,
    (event) => {
      // The files share the memory of the run, which changes later.
      events.push(event.kind === "checkpointed" ? { ...event, files: copied(event.files) } : event);
      listen(event);
    },
    options,
  );
  return { events, interrupted };
}

function copied(files: ReadonlyMap<string, FileContent>): Map<string, Uint8Array> {
  return new Map(
    [...files].map(([name, content]) => [name, Buffer.concat(content instanceof Uint8Array ? [content] : content)]),
  );
}

function ofKind<K extends TrainEvent["kind"]>(kind: K, { events }: Recording): Extract<TrainEvent, { kind: K }>[] {
  return events.filter((event): event is Extract<TrainEvent, { kind: K }> => event.kind === kind);
}

/** The metrics of all steps without times and memory. */
function results(recording: Recording) {
  return ofKind("stepped", recording).map(({ metrics: { seconds: _, peak_rss_bytes: __, ...rest } }) => rest);
}

/** Writes a checkpoint as the run folder would. */
async function saveCheckpoint(recording: Recording, step: number, name: string): Promise<string> {
  const folder = await mkdtemp(join(scratch, name));
  const saved = ofKind("checkpointed", recording).find((event) => event.step === step);
  for (const [file, content] of saved?.files ?? []) {
    await mkdir(dirname(join(folder, file)), { recursive: true });
    await writeFile(join(folder, file), content);
  }
  return folder;
}

const straight = await record(tinySettings());

describe("a run", () => {
  test("starts, evaluates the base model, and then evaluates, reports and saves when due", () => {
    const order = straight.events.map((event) => `${event.kind} ${"step" in event ? event.step : ""}`.trim());
    expect(order).toEqual([
      "started 0",
      "evaluated 0",
      "stepped",
      "evaluated 2",
      "stepped",
      "checkpointed 2",
      "stepped",
      "evaluated 4",
      "stepped",
      "checkpointed 4",
      "finished",
    ]);
    expect(ofKind("stepped", straight).map(({ metrics }) => [metrics.step, metrics.epoch, metrics.samples])).toEqual([
      [1, 0, 4],
      [2, 0, 8],
      [3, 1, 12],
      [4, 1, 16],
    ]);
  });

  test("raises its reward on held-out prompts", async () => {
    // The reward of one image may fall by chance. The mean of eight does not, with the gradient of the whole chain.
    const longer = await record(
      tinySettings({
        estimator: { truncation: { mode: "fixed", k: null } },
        optimizer: { learning_rate: 1e-2 },
        evaluation: { every: 8, batch: 8, seeds_per_prompt: 8 },
        steps: 8,
      }),
    );
    const [before, after] = ofKind("evaluated", longer).map(({ result }) => result.mean);
    expect((after as number) - (before as number)).toBeGreaterThan(0.01); // 0.041
  });

  test("gives the same numbers and files when it is repeated", async () => {
    const again = await record(tinySettings());
    expect(results(again)).toEqual(results(straight));
    expect(ofKind("checkpointed", again)).toEqual(ofKind("checkpointed", straight));
  });

  test("does not depend on the size of the micro-batches", async () => {
    const settings = tinySettings({
      batch: { samples_per_epoch: 8, total: 4, per_device: 4 },
      sampling: { steps: 3, eta: 0.5 },
      steps: 1,
    });
    const whole = await record(settings);
    const single = await record({ ...settings, batch: { ...settings.batch, per_device: 1 } });
    const [a, b] = [results(whole)[0], results(single)[0]];
    for (const key of ["loss", "reward_mean", "reward_std", "grad_norm"] as const) {
      expect(b?.[key]).toBeCloseTo(a?.[key] as number, 4);
    }
  });

  test("saves an adapter with which evaluate and generate give the images of the run's last evaluation", async () => {
    const { model, sampling, device, threads } = tinySettings();
    const settings = { model, sampling, device, threads };
    const adapter = await readLora(join(await saveCheckpoint(straight, 4, "generate"), PEFT_FILE));
    const shown = ofKind("evaluated", straight).at(-1)?.result;
    const requests = [{ prompt: shown?.prompts[0] as string, seed: shown?.seeds[0] as number }];
    const [image] = await generate({ ...settings, images: requests, adapter });
    expect(image).toEqual(shown?.images[0]);
    expect(await evaluate(tinySettings(), { adapter })).toEqual(shown);
    const [base] = await generate({ ...settings, images: requests });
    expect(base).toEqual(ofKind("evaluated", straight)[0]?.result.images[0]);
    expect(base).not.toEqual(image);
  });
});

describe("resuming", () => {
  test("after 2 steps gives the same numbers and files as 4 steps without an interruption", async () => {
    const first = await record(tinySettings({ steps: 2 }));
    const resumed = await record(tinySettings(), { resume: await saveCheckpoint(first, 2, "resume") });
    expect(results(resumed)).toEqual(results(straight).slice(2));
    expect(ofKind("evaluated", resumed)).toEqual(ofKind("evaluated", straight).slice(2));
    expect(adapters(resumed)).toEqual(adapters(straight));
  });

  test("refuses settings that change the training, and names them", async () => {
    const resume = await saveCheckpoint(straight, 2, "settings");
    const changed = tinySettings({ optimizer: { learning_rate: 0.5 } });
    await expect(record(changed, { resume })).rejects.toThrow(
      inputError("run-mismatch", {
        path: join(resume, STATE_FILE),
        settings: ["optimizer.learning_rate"],
        found: ["0.5"],
        expected: ["0.001"],
      }),
    );
  });

  test("refuses a model whose weights have changed", async () => {
    const model = join(scratch, "other-model");
    await cp(TINY_SD, model, { recursive: true });
    const weights = join(model, "unet", "diffusion_pytorch_model.safetensors");
    const bytes = await readFile(weights);
    bytes[bytes.length - 1] = (bytes[bytes.length - 1] as number) ^ 1;
    await writeFile(weights, bytes);
    const resume = await saveCheckpoint(straight, 2, "weights");
    await expect(record(tinySettings({ model }), { resume })).rejects.toThrow(
      inputError("run-mismatch", { path: join(resume, STATE_FILE), part: "model", name: model }),
    );
  });
});

describe("monitors of a run", async () => {
  const evaluation = {
    every: 1,
    batch: 2,
    seeds_per_prompt: 3,
    held_out: "incompressibility",
    diversity: CLIP,
  } as const;
  const monitored = await record(tinySettings({ evaluation, steps: 3 }));

  test("score the images of the evaluation with the held-out reward, and measure their diversity", () => {
    for (const { result } of ofKind("evaluated", monitored)) {
      // The held-out reward is the negative of the reward.
      const { heldOut, diversity, rewards } = result;
      expect(heldOut?.rewards).toHaveLength(3);
      for (const [i, value] of rewards.entries()) expect(heldOut?.rewards[i]).toBeCloseTo(-value, 5);
      expect(diversity?.distances).toHaveLength(3);
      expect(diversity?.mean).toBeGreaterThan(0);
    }
    const last = ofKind("evaluated", monitored).at(-1)?.result;
    expect(results(monitored).at(-1)).toMatchObject({
      eval_held_out_mean: last?.heldOut?.mean,
      eval_held_out_std: last?.heldOut?.std,
      eval_diversity: last?.diversity?.mean,
    });
  });

  test("do not change the training", async () => {
    const alone = await record(
      tinySettings({ evaluation: { ...evaluation, held_out: null, diversity: null }, steps: 3 }),
    );
    expect(adapters(alone)).toEqual(adapters(monitored));
  });

  test("give the same results in evaluate", async () => {
    const adapter = await readLora(join(await saveCheckpoint(monitored, 2, "monitored"), PEFT_FILE));
    const shown = ofKind("evaluated", monitored).find(({ step }) => step === 2)?.result;
    expect(await evaluate(tinySettings({ evaluation }), { adapter })).toEqual(shown);
  });

  // The held-out reward falls when the reward rises.
  const rule = { monitor: "held-out", patience: 2, min_delta: 100 } as const;
  const stopping = (steps: number) => tinySettings({ evaluation, early_stop: rule, steps });

  test("can end the run early, with a checkpoint and without an error", async () => {
    const stopped = await record(stopping(9));
    const { result } = ofKind("finished", stopped)[0] as { result: TrainResult };
    expect(result).toMatchObject({ step: 2, steps: 9, interrupted: false, best: 1 });
    expect(result.stopped).toMatchObject({
      kind: "no improvement",
      monitor: "held-out",
      evaluations: 2,
      top: { step: 0 },
    });
    expect(ofKind("checkpointed", stopped).map(({ step }) => step)).toEqual([1, 2]);
  });

  test("keep their history when the run is resumed", async () => {
    const first = await record(stopping(1));
    const resumed = await record(stopping(9), { resume: await saveCheckpoint(first, 1, "resume-stop") });
    expect(ofKind("finished", resumed)[0]?.result).toMatchObject({ step: 2, best: 1, stopped: { top: { step: 0 } } });
    const before = ofKind("evaluated", first).find(({ step }) => step === 0)?.result.diversity?.mean;
    expect(ofKind("started", resumed)[0]?.baseDiversity).toBe(before);
  });

  test("cannot change when a run with early stopping is resumed", async () => {
    const resume = await saveCheckpoint(await record(stopping(1)), 1, "measure");
    const changed = tinySettings({ evaluation: { ...evaluation, held_out: "compressibility" }, early_stop: rule });
    await expect(record(changed, { resume })).rejects.toThrow(
      inputError("run-mismatch", {
        settings: ["evaluation.held_out.name"],
        found: ['"compressibility"'],
        expected: ['"incompressibility"'],
      }),
    );
    const free = tinySettings({ evaluation: { ...evaluation, held_out: "compressibility" }, steps: 2 });
    await expect(record(free, { resume })).resolves.toBeDefined();
  });
});

describe("a moving average of the weights", async () => {
  const settings = (steps: number) => tinySettings({ ema: { decay: 0.9 }, steps });
  const all = await record(settings(4));

  test("is evaluated and exported, while training continues from the weights themselves", async () => {
    const training = (recording: Recording) => results(recording).map(({ loss, reward_mean }) => [loss, reward_mean]);
    expect(training(all)).toEqual(training(straight));
    expect(adapters(all)).not.toEqual(adapters(straight));
    const adapter = await readLora(join(await saveCheckpoint(all, 4, "average"), PEFT_FILE));
    const shown = ofKind("evaluated", all).at(-1)?.result;
    expect(await evaluate(tinySettings(), { adapter })).toEqual(shown);
    expect(shown).not.toEqual(ofKind("evaluated", straight).at(-1)?.result);
  });

  test("continues after an interruption as if there had been none", async () => {
    const first = await record(settings(2));
    const resumed = await record(settings(4), { resume: await saveCheckpoint(first, 2, "resume-average") });
    expect(results(resumed)).toEqual(results(all).slice(2));
    expect(ofKind("checkpointed", resumed).at(-1)).toEqual(ofKind("checkpointed", all).at(-1));
  });

  test("cannot be added to a run that is resumed", async () => {
    const resume = await saveCheckpoint(straight, 2, "no-average");
    await expect(record(settings(4), { resume })).rejects.toThrow(
      inputError("run-mismatch", { settings: ["ema.decay"], found: ["0.9"], expected: ["null"] }),
    );
  });
});

describe("annealed guidance", async () => {
  // A learning rate at which two steps change the images.
  const settings = tinySettings({ optimizer: { learning_rate: 0.05 }, steps: 2 });
  const adapter = await readLora(join(await saveCheckpoint(await record(settings), 2, "annealed"), PEFT_FILE));
  const { model, sampling, device, threads } = settings;
  const images = [{ prompt: "a cat", seed: 3 }];
  const sampled = async (more: object) => (await generate({ model, sampling, device, threads, images, ...more }))[0];
  const [base, tuned] = [await sampled({}), await sampled({ adapter })];

  test("with a power of 0 gives the image of the fine-tuned model, and with a large one nearly that of the base model", async () => {
    expect(tuned).not.toEqual(base);
    expect(await sampled({ adapter, anneal: 0 })).toEqual(tuned);
    // The last of the three steps uses the fine-tuned model at any power. The others use the base model.
    const late = await sampled({ adapter, anneal: 100 });
    expect(late).not.toEqual(base);
    expect(distance(late, base)).toBeLessThan(distance(tuned, base));
  });

  test("works with a whole U-Net as with an adapter", async () => {
    const whole = tinySettings({ trainable: "unet", optimizer: { learning_rate: 0.01 }, steps: 1 });
    const folder = await saveCheckpoint(await record(whole), 1, "annealed-unet");
    const unet = await openWeights(join(folder, "unet"));
    expect(await sampled({ unet, anneal: 0 })).toEqual(await sampled({ unet }));
    expect(await sampled({ unet, anneal: 1 })).not.toEqual(await sampled({ unet }));
  });

  test("applies to evaluate as well, and needs a fine-tuned model", async () => {
    const [plain, annealed] = [await evaluate(settings, { adapter }), await evaluate(settings, { adapter, anneal: 2 })];
    expect(annealed.images).not.toEqual(plain.images);
    expect((await evaluate(settings, { adapter, anneal: 0 })).images).toEqual(plain.images);
    await expect(sampled({ anneal: 1 })).rejects.toThrow(inputError("usage", { anneal: 1 }));
  });
});

/** The L1 distance between two images. */
function distance(a: RgbImage | undefined, b: RgbImage | undefined): number {
  return (a as RgbImage).pixels.reduce(
    (sum, value, i) => sum + Math.abs(value - ((b as RgbImage).pixels[i] as number)),
    0,
  );
}

describe("training the whole U-Net", async () => {
  const settings = (steps: number) => tinySettings({ trainable: "unet", steps });
  const whole = await record(settings(2));

  test("saves a checkpoint with the folder of a U-Net, which gives the images of the run", async () => {
    const shown = ofKind("evaluated", whole).map(({ result }) => result);
    const folder = await saveCheckpoint(whole, 2, "unet");
    const config = await readFile(join(TINY_SD, "unet/config.json"), "utf8");
    expect(JSON.parse(await readFile(join(folder, "unet/config.json"), "utf8"))).toEqual(JSON.parse(config));
    const unet = await openWeights(join(folder, "unet"));
    expect([...unet.names()].sort()).toEqual([...(await openWeights(join(TINY_SD, "unet"))).names()].sort());
    const evaluated = await evaluate(tinySettings(), { unet });
    // Constant weights are laid out for speed, so that sums have another order.
    expect(evaluated.mean).toBeCloseTo(shown.at(-1)?.mean as number, 5);
    expect(evaluated.mean).not.toBeCloseTo(shown[0]?.mean as number, 5);
  });

  test("continues after a step as if there had been no interruption", async () => {
    const first = await record(settings(1));
    const resumed = await record(settings(2), { resume: await saveCheckpoint(first, 1, "resume-unet") });
    expect(results(resumed)).toEqual(results(whole).slice(1));
    const last = (recording: Recording) => ofKind("checkpointed", recording).at(-1)?.files.get(UNET_FILES.weights);
    expect(last(resumed)).toEqual(last(whole));
  });

  test("refuses a starting adapter", async () => {
    const start = tinySettings({ trainable: "unet", lora: { start: "anything" } });
    await expect(record(start)).rejects.toThrow(
      inputError("settings-conflict", { setting: "lora.start", with: "trainable", path: "anything" }),
    );
  });
});

describe("starting from an adapter", async () => {
  const start = await saveCheckpoint(straight, 4, "start");
  const from = (lora: object, steps = 2) => tinySettings({ lora: { start, ...lora }, steps });

  test("begins with the images of the adapter and keeps its rank", async () => {
    const further = await record(from({}));
    const [first] = ofKind("evaluated", further);
    expect(first?.result).toEqual(ofKind("evaluated", straight).at(-1)?.result);
    const before = await readLora(start);
    const after = await readLora(await saveCheckpoint(further, 2, "further"));
    expect([...after].map(([path, { down }]) => [path, down.shape])).toEqual(
      [...before].map(([path, { down }]) => [path, down.shape]),
    );
  });

  test("accepts settings that agree with the adapter, and refuses others", async () => {
    const pipeline = await openPipeline(TINY_SD);
    const open = (lora: object) => openTrainable(from(lora), pipeline);
    await expect(open({ rank: 2, alpha: 2, targets: ["attention"] })).resolves.toBeDefined();
    const refused = (setting: string, facts: ErrorFacts) =>
      inputError("settings-conflict", { setting: `lora.${setting}`, path: start, ...facts });
    await expect(open({ rank: 3 })).rejects.toThrow(refused("rank", { found: 3, expected: 2 }));
    await expect(open({ alpha: 4 })).rejects.toThrow(refused("alpha", { found: 4, expected: 2 }));
    await expect(open({ targets: ["to_q"] })).rejects.toThrow(
      refused("targets", { found: ["to_q"], layer: expect.stringMatching(/to_k$/) }),
    );
    await expect(open({ targets: ["attention", "conv1"] })).rejects.toThrow(
      refused("targets", { found: ["attention", "conv1"], layer: expect.stringMatching(/conv1$/) }),
    );
  });

  test("continues after an interruption if that adapter is gone", async () => {
    const copy = join(scratch, "copy");
    await cp(start, copy, { recursive: true });
    const settings = (steps: number) => from({ start: copy }, steps);
    const all = await record(settings(2));
    const first = await record(settings(1));
    await rm(copy, { recursive: true });
    const resumed = await record(settings(2), { resume: await saveCheckpoint(first, 1, "resume-start") });
    expect(results(resumed)).toEqual(results(all).slice(1));
    expect(adapters(resumed)).toEqual(adapters(all));
  });
});

describe("stopping", () => {
  test("finishes the step, saves it and says that it was interrupted", async () => {
    const controller = new AbortController();
    const stopped = await record(tinySettings(), { signal: controller.signal }, (event) => {
      if (event.kind === "evaluated") controller.abort();
    });
    expect(stopped.interrupted).toBe(true);
    expect(stopped.events.map(({ kind }) => kind)).toEqual(["started", "evaluated", "finished"]);

    const later = new AbortController();
    const midway = await record(tinySettings(), { signal: later.signal }, (event) => {
      if (event.kind === "stepped") later.abort();
    });
    expect(ofKind("checkpointed", midway).map(({ step }) => step)).toEqual([1]);
    const resumed = await record(tinySettings(), { resume: await saveCheckpoint(midway, 1, "stopped") });
    expect(results(resumed)).toEqual(results(straight).slice(1));
  });

  test("does not end, but warns, if the gradient of the first step is 0", async () => {
    const still = defineReward({ name: "still", build: (images) => ops.mul(ops.mean(images, [1, 2, 3]), 0) });
    const recording = await record(tinySettings(), { reward: still });
    const { events } = recording;
    const kinds = events.map(({ kind }) => kind).filter((kind) => kind === "warned" || kind === "stepped");
    expect(kinds.slice(0, 2)).toEqual(["warned", "stepped"]);
    expect(kinds.filter((kind) => kind === "warned")).toHaveLength(1);
    expect(ofKind("warned", recording).map(({ message }) => message)).toEqual([expect.stringContaining("is 0")]);
    expect(straight.events.some(({ kind }) => kind === "warned")).toBe(false);
  });

  test("ends with the step, the sample and a remedy if the numbers are no longer finite", async () => {
    // After a step with this learning rate, the latents are not finite.
    const settings = tinySettings({ optimizer: { learning_rate: 1e30 }, evaluation: { every: 100, batch: 2 } });
    const saved: number[] = [];
    const run = train(settings, (event) => {
      if (event.kind === "checkpointed") saved.push(event.step);
    });
    await expect(run).rejects.toThrow(
      inputError("not-finite", {
        step: 2,
        prompt: expect.stringMatching(/^a \w+$/),
        sample: expect.any(Number),
        epoch: 0,
        suggestions: ["optimizer.learning_rate", "estimator.truncation"],
      }),
    );
    expect(saved).toEqual([]);
  });
});

function adapters(recording: Recording) {
  const last = ofKind("checkpointed", recording).at(-1);
  return last?.files.get(PEFT_FILE);
}
