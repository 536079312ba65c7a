import path from "node:path";
import { writeFileAtomic } from "../src/io/atomic.js";
import type { Runtime } from "../src/runtime/runtime.js";
import type { HostTensor } from "../src/tensor/host.js";
import { classifyImages } from "./classifier.js";
import { ANIMALS, animalIndex } from "./data/animals.js";
import { batchAt } from "./data/dataset.js";
import type { Icons } from "./data/icons.js";
import { IMAGE_LENGTH } from "./data/render.js";
import { writeGrid } from "./grid.js";
import { generateImages } from "./preview.js";

const SEEDS = [0, 1, 2, 3];

/** Accuracy of the classifier on renderings that it was not trained on, and on images that the model generates for bare names. */
export interface Quality {
  readonly renderings: number;
  /** The name in `quality.json` of the accuracy on generated images. */
  readonly drawn: number;
  /** Number of correctly classified images of each animal, out of 4. */
  readonly perAnimal: Readonly<Record<string, number>>;
}

/** Generates 51 animals x 4 seeds with the model in `folder`. Writes `emoji-64-grid.png` and `quality.json` into `out`. */
export async function quality(
  runtime: Runtime,
  icons: Icons,
  classifier: ReadonlyMap<string, HostTensor>,
  { folder, out, seed }: { folder: string; out: string; seed: number },
): Promise<Quality> {
  const size = 256;
  const fresh = batchAt(icons, { seed: seed + 1000, start: 0, size, several: 0 });
  const predicted = await classifyImages(runtime, classifier, fresh.images);
  const renderings = predicted.filter((animal, i) => animal === fresh.labels[i]).length / size;

  const requests = ANIMALS.flatMap((prompt) => SEEDS.map((seed) => ({ prompt, seed })));
  const images = await generateImages(runtime, folder, requests);
  const found = await classifyImages(runtime, classifier, images);
  const correct = found.map((animal, i) => animal === animalIndex(requests[i]?.prompt ?? ""));
  const perAnimal = Object.fromEntries(
    ANIMALS.map((animal, i) => [animal, SEEDS.filter((_, j) => correct[i * SEEDS.length + j]).length]),
  );
  const result = { renderings, drawn: correct.filter(Boolean).length / correct.length, perAnimal };

  // Nine animals per row, each as a block of 2 x 2 images.
  const blocks: Float32Array[] = [];
  const labels: string[] = [];
  const perRow = 9;
  for (let start = 0; start < ANIMALS.length; start += perRow) {
    const row = ANIMALS.slice(start, start + perRow);
    for (const half of [0, 1]) {
      for (let i = 0; i < perRow; i++) {
        for (const j of [0, 1]) {
          const at = ((start + i) * SEEDS.length + half * 2 + j) * IMAGE_LENGTH;
          blocks.push(i < row.length ? images.subarray(at, at + IMAGE_LENGTH) : new Float32Array(IMAGE_LENGTH).fill(1));
          labels.push(half === 1 && j === 0 ? (row[i] ?? "") : "");
        }
      }
    }
  }
  await writeGrid(path.join(out, "emoji-64-grid.png"), blocks, { columns: 2 * perRow, labels, scale: 1, gap: 4 });
  await writeFileAtomic(path.join(out, "quality.json"), `${JSON.stringify(result, null, 2)}\n`);
  return result;
}
