/** Compares one training step of each estimator with PyTorch (parity/estimators.py). All random numbers are stored. */

import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { afterAll, expect, test } from "vitest";
import type { SettingsInput } from "../src/config/settings.js";
import { trainingStep } from "../src/engine/step.js";
import { openEstimator } from "../src/estimators/index.js";
import type { TrainingSample } from "../src/estimators/sample.js";
import { openPipeline } from "../src/pipeline/pipeline.js";
import { Runtime } from "../src/runtime/runtime.js";
import { toFloat32 } from "../src/tensor/host.js";
import { Rng } from "../src/tensor/rng.js";
import { sizeOf } from "../src/tensor/shape.js";
import { openTrainable } from "../src/train/open-trainable.js";
import { openSafetensors } from "../src/weights/safetensors.js";
import { readTensor } from "../src/weights/source.js";
import { compileEngine } from "./engine.js";
import { tinyReward, tinySettings } from "./tiny.js";
import { CHAIN_TOLERANCE, distance, MODEL_TOLERANCE } from "./tolerance.js";

interface Reference {
  readonly prompts: string[];
  readonly steps: number;
  readonly jumps: number[];
  readonly k: number;
  readonly moved: number;
  readonly ddpo: { clip_range: number; advantage_clip: number; buffer_size: number; min_count: number };
  readonly lambda: number;
  readonly temperature: number;
  readonly kl_weight: number;
  readonly guidance_scale: number;
  readonly target: number;
  readonly loss_scale: number;
  readonly rank: number;
  readonly updates: Record<string, { loss: number; rewards: number[]; kl?: number; weights?: number[] }>;
}

const goldens = (path: string) => fileURLToPath(new URL(`./goldens/${path}`, import.meta.url));
const reference = JSON.parse(await readFile(goldens("estimators.json"), "utf8")) as Reference;
const recorded = await openSafetensors(goldens("estimators.safetensors"));
const pipeline = await openPipeline(goldens("tiny-sd"));
const reward = await tinyReward("aesthetic");
const runtime = await Runtime.start({ threads: 1 });
afterAll(() => runtime.close());

async function values(name: string): Promise<Float32Array> {
  const stored = recorded.get(name);
  if (!stored) throw new Error(`estimators.safetensors has no ${name}`);
  return toFloat32(await readTensor(stored));
}

const { steps, k, lambda, ddpo, temperature, kl_weight } = reference;
const oneUpdate = { updates: 1, inner_epochs: 1 } as const;

const SETTINGS: Record<string, SettingsInput> = {
  draft: { estimator: { name: "draft" } },
  "draft-k": { estimator: { name: "draft", k } },
  "draft-lv": { estimator: { name: "draft-lv", noises: 2 } },
  refl: { estimator: { name: "refl", low: 2, high: 4 } },
  "adjoint-matching": { estimator: { name: "adjoint-matching", lambda }, sampling: { eta: 1 } },
  ddpo: { estimator: { name: "ddpo", ...oneUpdate, ...ddpo }, sampling: { eta: 1 } },
  "ddpo-noise": { estimator: { name: "ddpo", weighting: "noise", ...oneUpdate, ...ddpo }, sampling: { eta: 1 } },
  rwr: { estimator: { name: "rwr", ...oneUpdate, temperature } },
  kl: { estimator: { name: "draft", k }, kl: { weight: kl_weight } },
};

for (const [name, changes] of Object.entries(SETTINGS)) {
  test(`${name} has the loss, rewards and gradient of PyTorch`, async () => {
    const expected = reference.updates[name] as Reference["updates"][string];
    const settings = tinySettings({
      loss: { form: "target", target: reference.target, scale: reference.loss_scale },
      lora: { rank: reference.rank },
      batch: { samples_per_epoch: 4, total: 4, per_device: 2 },
      ...changes,
      sampling: { steps, guidance_scale: reference.guidance_scale, ...changes.sampling },
    });
    const estimator = await openEstimator(settings.estimator);
    const { layout } = await openTrainable(settings, pipeline);
    const { engine, replica } = await compileEngine(runtime, { pipeline, reward, estimator, layout, settings });
    const flat = async (prefix: string) => {
      const all = new Float32Array(layout.size);
      for (const { name, shape, offset } of layout.entries) {
        all.set((await values(`${prefix}.${name}`)).subarray(0, sizeOf(shape)), offset);
      }
      return all;
    };

    const size = engine.latentElements;
    const given = { initial: await values("initial"), steps: await values("steps") };
    const [again, levels] = [await values("again"), await values("levels")];
    const row = (all: Float32Array, ...at: [image: number] | [step: number, image: number]) => {
      const i = at.length === 1 ? at[0] : at[0] * reference.prompts.length + at[1];
      return all.subarray(i * size, (i + 1) * size);
    };
    const samples = reference.prompts.map(
      (prompt, i): TrainingSample => ({
        epoch: 0,
        index: i,
        prompt,
        mask:
          name === "refl"
            ? Array.from({ length: steps }, (_, step) => step === reference.jumps[i])
            : estimator.kind === "direct"
              ? estimator.mask(steps, new Rng(0))
              : [],
        noise: () => ({ initial: row(given.initial, i), step: (step) => row(given.steps, step, i) }),
        rng: (...use) =>
          Object.assign(new Rng(0), {
            normals: () => row(name === "rwr" ? levels : again, use.at(-1) as number, i),
          }),
      }),
    );

    const start = await flat("lora");
    let parameters = start;
    const klWeight = settings.kl.weight > 0 ? settings.kl.weight : undefined;
    const baseParameters = new Float32Array(layout.size);
    let gradient: ArrayLike<number> = [];
    const result = await trainingStep({
      workers: replica,
      estimator,
      samples,
      estimatorState: undefined,
      request: () => {
        const now = parameters;
        // An adapter that has moved since the images were sampled.
        parameters = start.map((value) => value * reference.moved);
        return { parameters: now, baseParameters, klWeight };
      },
      update: (update) => {
        gradient = update.gradient;
      },
    });
    expect(distance(result.rewards, expected.rewards)).toBeLessThan(MODEL_TOLERANCE);
    expect(Math.abs(result.loss / expected.loss - 1)).toBeLessThan(CHAIN_TOLERANCE);
    if (klWeight !== undefined) {
      expect(Math.abs((result.kl as number) / (expected.kl as number) - 1)).toBeLessThan(CHAIN_TOLERANCE);
    }
    expect(distance(gradient, await flat(`${name}.gradient`))).toBeLessThan(CHAIN_TOLERANCE);
    if (estimator.kind === "rollout") {
      const scored = samples.map(({ prompt }, i) => ({ prompt, reward: result.rewards[i] as number }));
      expect(distance(estimator.weigh(scored, undefined).weights, expected.weights as number[])).toBeLessThan(
        CHAIN_TOLERANCE,
      );
    }
    await engine.release();
  });
}
