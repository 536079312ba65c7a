import type { SettingsPart } from "../config/index.js";
import type { StepResult } from "../engine/index.js";
import { InputError } from "../errors/index.js";
import type { Estimator } from "../estimators/index.js";

/**
 * Adds the step to errors of bad input and, if numbers are no longer finite, a remedy.
 *
 * @throws InputError with the code of the error, its facts, and `step`
 */
export async function atStep<T>(step: number, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    const message = `step ${step}: ${error.message}`;
    const facts = { ...error.facts, step };
    if (error.code !== "not-finite") throw new InputError(error.code, message, facts, { cause: error });
    const sentence = `${message.replace(/\.$/, "")}. Training stopped.`;
    throw step === 0
      ? new InputError(error.code, `${sentence} Nothing has been trained yet. Are the model's weights damaged?`, facts)
      : new InputError(
          error.code,
          `${sentence} Earlier checkpoints are kept. Start again with a lower optimizer.learning_rate, or back-propagate through fewer denoising steps (estimator.truncation).`,
          { ...facts, suggestions: ["optimizer.learning_rate", "estimator.truncation"] },
        );
  }
}

/**
 * Every sample of a step has a reward, unless the estimator did not score it. The mean reward would then be that of other
 * samples, or NaN.
 *
 * @throws InputError `estimator-invalid`
 */
export function requireScored({ batch: { total } }: SettingsPart<"batch">, { name }: Pick<Estimator, "name">) {
  return (result: StepResult): StepResult => {
    const scored = result.rewards.length;
    if (scored === total) return result;
    throw new InputError(
      "estimator-invalid",
      `the estimator ${name} scored ${scored} of ${total} samples. Its addGradient must call context.scoreWithGradient or ` +
        "context.score for every group of samples that it gets.",
      { estimator: name, found: scored, expected: total },
    );
  };
}
