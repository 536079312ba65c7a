import path from "node:path";
import { writeFileAtomic } from "../src/io/atomic.js";
import type { Runtime } from "../src/runtime/runtime.js";
import type { HostTensor } from "../src/tensor/host.js";
import { recognise } from "./classifier.js";
import { ANIMALS, animalIndex } from "./data/animals.js";
import { batchAt } from "./data/dataset.js";
import type { Icons } from "./data/icons.js";
import { PICTURE_LENGTH } from "./data/render.js";
import { writeGrid } from "./grid.js";
import { draw } from "./preview.js";

const SEEDS = [0, 1, 2, 3];

/** How often the judge names the animal: on fresh renderings, and on what the model in `folder` draws of bare names. */
export interface Quality {
  readonly renderings: number;
  readonly drawn: number;
  /** Of each animal's pictures, how many the judge names. */
  readonly perAnimal: Readonly<Record<string, number>>;
}

/** 51 animals x 4 seeds; writes `emoji-64-grid.png` and `quality.json` into `out`. */
export async function quality(
  runtime: Runtime,
  icons: Icons,
  judge: ReadonlyMap<string, HostTensor>,
  { folder, out, seed }: { folder: string; out: string; seed: number },
): Promise<Quality> {
  const size = 256;
  const fresh = batchAt(icons, { seed: seed + 1000, start: 0, size, several: 0 });
  const named = await recognise(runtime, judge, fresh.pictures);
  const renderings = named.filter((animal, i) => animal === fresh.labels[i]).length / size;

  const wanted = ANIMALS.flatMap((prompt) => SEEDS.map((seed) => ({ prompt, seed })));
  const pictures = await draw(runtime, folder, wanted);
  const found = await recognise(runtime, judge, pictures);
  const right = found.map((animal, i) => animal === animalIndex(wanted[i]?.prompt ?? ""));
  const perAnimal = Object.fromEntries(
    ANIMALS.map((animal, i) => [animal, SEEDS.filter((_, j) => right[i * SEEDS.length + j]).length]),
  );
  const result = { renderings, drawn: right.filter(Boolean).length / right.length, perAnimal };

  // A column for each animal's four seeds would be too wide: nine animals a row, each a block of 2 x 2.
  const blocks: Float32Array[] = [];
  const labels: string[] = [];
  const perRow = 9;
  for (let start = 0; start < ANIMALS.length; start += perRow) {
    const row = ANIMALS.slice(start, start + perRow);
    for (const half of [0, 1]) {
      for (let i = 0; i < perRow; i++) {
        for (const j of [0, 1]) {
          const at = ((start + i) * SEEDS.length + half * 2 + j) * PICTURE_LENGTH;
          blocks.push(
            i < row.length ? pictures.subarray(at, at + PICTURE_LENGTH) : new Float32Array(PICTURE_LENGTH).fill(1),
          );
          labels.push(half === 1 && j === 0 ? (row[i] ?? "") : "");
        }
      }
    }
  }
  await writeGrid(path.join(out, "emoji-64-grid.png"), blocks, { columns: 2 * perRow, labels, scale: 1, gap: 4 });
  await writeFileAtomic(path.join(out, "quality.json"), `${JSON.stringify(result, null, 2)}\n`);
  return result;
}
