/**
 * Compressibility: minus the size of the image as a JPEG in kilobytes, a reward of DDPO (Black et al. 2023,
 * arXiv 2305.13301). The size is an estimate that has a gradient (`jpeg.ts`). Incompressibility is its negative.
 *
 * - Input: the image at its own size, so only scores of images of one size are comparable.
 * - Range: 0 to about -0.4 kilobytes per 1000 pixels, at quality 95.
 * - Weights: none.
 */
import { z } from "zod";
import type { Value } from "../../graph/value.js";
import { neg } from "../../ops/index.js";
import { fromTensors } from "../../weights/source.js";
import { commonSettings, MAXIMIZE, rewardKind } from "../kind.js";
import type { Reward } from "../reward.js";
import { jpegKilobytes } from "./jpeg.js";

const settings = {
  ...commonSettings,
  /** Quality of libjpeg, 1 to 100. DDPO uses 95. */
  quality: z.int().min(1).max(100).default(95),
};

function jpegReward(name: string, batch: number | null, rewards: (images: Value) => Value): Reward {
  return {
    name,
    weights: fromTensors(new Map()),
    ...(batch !== null && { batch }),
    build: (images) => ({ rewards: rewards(images), inputs: {} }),
    feeds: () => ({}),
    warnings: () => [],
  };
}

export const compressibility = rewardKind({
  schema: z.strictObject({ name: z.literal("compressibility"), ...settings }),
  loss: MAXIMIZE,
  open: ({ batch, quality }) =>
    jpegReward("compressibility", batch, (images) => neg(jpegKilobytes(images, { quality }))),
});

export const incompressibility = rewardKind({
  schema: z.strictObject({ name: z.literal("incompressibility"), ...settings }),
  loss: MAXIMIZE,
  open: ({ batch, quality }) => jpegReward("incompressibility", batch, (images) => jpegKilobytes(images, { quality })),
});
