import { InputError } from "../errors/index.js";

/**
 * Adds the step to errors of bad input. Numbers that are no longer finite end the run; earlier checkpoints stay as they are.
 *
 * @throws InputError with the code of the error, its facts, and `step`
 */
export async function atStep<T>(step: number, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    const remedy =
      error.code === "not-finite" ? `. Training stopped; earlier checkpoints are kept. ${remedyAt(step)}` : "";
    throw new InputError(error.code, `step ${step}: ${error.message}${remedy}`, { ...error.facts, step });
  }
}

function remedyAt(step: number): string {
  return step === 0
    ? "Nothing has been trained yet. Are the model's weights damaged?"
    : "Start again with a lower optimizer.learning_rate, or keep the gradient of fewer steps (estimator.truncation).";
}
