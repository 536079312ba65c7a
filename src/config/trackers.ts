/** The settings of experiment trackers, which record a run besides its folder (`src/runs/trackers/`). */
import { z } from "zod";

const text = z.string().min(1).max(500);

const tracker = z.discriminatedUnion("name", [
  /** Writes event files into the run's folder. */
  z.strictObject({ name: z.literal("tensorboard") }),
  z.strictObject({
    name: z.literal("mlflow"),
    /** Address of the tracking server. `null`: the environment variable MLFLOW_TRACKING_URI. */
    uri: text.nullable().default(null),
    /** Name of the experiment, which is created if it does not exist. `null`: MLFLOW_EXPERIMENT_NAME, or else `alignprop`. */
    experiment: text.nullable().default(null),
  }),
  z.strictObject({
    name: z.literal("wandb"),
    /** Name of the project. `null`: WANDB_PROJECT, or else `alignprop`. */
    project: text.max(128).nullable().default(null),
    /** The user or team that owns the project. `null`: WANDB_ENTITY, or else the default of the account. */
    entity: text.max(128).nullable().default(null),
    /** `offline` writes files for `wandb sync`. `null`: WANDB_MODE, or else `online`. */
    mode: z.enum(["online", "offline"]).nullable().default(null),
  }),
]);

/** `tensorboard` is short for `{ name: tensorboard }`. */
export const trackerSettings = z
  .array(z.preprocess((value) => (typeof value === "string" ? { name: value } : value), tracker))
  .max(8)
  .refine((trackers) => new Set(trackers.map(({ name }) => name)).size === trackers.length, {
    error: "name each tracker once",
  });

export type TrackerSettings = z.output<typeof tracker>;
export type TrackerName = TrackerSettings["name"];
export type SettingsOf<N extends TrackerName> = Extract<TrackerSettings, { name: N }>;

/** The names that `--track` accepts. */
export const trackerNames = ["tensorboard", "mlflow", "wandb"] as const satisfies readonly TrackerName[];
