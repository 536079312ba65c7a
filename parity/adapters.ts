/**
 * Adapters in both directions, live: what is written here draws our picture in diffusers, and what diffusers, PEFT and
 * sd-scripts' names hold draws theirs here.
 *
 *     npm run parity:adapters -- --python path/to/python     (its packages: parity/requirements.txt)
 *
 * On the tiny random model of test/goldens, with random factors on ever more kinds of layers. Fails above 2/255.
 */

import { execFile } from "node:child_process";
import { mkdir, mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { parseArgs, promisify } from "node:util";
import { type SettingsInput, settingsFrom } from "../src/config/index.js";
import { seededNoise } from "../src/diffusion/noise.js";
import { stack } from "../src/diffusion/trajectory.js";
import {
  exportFiles,
  mixAdapters,
  openPipeline,
  Sampler,
  type TrainableLayout,
  toFlat,
} from "../src/pipeline/index.js";
import { Runtime } from "../src/runtime/runtime.js";
import { toFloat32 } from "../src/tensor/host.js";
import { Rng } from "../src/tensor/rng.js";
import { openTrainable } from "../src/train/index.js";
import { type LoraAdapter, readLora } from "../src/weights/lora-files.js";
import { openSafetensors, writeSafetensors } from "../src/weights/safetensors.js";
import { readTensor, type StoredTensor } from "../src/weights/source.js";

const { values } = parseArgs({ options: { python: { type: "string", default: "python" } } });

const MOST_LEVELS = 2;
const MODEL = "test/goldens/tiny-sd";
const PROMPTS = ["a photo of a cat", "two dogs"];
const SAMPLING = { steps: 8, guidance_scale: 3 };

const OURS: Readonly<Record<string, SettingsInput>> = {
  attention: { lora: { rank: 2, targets: ["attention"] } },
  "feed-forward": { lora: { rank: 3, alpha: 5, targets: ["attention", "feed-forward", "projections"] } },
  convolutions: { lora: { rank: 2, alpha: 3, targets: ["attention", "feed-forward", "projections", "convolutions"] } },
  unet: { trainable: "unet" },
};

const pipeline = await openPipeline(MODEL);
const runtime = await Runtime.start({ threads: 1 });
const folder = await mkdtemp(path.join(tmpdir(), "alignprop-adapters-"));
try {
  await mkdir(path.join(folder, "ours"));
  const noise = await writeTask();
  for (const [name, recipe] of Object.entries(OURS)) await writeOurs(name, await learned(recipe), noise);
  await writeOurs("mix", await mixed(), noise);
  const rows = await askPython();
  for (const name of (await readdir(path.join(folder, "theirs"))).sort()) rows.push(await drawTheirs(name, noise));

  console.log("adapter          file                              largest difference   effect on the picture");
  for (const { name, form, levels, effect } of rows) {
    console.log(
      `${name.padEnd(16)} ${form.padEnd(33)} ${`${levels.toFixed(3)}/255`.padEnd(20)} ${effect.toFixed(0)}/255`,
    );
  }
  const wrong = rows.filter(({ levels }) => !(levels <= MOST_LEVELS));
  if (wrong.length > 0) {
    console.error(`${wrong.length} of ${rows.length} pictures differ by more than ${MOST_LEVELS}/255`);
    process.exitCode = 1;
  }
} finally {
  await runtime.close();
  await rm(folder, { recursive: true });
}

interface Row {
  readonly name: string;
  readonly form: string;
  /** Largest difference of the pictures by the two programs. */
  readonly levels: number;
  /** Largest difference that the adapter makes: were it nothing, agreement would mean nothing. */
  readonly effect: number;
}

async function sampler(layout?: TrainableLayout): Promise<Sampler> {
  const options = { eta: 0, height: null, width: null, ...SAMPLING };
  return await Sampler.compile(runtime, pipeline, options, { batch: PROMPTS.length, layout });
}

/** What both programs draw: the same prompts, from the same noise. */
async function writeTask(): Promise<Float32Array> {
  const plain = await sampler();
  const noise = stack(PROMPTS.map((_, i) => seededNoise(plain.latentElements, i).initial));
  const { latents } = plain.latentInputs(noise, 0);
  await plain.release();
  await writeSafetensors(path.join(folder, "noise.safetensors"), new Map([["noise", latents]]));
  await writeFile(path.join(folder, "task.json"), JSON.stringify({ prompts: PROMPTS, ...SAMPLING }));
  return noise;
}

/** Pictures [b, 3, h, w] in 0 … 1. */
async function draw(noise: Float32Array, layout?: TrainableLayout, weights?: Float32Array) {
  const drawing = await sampler(layout);
  const { final } = await drawing.sample(await drawing.condition(PROMPTS, weights), noise, () => noise);
  const image = await drawing.decode(final);
  await drawing.release();
  return image;
}

interface Parameters {
  readonly layout: TrainableLayout;
  readonly weights: Float32Array;
}

/** An adapter of random factors, none of them zero; a U-Net that has moved a little everywhere. */
async function learned(recipe: SettingsInput): Promise<Parameters> {
  const { layout, initial } = await openTrainable(await settingsFrom({ model: MODEL, ...recipe }), pipeline);
  const rng = new Rng(1);
  const whole = layout.kind === "unet";
  const weights = (await initial()).map((value) => (whole ? value * (1 + 0.05 * rng.normal()) : 0.2 * rng.normal()));
  return { layout, weights };
}

/** Of two adapters on different layers: its modules have different ranks. */
async function mixed(): Promise<Parameters> {
  const [a, b] = ["attention", "convolutions"].map((name) => readLora(path.join(folder, "ours", name)));
  return toFlat(pipeline, mixAdapters((await a) as LoraAdapter, (await b) as LoraAdapter, 0.4));
}

async function writeOurs(name: string, { layout, weights }: Parameters, noise: Float32Array): Promise<void> {
  const image = await draw(noise, layout, weights);
  for (const [file, content] of exportFiles(layout, weights, { pipeline, name })) {
    const at = path.join(folder, "ours", name, file);
    await mkdir(path.dirname(at), { recursive: true });
    await writeFile(at, content);
  }
  await writeSafetensors(path.join(folder, "ours", name, "image.safetensors"), new Map([["image", image]]));
}

async function askPython(): Promise<Row[]> {
  const { stdout } = await promisify(execFile)(values.python, ["parity/check_adapters.py", folder], {
    maxBuffer: 1 << 24,
  });
  return JSON.parse(stdout.slice(stdout.indexOf("[{"))) as Row[];
}

async function drawTheirs(name: string, noise: Float32Array): Promise<Row> {
  const at = path.join(folder, "theirs", name);
  const { layout, weights } = toFlat(pipeline, await readLora(at));
  const image = toFloat32(await draw(noise, layout, weights));
  const file = await openSafetensors(path.join(at, "image.safetensors"));
  const expected = toFloat32(await readTensor(file.get("image") as StoredTensor));
  const base = toFloat32(await draw(noise));
  return { name: `by ${name}`, form: "read here", levels: levels(image, expected), effect: levels(image, base) };
}

function levels(a: Float32Array, b: Float32Array): number {
  return a.reduce((most, value, i) => Math.max(most, 255 * Math.abs(value - (b[i] as number))), 0);
}
