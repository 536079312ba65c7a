/** Reads a run folder back: its settings, metrics, best and last checkpoint, and their evaluations. */
import { basename, join } from "node:path";
import { loadSettings, type Settings } from "../config/index.js";
import { InputError } from "../errors/index.js";
import { readImage } from "../images/read.js";
import type { RgbImage } from "../images/rgb.js";
import type { EvaluationResult } from "../scoring/index.js";
import type { StepMetrics } from "../train/index.js";
import type { LoraAdapter } from "../weights/lora-files.js";
import { requireLora } from "../weights/read-adapter.js";
import type { WeightSource } from "../weights/source.js";
import {
  bestStep,
  checkpointFolder,
  isRun,
  openAdapter,
  openTuned,
  readEvaluation,
  readHistory,
  readMetrics,
  readSamples,
  runFiles,
  samplesFolder,
  savedSteps,
  stepsIn,
} from "./record/index.js";

/** A run as its folder has it. */
export interface SavedRun {
  /** Path of the run folder. */
  readonly folder: string;
  /** Path of `report.html`. */
  readonly report: string;
  /** The resolved settings of `config.yaml`. */
  readonly settings: Settings;
  /** One entry per step: the rows of `metrics.jsonl`. */
  readonly metrics: readonly StepMetrics[];
  /** Evaluation of the base model, before training. */
  readonly base?: EvaluationResult | undefined;
  /**
   * The best checkpoint by `early_stop`, or by the highest evaluation reward without it; the last one if none was evaluated.
   * Undefined before the first checkpoint.
   */
  readonly best?: SavedCheckpoint | undefined;
  /** The last checkpoint. */
  readonly last?: SavedCheckpoint | undefined;
  /** The adapter of the best checkpoint. Undefined with `trainable: unet`. */
  readonly adapter?: LoraAdapter | undefined;
  /** The evaluation of the best checkpoint: its images and their rewards. */
  readonly evaluation?: EvaluationResult | undefined;
}

export interface SavedCheckpoint {
  readonly step: number;
  /** Folder of the checkpoint, with the adapter in the formats of diffusers and of kohya's sd-scripts. */
  readonly folder: string;
  /** Undefined with `trainable: unet`. */
  readonly adapter?: LoraAdapter | undefined;
  /** The weights of the U-Net; only with `trainable: unet`. */
  readonly unet?: WeightSource | undefined;
  /** Undefined if this step did not evaluate. */
  readonly evaluation?: EvaluationResult | undefined;
}

/**
 * Loads a run from its folder. The evaluations come without `parts`.
 *
 * @throws InputError `run-not-found` if the folder is not a run folder
 * @example
 * const { settings, adapter } = await loadRun("runs/default-1");
 * const images = await generate({ ...settings, images: [{ prompt: "fox", seed: 7 }], adapter });
 */
export async function loadRun(folder: string): Promise<SavedRun> {
  const config = join(folder, runFiles.config);
  if (!(await isRun(folder))) {
    throw new InputError(
      "run-not-found",
      `${folder}: this is not a run folder: it has no ${runFiles.config}. Name the folder of a run.`,
      { path: folder, missing: runFiles.config },
    );
  }
  const settings = await loadSettings({ recipe: config });
  const metrics = await readMetrics(folder);
  const steps = await savedSteps(folder);
  const lastStep = steps.at(-1);
  const best = bestStep(steps, await readHistory(folder, metrics), settings.early_stop) ?? lastStep;

  const evaluated = await stepsIn(join(folder, runFiles.samples));
  const evaluationAt = async (step: number) =>
    evaluated.includes(step) ? await loadEvaluation(folder, step) : undefined;
  const checkpointAt = async (step: number): Promise<SavedCheckpoint> => {
    const path = checkpointFolder(folder, step);
    const tuned = await openTuned(path);
    const weights = "adapter" in tuned ? { adapter: requireLora(tuned.adapter, path) } : tuned;
    return { step, folder: path, ...weights, evaluation: await evaluationAt(step) };
  };
  const bestCheckpoint = best === undefined ? undefined : await checkpointAt(best);
  const lastCheckpoint = lastStep === undefined || lastStep === best ? bestCheckpoint : await checkpointAt(lastStep);
  return {
    folder,
    report: join(folder, runFiles.report),
    settings,
    metrics,
    base: await evaluationAt(0),
    best: bestCheckpoint,
    last: lastCheckpoint,
    adapter: bestCheckpoint?.adapter,
    evaluation: bestCheckpoint?.evaluation,
  };
}

/** The images of an evaluation in a run folder, with their rewards. PNG files are lossless, so the images are the same. */
async function loadEvaluation(folder: string, step: number): Promise<EvaluationResult> {
  const { step: _, ...rewards } = await readEvaluation(folder, step);
  const samples = await readSamples(folder, step);
  const images: RgbImage[] = [];
  for (const { file } of samples) images.push(await readImage(join(samplesFolder(folder, step), basename(file))));
  return {
    ...rewards,
    prompts: samples.map(({ prompt }) => prompt),
    seeds: samples.map(({ seed }) => seed),
    images,
  };
}

/**
 * Loads a LoRA adapter from a run folder (its best checkpoint), the folder of a checkpoint, or a file in the format of
 * diffusers, PEFT or kohya's sd-scripts.
 *
 * @throws InputError `adapter-unsupported` or `file-malformed` if a file is not a LoRA adapter
 * @example
 * const adapter = await loadAdapter("runs/default-1");
 */
export function loadAdapter(
  path: string,
  { warn }: { readonly warn?: (message: string) => void } = {},
): Promise<LoraAdapter> {
  return openAdapter(path, "loadAdapter() loads adapters. Use loadRun() and pass `best.unet`", { warn });
}
