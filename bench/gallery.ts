/**
 * Images for the documentation of a run: samples before and after training, and the curve of the reward.
 *
 *     npx alignprop train compressibility --out runs/compressibility     (and clip, and count)
 *     npm run build && node dist/bench/gallery.js runs/compressibility runs/clip runs/count
 *
 * Writes docs/images/recipe-NAME.png, which shows the images of the first evaluation above those of the last one, with their
 * rewards; and docs/images/recipe-NAME.svg, which plots the mean reward of training and of the evaluations by step, the latter
 * with its standard deviation. NAME is the name of the run.
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
  await writeFile(`${file}.png`, await sampleSheet(run));
  await writeFile(`${file}.svg`, curve(run));
  const [first, last] = ends(run.evaluations).map(({ mean }) => format(mean));
  console.log(`${file}.png, ${file}.svg: reward ${first} → ${last}, ${run.metrics.length} steps`);
}

function ends<T>(items: readonly T[]): [T, T] {
  const [first, last] = [items[0], items.at(-1)];
  if (first === undefined || last === undefined) throw new Error("the run has no evaluations");
  return [first, last];
}

/** The PNG has a palette: these images have few colours, and the file is half as large. */
async function sampleSheet({ shown }: RunRecord): Promise<Buffer> {
  const rows = ends(shown).map(({ samples }) => samples);
  const cells: LabelledImage[] = [];
  for (const { png, prompt, reward } of rows.flat()) {
    const { data, info } = await sharp(Buffer.from(png, "base64")).raw().toBuffer({ resolveWithObject: true });
    cells.push({ ...info, pixels: new Uint8Array(data), label: `${prompt} ${format(reward)}` });
  }
  const sheet = await contactSheet(cells, { columns: cells.length / 2, scale: 1 });
  return sharp(sheet).png({ palette: true, compressionLevel: 9 }).toBuffer();
}

/** The chart of the report as an SVG file of its own. */
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
