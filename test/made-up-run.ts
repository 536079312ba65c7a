/** Events of a run without training: sends made-up numbers and images to a real run folder and its trackers. */

import { basename } from "node:path";
import { settingsFrom } from "../src/config/load.js";
import type { SettingsInput } from "../src/config/settings.js";
import type { Plan } from "../src/engine/plan.js";
import type { RgbImage } from "../src/images/rgb.js";
import { RunFolder } from "../src/runs/run-folder.js";
import { Trackers, type TrackersOptions } from "../src/runs/trackers/trackers.js";
import type { EvaluationResult } from "../src/scoring/evaluation.js";
import type { StepMetrics, TrainEvent } from "../src/train/events.js";

export const plan: Plan = {
  model: "m",
  reward: "clip",
  backboneParameters: 1,
  trainable: "lora",
  trainableParameters: 1,
  steps: 4,
  samplesPerStep: 4,
  accumulation: 1,
  microBatch: 4,
  precision: "float32",
  unetForwardCallsPerStep: 1,
  unetRecomputedCallsPerStep: 0,
  memory: {
    replicas: 1,
    maxSavedCalls: 1,
    recomputes: false,
    residualBytes: 1e6,
    packUpTo: 1e9,
    expectedBytes: 1e9,
    mappedBytes: 0,
  },
  uncounted: [],
  unetBackwardCallsPerStep: 1,
  rewardCallsPerStep: 1,
  flopsPerStep: 1,
  evaluations: 1,
  imagesPerEvaluation: 1,
};

/** The second one has characters that are special in Markdown, HTML and file names. */
export const PROMPTS = ["a fox", "two *dogs* | <b>猫</b>, at 50% + night"];

const EVALUATED = [0, 2, 4];

export function metricsOf(step: number): StepMetrics {
  const evaluated = EVALUATED.includes(step) && { eval_reward_mean: step + 0.25, eval_reward_std: 0.5 };
  return {
    step,
    epoch: 0,
    samples: step * 4,
    loss: 1 / step,
    reward_mean: step / 3,
    reward_std: 0.125,
    reward_queries: step * 4,
    unet_calls: step * 80,
    // Step 3 is a skipped optimizer update.
    ...(step === 3 ? { grad_norm: null, loss_scale: 2 ** 15, skipped: true as const } : { grad_norm: 1e-7 * step }),
    seconds: 1.5,
    peak_rss_bytes: 3 * 2 ** 30,
    rewards: { clip: step / 7, "my reward: é": -step },
    ...evaluated,
    ...(evaluated && { eval_rewards: { clip: step / 11, "my reward: é": -step } }),
  };
}

export function evaluationOf(step: number): EvaluationResult {
  const images = PROMPTS.map((_, i): RgbImage => {
    const pixels = Uint8Array.from({ length: 3 * 7 * 5 }, (_, at) => (at * 37 + step * 11 + i * 101) % 256);
    return { width: 7, height: 5, pixels };
  });
  const rewards = PROMPTS.map((_, i) => step + 0.25 + (i === 0 ? -0.5 : 0.5));
  return { prompts: PROMPTS, seeds: [7, 8], rewards, images, mean: step + 0.25, std: 0.5 };
}

export interface MadeUpRun {
  readonly folder: RunFolder;
  readonly trackers: Trackers;
  readonly messages: string[];
  readonly warnings: string[];
  tell(event: TrainEvent): Promise<void>;
  /** Sends the events of the next steps up to `last`, with a checkpoint at steps 2 and 4. Step 4 finishes the run. */
  stepsTo(last: number): Promise<void>;
}

/** A new run of 4 steps that has started and evaluated the base model. */
export async function startRun(
  out: string,
  trackers: SettingsInput["trackers"],
  options: Partial<TrackersOptions> = {},
): Promise<MadeUpRun> {
  const settings = await settingsFrom({ out, train: { steps: 4 }, trackers, lora: { rank: 4 } }, basename(out));
  const run = await withTrackers(await RunFolder.plan(settings), options);
  await run.tell({ kind: "started", plan, step: 0 });
  await run.tell({ kind: "evaluated", step: 0, result: evaluationOf(0) });
  return run;
}

/** Resumes the run from its checkpoint at step 2. */
export async function resumeRun(
  path: string,
  options: Partial<TrackersOptions> = {},
  trackers?: SettingsInput["trackers"],
): Promise<MadeUpRun> {
  const change = trackers === undefined ? [] : [{ path: ["trackers"], value: trackers, origin: "the test" }];
  const run = await withTrackers(await RunFolder.resume(path, change), options);
  await run.tell({ kind: "started", plan, step: 2 });
  return run;
}

async function withTrackers(folder: RunFolder, options: Partial<TrackersOptions>): Promise<MadeUpRun> {
  const messages: string[] = [];
  const warnings: string[] = [];
  const callbacks = {
    warn: (message: string) => void warnings.push(message),
    tell: (message: string) => void messages.push(message),
  };
  const trackers = await Trackers.open(folder, { env: {}, ...callbacks, ...options });
  const tell = async (event: TrainEvent) => {
    await folder.observe(event);
    await trackers.observe(event);
  };
  const stepsTo = async (last: number) => {
    for (let step = (folder.metrics.at(-1)?.step ?? 0) + 1; step <= last; step++) {
      if (EVALUATED.includes(step)) await tell({ kind: "evaluated", step, result: evaluationOf(step) });
      await tell({ kind: "stepped", metrics: metricsOf(step) });
      if (step === 2 || step === 4) await tell({ kind: "checkpointed", step, files: FILES });
    }
    if (last === 4) {
      await tell({ kind: "finished", result: { step: 4, steps: 4, interrupted: false, seconds: 1 } });
    }
  };
  return { folder, trackers, messages, warnings, tell, stepsTo };
}

const FILES = new Map([
  ["pytorch_lora_weights.safetensors", new Uint8Array([1, 2, 3])],
  ["training_state.safetensors", new Uint8Array([4])],
]);
