/** Pretraining data, rendered on demand: sample `index` of a seed is the same on every machine and in any order. */
import { Rng } from "../../src/tensor/rng.js";
import { animalIndex } from "./animals.js";
import { describe, sampleTelling, type Telling } from "./captions.js";
import type { Icons } from "./icons.js";
import { IMAGE_LENGTH, renderScene } from "./render.js";
import { type Scene, type SceneVariation, sampleScene } from "./scene.js";

export interface Sample {
  readonly scene: Scene;
  /** The attributes that the caption mentions. */
  readonly telling: Telling;
  readonly caption: string;
}

/** The scene and the caption of sample `index`. Cheap, because nothing is rendered. */
export function sampleAt(seed: number, index: number, variation: SceneVariation = {}): Sample {
  const rng = new Rng(seed, index);
  const scene = sampleScene(rng, variation);
  const telling = sampleTelling(rng);
  return { scene, telling, caption: describe(scene, telling) };
}

export interface Batch {
  readonly samples: readonly Sample[];
  /** [samples, 3, 64, 64], -1 … 1. */
  readonly images: Float32Array;
  /** Indices into ANIMALS, for the classifier. */
  readonly labels: Int32Array;
}

/** Samples `start` … `start + size - 1` of the stream with this seed. */
export function batchAt(
  icons: Icons,
  { seed, start, size, ...variation }: { seed: number; start: number; size: number } & SceneVariation,
): Batch {
  const samples = Array.from({ length: size }, (_, i) => sampleAt(seed, start + i, variation));
  return { samples, ...renderBatch(samples, icons) };
}

export function renderBatch(samples: readonly Sample[], icons: Icons): Pick<Batch, "images" | "labels"> {
  const images = new Float32Array(samples.length * IMAGE_LENGTH);
  samples.forEach(({ scene }, i) => {
    renderScene(scene, icons, images, i * IMAGE_LENGTH);
  });
  return { images, labels: Int32Array.from(samples, ({ scene }) => animalIndex(scene.animal)) };
}
