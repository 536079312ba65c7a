/**
 * Writes checkpoints: the trained weights in the formats of other tools, and the training state, from which a run goes on as if
 * it had never stopped. Random numbers need no state besides the step, because each belongs to a sample's index (`samples.ts`).
 */
import { join } from "node:path";
import { z } from "zod";
import { MOST_RANK, type Settings } from "../config/index.js";
import { InputError } from "../errors/index.js";
import type { FileContent } from "../io/files.js";
import { parseJson } from "../io/json.js";
import { type LoraLayout, layoutOf } from "../nn/lora.js";
import { type Adaptable, survey } from "../nn/scope.js";
import { exportFiles, latentSize, type Pipeline, smallestUnet, type TrainableLayout } from "../pipeline/index.js";
import { float32 } from "../tensor/host.js";
import { openSafetensors, safetensorsChunks } from "../weights/safetensors.js";
import { exportedWeights, type TrainingState } from "./state.js";

export const STATE_FILE = "training_state.safetensors";

/** The settings and weights that a training state belongs to. */
export interface Origin {
  readonly settings: Settings;
  /** Fingerprint of the model's weights. */
  readonly model: string;
  /** Fingerprint of the reward's weights. */
  readonly reward: string;
}

/** The files of a checkpoint by name. They share the state's memory. */
export function checkpointFiles(
  state: TrainingState,
  layout: TrainableLayout,
  origin: Origin,
  pipeline: Pipeline,
): ReadonlyMap<string, FileContent> {
  const { step, weights, averaged, optimizer, history, lossScale, cost, estimatorState, base } = state;
  const vector = (data: Float32Array) => float32(data, [data.length]);
  const tensors = {
    weights: vector(weights),
    first_moment: vector(optimizer.firstMoment),
    second_moment: vector(optimizer.secondMoment),
    ...(averaged && { averaged: vector(averaged) }),
    ...(base && { base: vector(base) }),
  };
  const metadata = {
    format: "alignprop training state 1",
    state: JSON.stringify({ step, optimizerStep: optimizer.step, history, lossScale, cost, ...origin }),
    ...(estimatorState !== undefined && { estimator: JSON.stringify(estimatorState) }),
    ...(layout.kind === "lora" && { adapter: JSON.stringify(modulesOf(layout)) }),
  };
  const { name, sampling } = origin.settings;
  const size = latentSize(pipeline, sampling.height, sampling.width);
  const files = exportFiles(layout, exportedWeights(state), { pipeline, name, size });
  return files.set(STATE_FILE, safetensorsChunks(new Map(Object.entries(tensors)), metadata));
}

/** Name, rank and scale of each adapted module, in the order of the vector. */
const savedModules = z.array(z.tuple([z.string(), z.int().min(1).max(MOST_RANK), z.number()]));

function modulesOf({ entries }: LoraLayout): z.output<typeof savedModules> {
  return entries.flatMap(({ module, factor, shape, scale }): [string, number, number][] =>
    factor === "A" ? [[module, shape[0] as number, scale]] : [],
  );
}

/** The layout of the adapter in a checkpoint, with the rank and the scale that each module had in the run. */
export async function savedLayout(folder: string, pipeline: Pipeline): Promise<LoraLayout> {
  const path = join(folder, STATE_FILE);
  const { metadata } = await openSafetensors(path);
  const modules = savedModules.safeParse(parseJson(metadata.adapter ?? "null", path));
  if (!modules.success) {
    throw new InputError("checkpoint-damaged", `${path}: the list of adapted layers is damaged. Start a new run.`, {
      path,
    });
  }
  const { adaptable } = survey("unet", smallestUnet(pipeline));
  const unknown = modules.data.find(([module]) => !adaptable.has(module));
  if (unknown) {
    throw new InputError(
      "run-mismatch",
      `${path}: the model in ${pipeline.path} has no layer ${unknown[0]}. Resume with the model of the run, or start a new run.`,
      { path, model: pipeline.path, layer: unknown[0] },
    );
  }
  return layoutOf(
    modules.data.map(([module, rank, scale]) => [module, { layer: adaptable.get(module) as Adaptable, rank, scale }]),
  );
}
