/**
 * How well a picture compresses: minus its size as a JPEG of quality 95 in kilobytes, the reward of DDPO (Black et al. 2023,
 * arXiv 2305.13301), here through an estimate that has a gradient (`jpeg.ts`). Incompressibility is its
 * negative.
 */
import { neg } from "../ops/index.js";
import { fromTensors } from "../weights/source.js";
import { jpegKilobytes } from "./jpeg.js";
import type { Reward } from "./reward.js";

export function compressibility(): Reward {
  return {
    name: "compressibility",
    weights: fromTensors(new Map()),
    build: (images) => ({ rewards: neg(jpegKilobytes(images)), inputs: {} }),
    feeds: () => ({}),
    warnings: () => [],
  };
}

export function incompressibility(): Reward {
  return {
    name: "incompressibility",
    weights: fromTensors(new Map()),
    build: (images) => ({ rewards: jpegKilobytes(images), inputs: {} }),
    feeds: () => ({}),
    warnings: () => [],
  };
}
