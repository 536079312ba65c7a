/**
 * An estimator made in code and passed to `train`. A run records it by its title, so that the run is not resumed with another
 * estimator by mistake.
 */
import { z } from "zod";
import { InputError } from "../errors/index.js";
import { estimatorKind } from "./estimator.js";

export const code = estimatorKind({
  schema: z.strictObject({
    name: z.literal("code"),
    /** Name of the estimator. */
    title: z.string().max(4096),
  }),
  create({ title }) {
    throw new InputError(
      "estimator-invalid",
      `estimator: ${title} was made in code, so a recipe cannot open it. Pass it to the function as its option estimator, or choose another estimator.`,
      { setting: "estimator", estimator: title },
    );
  },
});
