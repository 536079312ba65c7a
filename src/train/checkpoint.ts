/**
 * What a checkpoint holds: what was learned in the forms that other tools load, and the training state, from which a run
 * goes on as if it had never stopped. Every random number belongs to a picture's number (`samples.ts`), so the step is all
 * there is to remember of them.
 */

import { join } from "node:path";
import { z } from "zod";
import { MOST_RANK, type Settings, settingsSchema } from "../config/settings.js";
import type { Cost } from "../engine/context.js";
import { LARGEST_SCALE, LEAST_SCALE, type LossScale } from "../engine/loss-scale.js";
import { InputError } from "../errors/index.js";
import type { FileContent } from "../io/files.js";
import { parseJson } from "../io/json.js";
import { isRecord } from "../io/record.js";
import { type LoraLayout, layoutOf } from "../nn/lora.js";
import { type Adaptable, survey } from "../nn/scope.js";
import { smallestUnet } from "../pipeline/adapter.js";
import { exportFiles } from "../pipeline/export.js";
import type { LearnedLayout } from "../pipeline/parameters.js";
import type { Pipeline } from "../pipeline/pipeline.js";
import { rewardTitle } from "../rewards/index.js";
import { float32, toFloat32 } from "../tensor/host.js";
import { showShape } from "../tensor/shape.js";
import { openSafetensors, safetensorsChunks } from "../weights/safetensors.js";
import { readTensor } from "../weights/source.js";
import type { Evaluated } from "./early-stop.js";
import type { AdamWState } from "./optimizer.js";

export const STATE_FILE = "training_state.safetensors";

export interface TrainingState {
  /** Updates done. */
  readonly step: number;
  readonly weights: Float32Array;
  /** Their moving average, where the run has one. */
  readonly averaged: Float32Array | null;
  readonly optimizer: AdamWState;
  /** Every evaluation so far, which is all that the best checkpoint and an early stop follow from. */
  readonly history: readonly Evaluated[];
  /** Of a run in float16. */
  readonly lossScale: LossScale | null;
  /** Of the model that `kl` pulls towards, where it cannot be had again from the settings. */
  readonly base?: Float32Array | undefined;
  /** What the training has cost so far. */
  readonly cost: Cost;
  /** What the estimator remembers of earlier steps, as plain data. */
  readonly memory?: unknown;
}

/** What a state belongs to. */
export interface Origin {
  readonly settings: Settings;
  /** Fingerprints of the weights that are not in the checkpoint. */
  readonly model: string;
  readonly reward: string;
}

/** The files of a checkpoint by their names. They share the state's memory. */
export function checkpointFiles(
  state: TrainingState,
  layout: LearnedLayout,
  origin: Origin,
  pipeline: Pipeline,
): ReadonlyMap<string, FileContent> {
  const { step, weights, averaged, optimizer, history, lossScale, cost, memory, base } = state;
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
    ...(memory !== undefined && { estimator: JSON.stringify(memory) }),
    ...(layout.kind === "lora" && { adapter: JSON.stringify(placesOf(layout)) }),
  };
  const files = exportFiles(layout, averaged ?? weights, { pipeline, name: origin.settings.name });
  return files.set(STATE_FILE, safetensorsChunks(new Map(Object.entries(tensors)), metadata));
}

/** Module, rank and scale of each adapted layer, in the vector's order. */
const savedPlaces = z.array(z.tuple([z.string(), z.int().min(1).max(MOST_RANK), z.number()]));

function placesOf({ entries }: LoraLayout): z.output<typeof savedPlaces> {
  return entries.flatMap(({ module, factor, shape, scale }): [string, number, number][] =>
    factor === "A" ? [[module, shape[0] as number, scale]] : [],
  );
}

/** The layout of the adapter in a checkpoint's folder, each module with the rank and the scale that it had in the run. */
export async function savedLayout(folder: string, pipeline: Pipeline): Promise<LoraLayout> {
  const path = join(folder, STATE_FILE);
  const { metadata } = await openSafetensors(path);
  const places = savedPlaces.safeParse(parseJson(metadata.adapter ?? "null", path));
  const { adaptable } = survey("unet", smallestUnet(pipeline));
  const unknown = places.data?.find(([module]) => !adaptable.has(module));
  if (!places.success || unknown) {
    throw new InputError(
      "checkpoint-damaged",
      `${path}: ${unknown ? `the model in ${pipeline.path} has no layer ${unknown[0]}` : "its adapter is damaged"}; start a new run`,
    );
  }
  return layoutOf(
    places.data.map(([module, rank, scale]) => [module, { layer: adaptable.get(module) as Adaptable, rank, scale }]),
  );
}

const savedState = z.object({
  step: z.int().min(1),
  /** Without the updates that were skipped. */
  optimizerStep: z.int().min(0).optional(),
  history: z
    .array(
      z.object({
        step: z.int().min(0),
        reward: z.number(),
        heldOut: z.number().optional(),
        diversity: z.number().optional(),
      }),
    )
    .default([]),
  lossScale: z
    .object({
      scale: z.number().min(LEAST_SCALE).max(LARGEST_SCALE),
      good: z.int().min(0),
      skipped: z.int().min(0),
    })
    .nullable()
    .default(null),
  /** Of a checkpoint that did not count yet, nothing. */
  cost: z
    .object({ unetCalls: z.number().min(0), rewardQueries: z.number().min(0) })
    .default({ unetCalls: 0, rewardQueries: 0 }),
  settings: z.record(z.string(), z.unknown()),
  model: z.string(),
  reward: z.string(),
});

/** Reads the state of a checkpoint's folder, where it fits the run that is to go on from it. */
export async function resumeFrom(folder: string, layout: LearnedLayout, origin: Origin): Promise<TrainingState> {
  const path = join(folder, STATE_FILE);
  const file = await openSafetensors(path);
  const json = file.metadata.state;
  if (json === undefined)
    throw new InputError(
      "checkpoint-damaged",
      `${path}: is no training state of alignprop; name a checkpoint's folder`,
    );
  const checked = savedState.safeParse(parseJson(json, path));
  if (!checked.success)
    throw new InputError(
      "checkpoint-damaged",
      `${path}: its state is damaged (${checked.error.issues[0]?.path.join(".")})`,
    );
  const saved = checked.data;

  const differences = settingsThatDiffer(saved.settings, origin.settings);
  if (differences.length > 0) {
    throw new InputError(
      "checkpoint-damaged",
      `${path}: the run was made with other settings: ${differences.join("; ")}. Resume with the same, or start a new run`,
    );
  }
  for (const what of ["model", "reward"] as const) {
    if (saved[what] === origin[what]) continue;
    throw new InputError(
      "checkpoint-damaged",
      `${path}: the run was made with other ${what} weights than the ${what} has now (${what === "model" ? origin.settings.model : rewardTitle(origin.settings.reward)}); put the old ones back, or start a new run`,
    );
  }

  const read = async (name: string): Promise<Float32Array> => {
    const stored = file.get(name);
    if (stored?.dtype !== "float32" || stored.shape.length !== 1 || stored.shape[0] !== layout.size) {
      const found = stored ? `${stored.dtype}${showShape(stored.shape)}` : "missing";
      throw new InputError(
        "checkpoint-damaged",
        `${path}: ${name} is ${found}, but this run learns float32[${layout.size}]`,
      );
    }
    return toFloat32(await readTensor(stored));
  };
  return {
    step: saved.step,
    history: saved.history,
    lossScale: saved.lossScale,
    cost: saved.cost,
    memory: file.metadata.estimator === undefined ? undefined : parseJson(file.metadata.estimator, path),
    weights: await read("weights"),
    averaged: origin.settings.ema.decay === null ? null : await read("averaged"),
    base: file.get("base") && (await read("base")),
    optimizer: {
      step: saved.optimizerStep ?? saved.step,
      firstMoment: await read("first_moment"),
      secondMoment: await read("second_moment"),
    },
  };
}

/** Settings that say how long, how often and where, but not what is learnt; the weights have fingerprints of their own. */
const FREE = [
  "name",
  "model",
  "loading",
  "device",
  "precision",
  "threads",
  "memory",
  "out",
  "train",
  "checkpoint",
  "evaluation",
  "early_stop",
  "trackers",
];

/** `lora.rank is 8 now and was 4`, for each setting that differs. */
function settingsThatDiffer(written: Readonly<Record<string, unknown>>, wanted: Settings): string[] {
  // Settings that an older version did not have yet had their defaults.
  const saved: Readonly<Record<string, unknown>> = settingsSchema.safeParse(written).data ?? written;
  const compare = (before: unknown, now: unknown, path: string): string[] => {
    if (isRecord(before) && isRecord(now)) {
      return [...new Set([...Object.keys(before), ...Object.keys(now)])].flatMap((key) =>
        compare(before[key], now[key], `${path}.${key}`),
      );
    }
    const [was, is] = [JSON.stringify(before), JSON.stringify(now)];
    return was === is ? [] : [`${path} is ${short(is)} now and was ${short(was)}`];
  };
  const parts = ["prompts", "reward"];
  const current = Object.entries(wanted).filter(([key]) => !FREE.includes(key) && !parts.includes(key));
  return [
    ...current.flatMap(([key, value]) => compare(saved[key], value, key)),
    // The evaluation's prompts and where the reward's weights lie are no part of what is learnt.
    ...compare(without(saved.prompts, "eval"), without(wanted.prompts, "eval"), "prompts"),
    ...compare(without(saved.reward, "weights"), without(wanted.reward, "weights"), "reward"),
    ...(wanted.early_stop ? measuresThatDiffer(saved, wanted).flatMap((args) => compare(...args)) : []),
    ...compare(
      (isRecord(saved.loading) ? saved.loading.prediction_type : undefined) ?? null,
      wanted.loading.prediction_type,
      "loading.prediction_type",
    ),
  ];
}

/**
 * What an early stop's rule compares from one evaluation to the next must be the same in all of them. Where an evaluation
 * did not measure something before, there is nothing to be compared with.
 */
function measuresThatDiffer(saved: Readonly<Record<string, unknown>>, wanted: Settings): [unknown, unknown, string][] {
  const before = isRecord(saved.evaluation) ? saved.evaluation : {};
  const { every: _, batch: __, ...measures } = wanted.evaluation;
  const differing = Object.entries(measures).filter(([key]) => (before[key] ?? null) !== null);
  const prompts: [unknown, unknown, string] = [
    isRecord(saved.prompts) ? saved.prompts.eval : undefined,
    wanted.prompts.eval,
    "prompts.eval",
  ];
  return [
    ...differing.map(([key, now]): [unknown, unknown, string] => [before[key], now, `evaluation.${key}`]),
    prompts,
  ];
}

function without(record: unknown, key: string): Record<string, unknown> {
  const { [key]: _, ...others } = isRecord(record) ? record : {};
  return others;
}

function short(json: string | undefined): string {
  if (json === undefined) return "not there";
  return json.length > 60 ? `${json.slice(0, 57)}…` : json;
}
