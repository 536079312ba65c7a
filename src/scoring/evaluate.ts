/** Evaluates a model, or an adapter on it, outside of a training run. */

import { evaluationPrompts, runtimeOptions, type SettingsPart } from "../config/index.js";
import {
  annealingOf,
  applyAdapter,
  choosePrecision,
  type OpenListener,
  openModel,
  promptWarnings,
  Sampler,
  withUnet,
} from "../pipeline/index.js";
import type { Reward } from "../rewards/index.js";
import { Runtime } from "../runtime/runtime.js";
import type { Adapter } from "../weights/lora-files.js";
import type { WeightSource } from "../weights/source.js";
import type { EvaluationResult } from "./evaluation.js";
import { Evaluator } from "./evaluator.js";
import { openMonitors } from "./monitors.js";
import { openSettingsReward } from "./open-reward.js";

export interface EvaluateOptions extends OpenListener {
  /** An adapter on the model; without it, the base model is evaluated. */
  readonly adapter?: Adapter | undefined;
  /** A reward made in code (`defineReward`), which replaces that of the settings. */
  readonly reward?: Reward | undefined;
  /** Weights that replace those of the model's U-Net. */
  readonly unet?: WeightSource | undefined;
  /** Power of annealed guidance from the base model to the fine-tuned one (`diffusion/annealing.ts`). */
  readonly anneal?: number | undefined;
}

/** The sections of the settings that an evaluation uses. */
export type EvaluateSettings = SettingsPart<
  "model" | "loading" | "device" | "threads" | "precision" | "reward" | "evaluation" | "prompts" | "sampling"
>;

/**
 * Generates the evaluation images with a model, or with an adapter on it, and scores them: one image for each prompt and each of
 * `evaluation.seeds_per_prompt` seeds, on the same noise in every evaluation.
 *
 * @throws InputError if the model or the reward cannot be opened, `adapter-mismatch` if the adapter does not fit the model,
 * `not-finite` if an image or its reward is not finite
 * @example
 * const settings = await loadSettings({ recipe: "default" });
 * const adapter = await loadAdapter("runs/default-1");
 * const { mean, images } = await evaluate(settings, { adapter });
 */
export async function evaluate(
  settings: EvaluateSettings,
  { adapter, unet, reward: given, anneal, ...listener }: EvaluateOptions = {},
): Promise<EvaluationResult> {
  const { signal, warn = () => {} } = listener;
  const model = await openModel(settings, listener);
  const { pipeline, lora } = await applyAdapter(withUnet(model, unet), adapter);
  const reward = given ?? (await openSettingsReward(settings, listener));
  const monitors = await openMonitors(settings, listener);
  const prompts = evaluationPrompts(settings);
  const scorers = [reward, ...(monitors.heldOut ? [monitors.heldOut] : [])];
  for (const message of promptWarnings(pipeline, prompts)) warn(message);
  for (const message of scorers.flatMap((scorer) => scorer.warnings(prompts))) warn(message);
  const { sampling, evaluation } = settings;
  const runtime = await Runtime.start(runtimeOptions(settings));
  try {
    const options = {
      batch: Math.min(evaluation.batch, prompts.length * evaluation.seeds_per_prompt),
      negativePrompt: settings.prompts.negative,
      precision: await choosePrecision(settings, runtime, warn),
    };
    const sampler = await Sampler.compile(runtime, pipeline, sampling, { ...options, layout: lora?.layout });
    const base =
      anneal !== undefined && pipeline !== model ? await Sampler.compile(runtime, model, sampling, options) : undefined;
    const parameters = lora?.weights;
    const annealing = annealingOf({ power: anneal, sampler, base, parameters });
    const evaluator = new Evaluator({ replicas: [{ runtime, sampler }], reward, settings, monitors });
    return await evaluator.evaluate(parameters, { signal, annealing });
  } finally {
    await runtime.close();
  }
}
