import { existsSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import path from "node:path";
import { writeFileAtomic } from "../src/io/atomic.js";
import { initialParameters } from "../src/nn/scope.js";
import type { Program, Runtime } from "../src/runtime/runtime.js";
import { float32, type HostTensor, toFloat32 } from "../src/tensor/host.js";
import { Rng } from "../src/tensor/rng.js";
import { adamw, adamwState, clipGradNorm } from "../src/train/index.js";
import { openSafetensors, writeSafetensors } from "../src/weights/safetensors.js";
import { readTensor, type WeightSource } from "../src/weights/source.js";
import type { TrainingGraph } from "./trainable.js";

/** The options that all stages of pretraining have. */
export interface StageOptions {
  /** Folder of the saved state. A killed run resumes from it. */
  readonly folder: string;
  readonly steps: number;
  readonly seed: number;
}

export interface FitOptions extends StageOptions {
  readonly runtime: Runtime;
  readonly training: TrainingGraph;
  /** Weights that the graph reads but does not train. */
  readonly frozen?: WeightSource;
  /** The feeds of step 0, 1, … except the weights. They depend only on the step, so that a resumed run gets the same. */
  readonly batch: (step: number) => Record<string, HostTensor>;
  readonly learningRate: number;
  readonly warmup?: number;
  readonly weightDecay?: number;
  readonly maxGradNorm?: number;
  /** Decay of the moving average of the weights, which `fitModel` returns. With 0, it returns the weights themselves. */
  readonly averageDecay?: number;
  readonly saveEvery?: number;
  readonly logEvery?: number;
  /** Called at each save with the averaged weights. */
  readonly onSave?: (step: number, weights: Float32Array) => Promise<void>;
}

interface Progress {
  readonly step: number;
  readonly seconds: number;
}

/** Trains one model from scratch, or resumes a killed run: AdamW with linear warm-up and cosine decay to zero. */
export async function fitModel(options: FitOptions): Promise<Float32Array> {
  const { runtime, training, batch, steps, folder, seed } = options;
  const { warmup = 100, weightDecay = 0.01, maxGradNorm = 1, averageDecay = 0.999 } = options;
  const { saveEvery = 500, logEvery = 25, onSave = async () => {} } = options;
  const { layout } = training;
  const name = training.graph.name;
  await mkdir(folder, { recursive: true });

  let weights: Float32Array = initialParameters(layout, new Rng(seed));
  let average = weights.slice();
  let state = adamwState(layout.size);
  let progress: Progress = { step: 0, seconds: 0 };
  const statePath = path.join(folder, "state.safetensors");
  const progressPath = path.join(folder, "progress.json");
  const save = async () => {
    const vector = (data: Float32Array) => float32(data, [data.length]);
    const { firstMoment, secondMoment } = state;
    const tensors = { weights, average, firstMoment, secondMoment };
    // The step is stored in the state file, so that the two always agree.
    await writeSafetensors(statePath, new Map(Object.entries(tensors).map(([key, data]) => [key, vector(data)])), {
      step: String(progress.step),
      seconds: String(progress.seconds),
    });
    await writeFileAtomic(progressPath, `${JSON.stringify({ ...progress, steps })}\n`);
  };
  if (existsSync(statePath)) {
    const file = await openSafetensors(statePath);
    const read = async (key: string) => {
      const stored = file.get(key);
      if (stored?.shape[0] !== layout.size)
        throw new Error(`${statePath}: ${key} does not fit this model. Delete ${folder} to start again.`);
      return toFloat32(await readTensor(stored)).slice();
    };
    weights = await read("weights");
    average = await read("average");
    progress = { step: Number(file.metadata.step), seconds: Number(file.metadata.seconds) };
    state = { step: progress.step, firstMoment: await read("firstMoment"), secondMoment: await read("secondMoment") };
    console.log(`${name}: resuming at step ${progress.step} of ${steps}`);
  }
  if (progress.step >= steps) return averageDecay > 0 ? average : weights;

  console.log(`${name}: ${(layout.size / 1e6).toFixed(2)} M parameters, ${steps} steps`);
  const program: Program = await runtime.compile(training.graph, options.frozen);
  const sums = new Map<string, number>();
  let since = performance.now();
  let feeds = batch(progress.step);
  for (let step = progress.step; step < steps; step++) {
    const running = program.run({ ...feeds, weights: float32(weights, [layout.size]) });
    // The next batch is rendered while the worker computes this one.
    if (step + 1 < steps) feeds = batch(step + 1);
    const { gradient, ...scalars } = await running;
    const clipped = toFloat32(gradient as HostTensor);
    const norm = clipGradNorm(clipped, maxGradNorm);
    if (!Number.isFinite(norm))
      throw new Error(
        `${name}: the gradient is not finite at step ${step}. The last saved state in ${folder} is intact.`,
      );
    const ramp = Math.min(1, (step + 1) / warmup);
    const decay = 0.5 * (1 + Math.cos((Math.PI * step) / steps));
    adamw(weights, clipped, state, { learningRate: options.learningRate * ramp * decay, weightDecay, beta2: 0.99 });
    const averaging = Math.min(averageDecay, (1 + step) / (10 + step));
    for (let i = 0; i < average.length; i++)
      average[i] = averaging * (average[i] as number) + (1 - averaging) * (weights[i] as number);

    for (const [key, tensor] of [
      ...Object.entries(scalars),
      ["grad_norm", float32(Float32Array.of(norm), [])] as const,
    ]) {
      sums.set(key, (sums.get(key) ?? 0) + Number(tensor.data[0]));
    }
    const done = step + 1;
    if (done % logEvery === 0 || done === steps) {
      const seconds = (performance.now() - since) / 1000;
      since = performance.now();
      progress = { step: done, seconds: progress.seconds + seconds };
      const shown = [...sums].map(([key, total]) => `${key} ${(total / logEvery).toFixed(4)}`).join("  ");
      const left = ((seconds / logEvery) * (steps - done)) / 60;
      console.log(
        `${name} ${done}/${steps}  ${shown}  ${(seconds / logEvery).toFixed(2)} s/step  ${left.toFixed(0)} min left`,
      );
      sums.clear();
    }
    if (done % saveEvery === 0 || done === steps) {
      progress = { ...progress, step: done };
      await save();
      await onSave(done, averageDecay > 0 ? average : weights);
    }
  }
  await program.release();
  return averageDecay > 0 ? average : weights;
}
