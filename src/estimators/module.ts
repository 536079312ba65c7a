/**
 * An estimator from a file of the user's: a JavaScript module whose default export is an `Estimator` or a function that makes
 * one from `EstimatorToolkit` and the recipe's options. It is the user's own program and runs as such: give no file that you
 * would not run yourself.
 */
import { z } from "zod";
import { noised, predicted } from "../diffusion/ddim.js";
import { pullback, stack, take } from "../diffusion/trajectory.js";
import { InputError } from "../errors/index.js";
import { loadUserModule, MODULE_FILE } from "../io/user-module.js";
import { type Estimator, estimatorKind } from "./estimator.js";

/** What a module is given, so that it needs to import nothing. */
export interface EstimatorToolkit {
  /** Walks dL/dx_0 back through a chain that was sampled (`src/diffusion/trajectory.ts`). */
  readonly pullback: typeof pullback;
  /** x̂_0 or ε̂ from a latent and the U-Net's output, and the forward process in one jump (`src/diffusion/ddim.ts`). */
  readonly predicted: typeof predicted;
  readonly noised: typeof noised;
  /** Rows of pictures as one array, and some of them out of it. */
  readonly stack: typeof stack;
  readonly take: typeof take;
}

/** The default export of a file for `estimator: ./FILE.js`. */
export type EstimatorModule =
  | Estimator
  | ((toolkit: EstimatorToolkit, options: Readonly<Record<string, unknown>>) => Estimator | Promise<Estimator>);

type MakesEstimator = Extract<EstimatorModule, (...args: never[]) => unknown>;

export const module = estimatorKind({
  schema: z.strictObject({
    name: z.literal("module"),
    file: z.string().min(1).max(4096).regex(MODULE_FILE, "must be a .js or .mjs file; compile TypeScript first (tsc)"),
    /** Given to the module's function. */
    options: z.record(z.string(), z.unknown()).default({}),
  }),
  async create({ file, options }) {
    const toolkit = { pullback, predicted, noised, stack, take };
    const what = `estimator ${file}`;
    const made = await loadUserModule({ kind: "estimator", file }, (make) =>
      (make as MakesEstimator)(toolkit, options),
    );
    const absent = missing(made);
    if (absent === undefined) return made as Estimator;
    throw new InputError(
      "estimator-invalid",
      `${what}: its default export is no estimator (${absent}). Export one, or a function (toolkit, options) => estimator`,
    );
  },
});

function missing(made: unknown): string | undefined {
  const { kind, name, rewardGradient, ...rest } = (made ?? {}) as Record<string, unknown>;
  if (typeof name !== "string") return "name must be a text";
  if (typeof rewardGradient !== "boolean") return "rewardGradient must be true or false";
  if (kind !== "update" && kind !== "round") return 'kind must be "update" or "round"';
  if (kind === "round" && rewardGradient) return 'rewardGradient must be false where kind is "round"';
  const functions = kind === "update" ? ["mask", "needsDx", "learn"] : ["minibatches", "weigh", "learn"];
  const absent = functions.find((key) => typeof rest[key] !== "function");
  return absent && `${absent} must be a function`;
}
