/** Finds out what the U-Net of a single file was trained to predict. */
import { readTensor, type WeightSource } from "../source.js";
import type { Family } from "./family.js";

/** The same values as in diffusion/ddim.ts. */
type Prediction = "epsilon" | "v_prediction" | "sample";

/** The settings of the scheduler that depend on how the U-Net was trained. */
export interface PredictionConfig {
  readonly prediction_type: Prediction;
  readonly rescale_betas_zero_snr?: true;
  readonly timestep_spacing?: "trailing";
}

export interface PredictionOptions {
  /** What the U-Net predicts. Default: as the file says, or else as is usual for its family. */
  readonly prediction?: Prediction | undefined;
  /** A diffusers folder whose configurations and tokenizers replace the derived ones. Its weights are ignored. */
  readonly config?: string | undefined;
  /** Receives a message about each property that had to be guessed. */
  readonly note?: ((message: string) => void) | undefined;
}

/** The training step of 2.0-base, the only 2.x model that can be recognized for certain. */
const STEP_OF_2_0_BASE = 875_000;

/**
 * What the U-Net was trained to predict does not show in its weights. Newer files say it in their header (the
 * `modelspec` convention) or with an empty tensor `v_pred`, and with `ztsnr` if the betas were rescaled to zero
 * terminal SNR. Otherwise 1.x and SDXL predict the noise. Of 2.x, the base models predict the noise and the 768-pixel
 * models predict v, and only the training step of 2.0-base tells them apart.
 */
export async function predictionOf(
  source: WeightSource,
  metadata: Readonly<Record<string, string>>,
  family: Family,
  { prediction, config, note = () => {} }: PredictionOptions,
): Promise<PredictionConfig> {
  if (prediction) return { prediction_type: prediction };
  if (source.get("v_pred")) {
    const zeroSnr = source.get("ztsnr")
      ? ({ rescale_betas_zero_snr: true, timestep_spacing: "trailing" } as const)
      : {};
    return { prediction_type: "v_prediction", ...zeroSnr };
  }
  const declared = metadata["modelspec.prediction_type"];
  if (declared === "v") return { prediction_type: "v_prediction" };
  if (declared === "epsilon") return { prediction_type: "epsilon" };
  // With loading.config, the user's scheduler configuration is used instead of this one.
  if (family !== "Stable Diffusion 2.x" || config !== undefined) return { prediction_type: "epsilon" };
  const step = source.get("global_step");
  if (step && step.shape.length === 0 && Number((await readTensor(step)).data[0]) === STEP_OF_2_0_BASE) {
    return { prediction_type: "epsilon" };
  }
  note(
    `${source.describe} does not say what it predicts. It is treated as a 768-pixel model of Stable Diffusion 2.x, which ` +
      "predicts v. For a 512-pixel model, set loading.prediction_type=epsilon and sampling.height and sampling.width to 512",
  );
  return { prediction_type: "v_prediction" };
}
