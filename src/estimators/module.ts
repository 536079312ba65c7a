/**
 * An estimator from a user's file: a JavaScript module whose default export is an `Estimator`, or a function that creates one
 * from an `EstimatorToolkit` and the recipe's options. The file runs as a program: use only files that you trust.
 */
import { z } from "zod";
import { noised, predicted } from "../diffusion/ddim.js";
import { pullback, stack, take } from "../diffusion/trajectory.js";
import { InputError } from "../errors/index.js";
import { loadUserModule, MODULE_FILE } from "../io/user-module.js";
import { type Estimator, estimatorKind } from "./estimator.js";

/** Functions passed to a module, so that it needs no imports. */
export interface EstimatorToolkit {
  /** Back-propagates dL/dx_0 through a sampled chain (`src/diffusion/trajectory.ts`). */
  readonly pullback: typeof pullback;
  /** x̂_0 or ε̂ from latents and the U-Net's output; latents noised to a given level (`src/diffusion/ddim.ts`). */
  readonly predicted: typeof predicted;
  readonly noised: typeof noised;
  /** Joins the rows of several samples into one array; selects some rows of it. */
  readonly stack: typeof stack;
  readonly take: typeof take;
}

/** The default export of a file named by `estimator: ./FILE.js`. */
export type EstimatorModule =
  | Estimator
  | ((toolkit: EstimatorToolkit, options: Readonly<Record<string, unknown>>) => Estimator | Promise<Estimator>);

type MakesEstimator = Extract<EstimatorModule, (...args: never[]) => unknown>;

export const module = estimatorKind({
  schema: z.strictObject({
    name: z.literal("module"),
    file: z.string().min(1).max(4096).regex(MODULE_FILE, "must be a .js or .mjs file; compile TypeScript first (tsc)"),
    /** Passed to the module's function. */
    options: z.record(z.string(), z.unknown()).default({}),
  }),
  async create({ file, options }) {
    const toolkit = { pullback, predicted, noised, stack, take };
    const made = await loadUserModule({ kind: "estimator", file }, (make) =>
      (make as MakesEstimator)(toolkit, options),
    );
    const problem = problemOf(made);
    if (problem === undefined) return made as Estimator;
    throw new InputError(
      "estimator-invalid",
      `estimator ${file}: the default export is not an estimator: ${problem}. Export an estimator, or a function (toolkit, options) => estimator.`,
      { path: file, problem },
    );
  },
});

function problemOf(made: unknown): string | undefined {
  const { kind, name, usesRewardGradient, ...rest } = (made ?? {}) as Record<string, unknown>;
  if (typeof name !== "string") return "name must be a string";
  if (typeof usesRewardGradient !== "boolean") return "usesRewardGradient must be true or false";
  if (kind !== "direct" && kind !== "rollout") return 'kind must be "direct" or "rollout"';
  if (kind === "rollout" && usesRewardGradient) return 'usesRewardGradient must be false if kind is "rollout"';
  const functions = kind === "direct" ? ["mask", "needsDx", "addGradient"] : ["minibatches", "weigh", "addGradient"];
  const absent = functions.find((key) => typeof rest[key] !== "function");
  return absent && `${absent} must be a function`;
}
