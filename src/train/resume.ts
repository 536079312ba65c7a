/** Reads the training state of a checkpoint, and refuses to resume a run with other settings or weights. */
import { join } from "node:path";
import { z } from "zod";
import { type Settings, settingsSchema, withNewNames } from "../config/index.js";
import { MAX_SCALE, MIN_SCALE } from "../engine/index.js";
import { InputError } from "../errors/index.js";
import { parseJson } from "../io/json.js";
import { isRecord } from "../io/record.js";
import type { TrainableLayout } from "../pipeline/index.js";
import { rewardTitle } from "../rewards/index.js";
import { toFloat32 } from "../tensor/host.js";
import { showShape } from "../tensor/shape.js";
import { openSafetensors } from "../weights/safetensors.js";
import { readTensor } from "../weights/source.js";
import { type Origin, STATE_FILE } from "./checkpoint.js";
import type { TrainingState } from "./state.js";

const savedState = z.object({
  step: z.int().min(1),
  /** Optimizer updates, without those that were skipped. */
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
    .object({ scale: z.number().min(MIN_SCALE).max(MAX_SCALE), good: z.int().min(0), skipped: z.int().min(0) })
    .nullable()
    .default(null),
  /** Absent in older checkpoints. */
  cost: z
    .object({ unetCalls: z.number().min(0), rewardQueries: z.number().min(0) })
    .default({ unetCalls: 0, rewardQueries: 0 }),
  settings: z.record(z.string(), z.unknown()),
  model: z.string(),
  reward: z.string(),
});

/**
 * Reads the state in a checkpoint's folder.
 *
 * @throws InputError `checkpoint-damaged`; `run-mismatch` if the settings or weights differ from those of the run
 */
export async function resumeFrom(folder: string, layout: TrainableLayout, origin: Origin): Promise<TrainingState> {
  const path = join(folder, STATE_FILE);
  const file = await openSafetensors(path);
  const json = file.metadata.state;
  if (json === undefined) {
    throw new InputError(
      "checkpoint-damaged",
      `${path}: this is not a training state of alignprop. Name the folder of a checkpoint.`,
      { path },
    );
  }
  const checked = savedState.safeParse(parseJson(json, path));
  if (!checked.success) {
    const key = checked.error.issues[0]?.path.join(".");
    throw new InputError("checkpoint-damaged", `${path}: the training state is damaged (${key}).`, { path, key });
  }
  const saved = checked.data;
  requireSameOrigin(path, saved, origin);

  const read = async (name: string): Promise<Float32Array> => {
    const stored = file.get(name);
    if (stored?.dtype !== "float32" || stored.shape.length !== 1 || stored.shape[0] !== layout.size) {
      const found = stored ? `${stored.dtype}${showShape(stored.shape)}` : "missing";
      const expected = `float32[${layout.size}]`;
      throw new InputError("checkpoint-damaged", `${path}: ${name} is ${found}, but this run trains ${expected}.`, {
        path,
        tensor: name,
        found,
        expected,
      });
    }
    return toFloat32(await readTensor(stored));
  };
  return {
    step: saved.step,
    history: saved.history,
    lossScale: saved.lossScale,
    cost: saved.cost,
    estimatorState: file.metadata.estimator === undefined ? undefined : parseJson(file.metadata.estimator, path),
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

function requireSameOrigin(path: string, saved: z.output<typeof savedState>, origin: Origin): void {
  const differences = settingsThatDiffer(saved.settings, origin.settings);
  if (differences.length > 0) {
    throw new InputError(
      "run-mismatch",
      `${path}: the run was made with other settings: ${differences.map(shown).join("; ")}. Resume with the same settings, or start a new run.`,
      {
        path,
        settings: differences.map(({ setting }) => setting),
        found: differences.map(({ now }) => now),
        expected: differences.map(({ before }) => before),
      },
    );
  }
  for (const part of ["model", "reward"] as const) {
    if (saved[part] === origin[part]) continue;
    const name = part === "model" ? origin.settings.model : rewardTitle(origin.settings.reward);
    throw new InputError(
      "run-mismatch",
      `${path}: the weights of the ${part} (${name}) have changed since the run was made. Restore the old weights, or start a new run.`,
      { path, part, name },
    );
  }
}

/** A resumed run may change these settings, because they do not affect the training. Weights have fingerprints of their own. */
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

/** A setting that changed, with its values as JSON. */
interface Difference {
  readonly setting: string;
  readonly before: string;
  readonly now: string;
}

/** `lora.rank is 8 now and was 4` */
function shown({ setting, before, now }: Difference): string {
  return `${setting} is ${now} now and was ${before}`;
}

function settingsThatDiffer(written: Readonly<Record<string, unknown>>, wanted: Settings): Difference[] {
  // Settings that an older version did not have get their defaults.
  const saved: Readonly<Record<string, unknown>> =
    settingsSchema.safeParse(withNewNames(written).value).data ?? written;
  const compare = (before: unknown, now: unknown, setting: string): Difference[] => {
    if (isRecord(before) && isRecord(now)) {
      return [...new Set([...Object.keys(before), ...Object.keys(now)])].flatMap((key) =>
        compare(before[key], now[key], `${setting}.${key}`),
      );
    }
    const [was, is] = [JSON.stringify(before), JSON.stringify(now)];
    return was === is ? [] : [{ setting, before: shorten(was), now: shorten(is) }];
  };
  const parts = ["prompts", "reward"];
  const current = Object.entries(wanted).filter(([key]) => !FREE.includes(key) && !parts.includes(key));
  return [
    ...current.flatMap(([key, value]) => compare(saved[key], value, key)),
    // The evaluation prompts and the location of the reward's weights do not affect what is trained.
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
 * Early stopping compares evaluations with each other, so they all have to measure the same. A measure that earlier evaluations
 * did not have can be added.
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

function shorten(json: string | undefined): string {
  if (json === undefined) return "not set";
  return json.length > 60 ? `${json.slice(0, 57)}…` : json;
}
