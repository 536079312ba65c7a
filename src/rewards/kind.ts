/**
 * What a reward that a recipe can name consists of: its settings, its default loss, and a function that opens it. `registry.ts`
 * has the registry of all kinds.
 */
import { z } from "zod";
import type { Choose } from "../weights/hub/snapshot.js";
import type { Reward } from "./reward.js";

/** The loss that a recipe gets if it does not set `loss.form` and `loss.target`. */
export interface DefaultLoss {
  /** `maximize`: -reward; `target`: |reward - target|. */
  readonly form: "maximize" | "target";
  readonly target: number;
}

export const MAXIMIZE: DefaultLoss = { form: "maximize", target: 0 };

/** What a reward needs in order to load its weights. */
export interface OpenContext {
  /**
   * The local path of a location: a path stays as it is, an id of the Hugging Face hub is downloaded. `choose` selects the
   * files of a repository that are needed if the id does not name one.
   */
  find(location: string, choose: (what: string) => Choose): Promise<string>;
  /** Prefix of the names of the reward's tensors: `reward`, or `reward.0` for the first part of a combination. */
  readonly root: string;
}

/**
 * A kind of reward: the settings that it takes and how it is opened.
 *
 * @example
 * export const brightness = rewardKind({
 *   schema: z.strictObject({ name: z.literal("brightness"), ...commonSettings }),
 *   loss: MAXIMIZE,
 *   open: () => defineReward({ name: "brightness", build: (images) => mean(images, [1, 2, 3]) }),
 * });
 */
export interface RewardKind<S extends z.ZodObject = z.ZodObject> {
  readonly schema: S;
  readonly loss: DefaultLoss;
  /** @throws InputError if the files do not make up this reward. */
  open(settings: z.output<S>, context: OpenContext): Promise<Reward> | Reward;
}

/** Returns `kind`, with the type of its schema inferred. */
export function rewardKind<S extends z.ZodObject>(kind: RewardKind<S>): RewardKind<S> {
  return kind;
}

/** A path, an id on the Hugging Face hub (`org/name`), or a file in a repository (`org/name/weights.pt`). */
export const location = z.string().min(1).max(4096);

/** Settings that every reward takes. */
export const commonSettings = {
  /** Number of images that the reward scores at once; `null`: the sampling batch. A smaller number takes less memory. */
  batch: z.int().min(1).max(4096).nullable().default(null),
};

/** Resolves locations without the hub: each is a path. */
export const pathsOnly: Pick<OpenContext, "find"> = { find: async (path) => path };
