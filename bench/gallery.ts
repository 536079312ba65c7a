/**
 * What a run did, for the documentation: its pictures before and after, and its reward's curve.
 *
 *     npx alignprop train compressibility --out runs/compressibility     (and clip, and count)
 *     npm run build && node dist/bench/gallery.js runs/compressibility runs/clip runs/count
 *
 * Writes docs/images/recipe-NAME.png, the pictures of the first evaluation above those of the last, with their rewards; and
 * docs/images/recipe-NAME.svg, the training's mean reward by step and the evaluations', with their deviation. NAME is the run's.
 */
import { mkdir, writeFile } from "node:fs/promises";
import path from "node:path";
import { parseArgs } from "node:util";
import sharp from "sharp";
import { contactSheet, type LabelledImage } from "../src/images/contact-sheet.js";
import { type RunRecord, readRun } from "../src/runs/record/index.js";
import { format, lineChart, type Series } from "../src/runs/report/index.js";

const STYLE = `text { font: 12px sans-serif; fill: #6d6a64 } .grid { stroke: #e5e2dc } .line { fill: none; stroke-width: 2 }
.line.train { stroke: #8a8f98 } .line.eval { stroke: #d9480f } .band { opacity: 0.16 }
.band.train, circle.train { fill: #8a8f98 } .band.eval, circle.eval { fill: #d9480f }`;

const { values, positionals: runs } = parseArgs({
  options: { out: { type: "string", default: "docs/images" } },
  allowPositionals: true,
});
await mkdir(values.out, { recursive: true });
for (const folder of runs) {
  const run = await readRun(folder);
  const file = path.join(values.out, `recipe-${run.settings.name ?? path.basename(folder)}`);
  await writeFile(`${file}.png`, await pictures(run));
  await writeFile(`${file}.svg`, curve(run));
  const [first, last] = ends(run.evaluations).map(({ mean }) => format(mean));
  console.log(`${file}.png, ${file}.svg: reward ${first} → ${last}, ${run.metrics.length} steps`);
}

function ends<T>(items: readonly T[]): [T, T] {
  const [first, last] = [items[0], items.at(-1)];
  if (first === undefined || last === undefined) throw new Error("a run without evaluations has nothing to show");
  return [first, last];
}

/** A palette makes the file half as large, and such pictures have few colours. */
async function pictures({ shown }: RunRecord): Promise<Buffer> {
  const rows = ends(shown).map(({ samples }) => samples);
  const cells: LabelledImage[] = [];
  for (const { png, prompt, reward } of rows.flat()) {
    const { data, info } = await sharp(Buffer.from(png, "base64")).raw().toBuffer({ resolveWithObject: true });
    cells.push({ ...info, pixels: new Uint8Array(data), label: `${prompt} ${format(reward)}` });
  }
  const sheet = await contactSheet(cells, { columns: cells.length / 2, scale: 1 });
  return sharp(sheet).png({ palette: true, compressionLevel: 9 }).toBuffer();
}

/** The report's chart, with what it takes to stand alone. */
function curve({ metrics, evaluations }: RunRecord): string {
  const series: Series[] = [
    {
      label: "training",
      className: "train",
      points: metrics.map(({ step, reward_mean }) => ({ x: step, y: reward_mean })),
    },
    {
      label: "evaluation",
      className: "eval",
      points: evaluations.map(({ step, mean, std }) => ({ x: step, y: mean, spread: std })),
      dots: true,
    },
  ];
  const svg = lineChart({ title: "reward by step", series, width: 640, height: 200 }).text;
  return svg.replace(
    /^<svg class="chart"([^>]*)>/,
    `<svg xmlns="http://www.w3.org/2000/svg"$1>\n<style>${STYLE}</style>\n<rect width="100%" height="100%" fill="#fbfaf8"/>`,
  );
}
