import { InputError } from "../errors/index.js";
import { vaeFactor } from "../models/vae/config.js";
import type { Pipeline } from "./pipeline.js";

/** Height and width of latents: those of the image divided by the VAE's factor. */
export interface LatentSize {
  readonly height: number;
  readonly width: number;
}

/**
 * The size of the latents of images of height x width pixels. `null` is the size that the model was trained at.
 *
 * @throws InputError `setting-invalid` if the model cannot generate that size, or if it is `null` and the model does not say
 */
export function latentSize(pipeline: Pipeline, height: number | null, width: number | null): LatentSize {
  const factor = vaeFactor(pipeline.vae);
  const unit = factor * 2 ** (pipeline.unet.levels.length - 1);
  const side = (name: "height" | "width", pixels: number | null, trained: number | undefined): number => {
    const found = pixels ?? (trained === undefined ? undefined : trained * factor);
    const setting = `sampling.${name}`;
    if (found === undefined) {
      throw new InputError(
        "setting-invalid",
        `${setting}: the model in ${pipeline.path} does not say which size it was trained at (unet/config.json has no sample_size). Give ${setting} in pixels.`,
        { setting, found: null, path: pipeline.path, key: "sample_size" },
      );
    }
    if (found % unit !== 0) {
      const suggestion = Math.max(1, Math.round(found / unit)) * unit;
      throw new InputError(
        "setting-invalid",
        `${setting}: ${found} pixels is not a multiple of ${unit}, which this model needs; try ${suggestion}`,
        { setting, found, divisor: unit, suggestion },
      );
    }
    return found / factor;
  };
  const [trainedHeight, trainedWidth] = pipeline.unet.sampleSize ?? [];
  return { height: side("height", height, trainedHeight), width: side("width", width, trainedWidth) };
}
