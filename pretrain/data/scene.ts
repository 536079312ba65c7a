/** The content of an image as plain data: sampled from a seed, then rendered (render.ts) and described (captions.ts). */
import type { Rng } from "../../src/tensor/rng.js";
import { ANIMALS } from "./animals.js";
import { STYLES, type Style } from "./icons.js";

/** Flat backgrounds, sRGB. Mid-light tones: white geese, black ants and orange foxes all stand out on most of them. */
export const BACKGROUNDS = {
  white: [255, 255, 255],
  gray: [158, 165, 174],
  red: [232, 88, 80],
  yellow: [250, 214, 88],
  green: [118, 200, 120],
  blue: [104, 174, 240],
  purple: [164, 130, 226],
  pink: [250, 172, 200],
} as const satisfies Record<string, readonly [number, number, number]>;
export type Background = keyof typeof BACKGROUNDS;
export const BACKGROUND_NAMES = Object.keys(BACKGROUNDS) as Background[];

/** Treatments of the colours of a whole image. Only the reward models are trained on treated images, not the generator. */
export const TREATMENTS = ["vivid", "pale", "dark"] as const;
export type Treatment = (typeof TREATMENTS)[number];

export interface Scene {
  readonly animal: string;
  readonly style: Style;
  readonly background: Background;
  /** One to four equal copies in a neat arrangement. */
  readonly count: 1 | 2 | 3 | 4;
  /** Radians, clockwise. */
  readonly tilt: number;
  readonly flip: boolean;
  /** Size of the drawing as a share of the largest that fits in its slot. */
  readonly scale: number;
  /** Position within the free space of its slot, -1 … 1 from left to right and from top to bottom. */
  readonly shift: readonly [number, number];
  readonly treatment?: Treatment;
}

export interface SceneVariation {
  /** Share of images with two, three or four animals. */
  readonly several?: number;
  /** Largest tilt in degrees, in both directions. */
  readonly tilt?: number;
  readonly minimumScale?: number;
  /** Share of images with a colour treatment; 0 for the generator. */
  readonly treated?: number;
}

export function sampleScene(
  rng: Rng,
  { several = 0.2, tilt = 10, minimumScale = 0.8, treated = 0 }: SceneVariation = {},
): Scene {
  const scene: Scene = {
    animal: rng.choice(ANIMALS),
    style: rng.choice(STYLES),
    background: rng.choice(BACKGROUND_NAMES),
    count: rng.uniform() < several ? rng.choice([2, 3, 4] as const) : 1,
    tilt: (rng.uniform() * 2 - 1) * tilt * (Math.PI / 180),
    flip: rng.uniform() < 0.5,
    scale: minimumScale + rng.uniform() * (1 - minimumScale),
    shift: [rng.uniform() * 2 - 1, rng.uniform() * 2 - 1],
  };
  return rng.uniform() < treated ? { ...scene, treatment: rng.choice(TREATMENTS) } : scene;
}
