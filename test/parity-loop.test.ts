/**
 * Compares whole runs with AlignProp in PyTorch, diffusers and PEFT (parity/reference_loop.py): the same tiny model, noise,
 * prompts, masks and initial adapter; three training steps of two micro-batches each.
 */

import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, test } from "vitest";
import type { DirectEstimator } from "../src/estimators/estimator.js";
import { openEstimator } from "../src/estimators/index.js";
import type { TrainingSample } from "../src/estimators/sample.js";
import { openPipeline } from "../src/pipeline/pipeline.js";
import type { TrainableLayout } from "../src/pipeline/trainable.js";
import { Runtime } from "../src/runtime/runtime.js";
import { toFloat32 } from "../src/tensor/host.js";
import { Rng } from "../src/tensor/rng.js";
import { sizeOf } from "../src/tensor/shape.js";
import { openTrainable } from "../src/train/open-trainable.js";
import { adamw, adamwState, clipGradNorm } from "../src/train/optimizer.js";
import { openSafetensors } from "../src/weights/safetensors.js";
import { readTensor } from "../src/weights/source.js";
import { compileEngine } from "./engine.js";
import { tinyReward, tinySettings } from "./tiny.js";
import { CHAIN_TOLERANCE, distance } from "./tolerance.js";

interface ReferenceRun {
  readonly about: string;
  readonly lora: "fresh" | "started";
  readonly settings: {
    steps: number;
    guidance_scale: number;
    loss_form: "target" | "maximize";
    target: number;
    loss_scale: number;
    rank: number;
    learning_rate: number;
    betas: [number, number];
    epsilon: number;
    weight_decay: number;
    max_grad_norm: number;
  };
  readonly updates: {
    loss: number;
    grad_norm: number;
    micro_batches: { prompts: string[]; mask: boolean[]; rewards: number[] }[];
  }[];
}

const goldens = (path: string) => fileURLToPath(new URL(`./goldens/${path}`, import.meta.url));
const reference = JSON.parse(await readFile(goldens("reference-loop.json"), "utf8")) as {
  runs: Record<string, ReferenceRun>;
};
const recorded = await openSafetensors(goldens("reference-loop.safetensors"));
const pipeline = await openPipeline(goldens("tiny-sd"));
const reward = await tinyReward("aesthetic");
const runtime = await Runtime.start({ threads: 1 });
afterAll(() => runtime.close());

async function values(name: string): Promise<Float32Array> {
  const stored = recorded.get(name);
  if (!stored) throw new Error(`reference-loop has no ${name}`);
  return toFloat32(await readTensor(stored));
}

/** The LoRA factors under `prefix` as a vector in the order of the layout. A tensor [step, …] has a row per training step. */
async function flat(layout: TrainableLayout, prefix: string, step = 0): Promise<Float32Array> {
  const all = new Float32Array(layout.size);
  for (const { name, shape, offset } of layout.entries) {
    const size = sizeOf(shape);
    all.set((await values(`${prefix}.${name}`)).subarray(step * size, (step + 1) * size), offset);
  }
  return all;
}

describe("three training steps compared with AlignProp in PyTorch", () => {
  const runs = Object.entries(reference.runs).map(([name, run]) => ({
    name,
    run,
    maxSavedCalls: Number.POSITIVE_INFINITY,
  }));
  const full = runs.filter(({ name }) => name === "full");
  const limited = [0, 1].flatMap((maxSavedCalls) => full.map((each) => ({ ...each, maxSavedCalls })));
  for (const { name, run, maxSavedCalls } of [...runs, ...limited]) {
    test(`${name}, residuals of at most ${maxSavedCalls} calls saved: ${run.about}`, async () => {
      const given = run.settings;
      const settings = tinySettings({
        sampling: { steps: given.steps, guidance_scale: given.guidance_scale },
        loss: { form: given.loss_form, target: given.target, scale: given.loss_scale },
        lora: { rank: given.rank },
        batch: { samples_per_epoch: 4, total: 4, per_device: 2 },
      });
      const { layout } = await openTrainable(settings, pipeline);
      const estimator = (await openEstimator({ name: "draft", k: null })) as DirectEstimator;
      const parts = { pipeline, reward, estimator, layout, settings };
      const { engine, replica } = await compileEngine(runtime, parts, { maxSavedCalls, recomputes: false });
      const initial = await flat(layout, `lora.${run.lora}`);
      const weights = initial.slice();
      const state = adamwState(layout.size);
      const noise = await values("noise");
      const { latentElements } = engine;

      for (const [step, { loss, grad_norm, micro_batches }] of run.updates.entries()) {
        const samples: TrainingSample[] = micro_batches.flatMap(({ prompts, mask }, batch) =>
          prompts.map((prompt, i) => {
            const at = (step * micro_batches.length + batch) * prompts.length + i;
            const initial = noise.subarray(at * latentElements, (at + 1) * latentElements);
            return {
              epoch: step,
              index: at,
              prompt,
              mask,
              noise: () => ({ initial, step: () => initial }),
              rng: () => new Rng(0),
            };
          }),
        );
        const request = { parameters: weights, globalBatchSize: samples.length };
        const result = await replica.gradient(estimator, samples, request);
        expect(Math.abs(result.loss / loss - 1)).toBeLessThan(CHAIN_TOLERANCE);
        expect(distance(result.gradient, await flat(layout, `${name}.gradient`, step))).toBeLessThan(CHAIN_TOLERANCE);

        expect(Math.abs(clipGradNorm(result.gradient, given.max_grad_norm) / grad_norm - 1)).toBeLessThan(
          CHAIN_TOLERANCE,
        );
        adamw(weights, result.gradient, state, {
          learningRate: given.learning_rate,
          beta1: given.betas[0],
          beta2: given.betas[1],
          epsilon: given.epsilon,
          weightDecay: given.weight_decay,
        });
        // Three steps change a weight only a little, so the changes are compared, not the weights.
        const expected = await flat(layout, `${name}.weight`, step);
        const change = (now: Float32Array) => now.map((value, i) => value - (initial[i] as number));
        expect(distance(change(weights), change(expected))).toBeLessThan(CHAIN_TOLERANCE);
      }
      await engine.release();
    });
  }
});
