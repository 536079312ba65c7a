import { z } from "zod";
import type { Value } from "../../graph/value.js";
import { parseConfig } from "../../io/config-schema.js";
import { constant, div, resizeBilinear, sub } from "../../ops/index.js";

/** The normalization of pixels in preprocessor_config.json, per channel. */
export interface Normalization {
  readonly mean: readonly number[];
  readonly deviation: readonly number[];
}

/** The statistics of CLIP's training images. */
export const CLIP_NORMALIZATION: Normalization = {
  mean: [0.48145466, 0.4578275, 0.40821073],
  deviation: [0.26862954, 0.26130258, 0.27577711],
};

const triple = (number: z.ZodNumber) => z.array(number).length(3);
const schema = z.object({
  image_mean: triple(z.number()).default([...CLIP_NORMALIZATION.mean]),
  image_std: triple(z.number().positive()).default([...CLIP_NORMALIZATION.deviation]),
});

/**
 * Parses a preprocessor_config.json.
 * @throws InputError `config-invalid`
 */
export function parseNormalization(json: unknown, file = "preprocessor_config.json"): Normalization {
  const config = parseConfig(schema, json, file);
  return { mean: config.image_mean, deviation: config.image_std };
}

/**
 * Resizes and normalizes images for a reward: [b, 3, h, w] in 0 … 1 → pixels [b, 3, size, size]. The resize is bilinear
 * without antialiasing, as in the reference trainer. CLIP's own evaluation resizes bicubically and crops.
 */
export function clipPixels(
  images: Value,
  size: number,
  { mean, deviation }: Normalization = CLIP_NORMALIZATION,
): Value {
  const [, channels, height, width] = images.shape as [number, number, number, number];
  const resized = height === size && width === size ? images : resizeBilinear(images, [size, size]);
  const perChannel = (values: readonly number[]) => constant(values, [1, channels, 1, 1]);
  return div(sub(resized, perChannel(mean)), perChannel(deviation));
}
