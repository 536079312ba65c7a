import { z } from "zod";
import type { Choose } from "../weights/hub/snapshot.js";
import type { Reward } from "./reward.js";

/** How a reward is to be trained on where a recipe does not say. */
export interface DefaultLoss {
  readonly form: "maximize" | "target";
  readonly target: number;
}

export const MAXIMIZE: DefaultLoss = { form: "maximize", target: 0 };

/** What a reward's opener is given beside its settings. */
export interface Opening {
  /**
   * Where a place lies on this machine: a path as it is, an id of the hub once it is fetched. `choose` says which files of
   * a repository are needed, where the id names none itself.
   */
  find(place: string, choose: (what: string) => Choose): Promise<string>;
  /** What the names of its tensors begin with: `reward`, or `reward.0` in a combination. */
  readonly root: string;
}

/** A reward by name: the settings it takes and how it is opened. */
export interface RewardKind<S extends z.ZodObject = z.ZodObject> {
  readonly schema: S;
  readonly loss: DefaultLoss;
  open(settings: z.output<S>, opening: Opening): Promise<Reward> | Reward;
}

/** Keeps the schema's type. */
export function rewardKind<S extends z.ZodObject>(kind: RewardKind<S>): RewardKind<S> {
  return kind;
}

/** A path, an id of the hub (`org/name`), or a file of one (`org/name/weights.pt`). */
export const place = z.string().min(1).max(4096);

/** What every reward can be told. */
export const common = {
  /** Pictures judged at once; `null`: as many as are sampled at once. Fewer take less memory. */
  batch: z.int().min(1).max(4096).nullable().default(null),
};

/** Places that are paths, for an opener without the hub. */
export const pathsOnly: Pick<Opening, "find"> = { find: async (path) => path };
