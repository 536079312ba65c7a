/** Finds out what the U-Net of a single file was trained to predict. */
import { InputError, quote } from "../../errors/index.js";
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
  options: PredictionOptions,
): Promise<PredictionConfig> {
  refuseEdm(source);
  const prediction_type =
    options.prediction ?? declaredPrediction(source, metadata) ?? (await usualPrediction(source, family, options));
  if (!source.get("ztsnr")) return { prediction_type };
  if (prediction_type === "v_prediction") return { prediction_type, ...ZERO_SNR };
  options.note?.(
    `${source.describe} has a tensor ztsnr, which stands for rescaled betas. It is ignored, because they work only with ` +
      `v_prediction, and this model is taken to predict ${prediction_type}. If it predicts v, set ` +
      "loading.prediction_type=v_prediction",
  );
  return { prediction_type };
}

const ZERO_SNR = { rescale_betas_zero_snr: true, timestep_spacing: "trailing" } as const;

/** The tensors by which ComfyUI, too, recognizes EDM (Karras et al. 2022): Playground v2.5 and CosXL. */
const EDM = ["edm_mean", "edm_std", "edm_vpred.sigma_max", "edm_vpred.sigma_min"];

function refuseEdm(source: WeightSource): void {
  const tensor = EDM.find((name) => source.get(name));
  if (tensor === undefined) return;
  throw new InputError(
    "model-unsupported",
    `${source.describe}: is an EDM model (it has a tensor ${tensor}), such as Playground v2.5 or CosXL. EDM is not ` +
      "supported: its noise has another range. Use Stable Diffusion XL base or a fine-tune of it.",
    { path: source.describe, found: "EDM", tensor },
  );
}

/** What the file itself says. */
function declaredPrediction(source: WeightSource, metadata: Readonly<Record<string, string>>): Prediction | undefined {
  if (source.get("v_pred")) return "v_prediction";
  const key = "modelspec.prediction_type";
  const declared = metadata[key];
  if (declared === undefined) return undefined;
  const known = { v: "v_prediction", v_prediction: "v_prediction", epsilon: "epsilon", sample: "sample" } as const;
  if (Object.hasOwn(known, declared)) return known[declared as keyof typeof known];
  throw new InputError(
    "model-unsupported",
    `${source.describe}: its header says that it predicts ${quote(declared)} (${key}); supported: ` +
      `${Object.keys(known).join(", ")}. If the header is wrong, set loading.prediction_type.`,
    { path: source.describe, key, found: declared, expected: Object.keys(known), setting: "loading.prediction_type" },
  );
}

/** What models of the family usually predict. */
async function usualPrediction(
  source: WeightSource,
  family: Family,
  { config, note = () => {} }: PredictionOptions,
): Promise<Prediction> {
  // With loading.config, the user's scheduler configuration is used instead of this one.
  if (family !== "Stable Diffusion 2.x" || config !== undefined) return "epsilon";
  const step = source.get("global_step");
  if (step && step.shape.length === 0 && Number((await readTensor(step)).data[0]) === STEP_OF_2_0_BASE) {
    return "epsilon";
  }
  note(
    `${source.describe} does not say what it predicts. It is treated as a 768-pixel model of Stable Diffusion 2.x, which ` +
      "predicts v. For a 512-pixel model, set loading.prediction_type=epsilon and sampling.height and sampling.width to 512",
  );
  return "v_prediction";
}
