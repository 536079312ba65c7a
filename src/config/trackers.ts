/** The settings of trackers, the places beside the run's folder that a run is watched from (`src/runs/trackers/`). */
import { z } from "zod";

const text = z.string().min(1).max(500);

const tracker = z.discriminatedUnion("name", [
  /** Event files in the run's folder. */
  z.strictObject({ name: z.literal("tensorboard") }),
  z.strictObject({
    name: z.literal("mlflow"),
    /** The server's address; `null`: MLFLOW_TRACKING_URI. */
    uri: text.nullable().default(null),
    /** `null`: MLFLOW_EXPERIMENT_NAME, or `alignprop`. It is made where it is not there. */
    experiment: text.nullable().default(null),
  }),
  z.strictObject({
    name: z.literal("wandb"),
    /** `null`: WANDB_PROJECT, or `alignprop`. */
    project: text.max(128).nullable().default(null),
    /** `null`: WANDB_ENTITY, or the account's own. */
    entity: text.max(128).nullable().default(null),
    /** `offline` writes what `wandb sync` sends; `null`: WANDB_MODE, or `online`. */
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

/** The names that `--track` takes. */
export const trackerNames = ["tensorboard", "mlflow", "wandb"] as const satisfies readonly TrackerName[];
