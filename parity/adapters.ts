/**
 * Exchanges adapters with diffusers in both directions. Adapters that are written here must give the same images in diffusers,
 * and adapters that diffusers and PEFT write, or that have the names of sd-scripts, must give the same images here.
 *
 *     npm run parity:adapters -- --python path/to/python     (its packages: parity/requirements.txt)
 *
 * The model is the tiny one of test/goldens. The factors are random, on more and more kinds of layers. A difference above 2/255
 * is a failure.
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
  latentSize,
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
import type { LoraAdapter } from "../src/weights/lora-files.js";
import { readLora } from "../src/weights/read-adapter.js";
import { openSafetensors, writeSafetensors } from "../src/weights/safetensors.js";
import { readTensor, type StoredTensor } from "../src/weights/source.js";

const { values } = parseArgs({ options: { python: { type: "string", default: "python" } } });

const MAX_LEVELS = 2;
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
  for (const [name, recipe] of Object.entries(OURS)) await writeOurs(name, await randomParameters(recipe), noise);
  await writeOurs("mix", await mixedParameters(), noise);
  const rows = await checkInPython();
  for (const name of (await readdir(path.join(folder, "theirs"))).sort()) rows.push(await compareTheirs(name, noise));

  console.log("adapter          file                              largest difference   effect on the image");
  for (const { name, form, levels, effect } of rows) {
    console.log(
      `${name.padEnd(16)} ${form.padEnd(33)} ${`${levels.toFixed(3)}/255`.padEnd(20)} ${effect.toFixed(0)}/255`,
    );
  }
  const wrong = rows.filter(({ levels }) => !(levels <= MAX_LEVELS));
  if (wrong.length > 0) {
    console.error(`${wrong.length} of ${rows.length} images differ by more than ${MAX_LEVELS}/255`);
    process.exitCode = 1;
  }
} finally {
  await runtime.close();
  await rm(folder, { recursive: true });
}

interface Row {
  readonly name: string;
  readonly form: string;
  /** Largest difference between the images of the two programs, in steps of 1/255. */
  readonly levels: number;
  /** Largest difference that the adapter makes. It must not be small, otherwise agreement proves nothing. */
  readonly effect: number;
}

async function sampler(layout?: TrainableLayout): Promise<Sampler> {
  const options = { eta: 0, height: null, width: null, ...SAMPLING };
  return await Sampler.compile(runtime, pipeline, options, { batch: PROMPTS.length, layout });
}

/** Writes the prompts and the noise for both programs. */
async function writeTask(): Promise<Float32Array> {
  const base = await sampler();
  const noise = stack(PROMPTS.map((_, i) => seededNoise(base.latentElements, i).initial));
  const { latents } = base.latentInputs(noise, 0);
  await base.release();
  await writeSafetensors(path.join(folder, "noise.safetensors"), new Map([["noise", latents]]));
  await writeFile(path.join(folder, "task.json"), JSON.stringify({ prompts: PROMPTS, ...SAMPLING }));
  return noise;
}

/** Generates images [b, 3, h, w] in 0 … 1. */
async function generate(noise: Float32Array, layout?: TrainableLayout, weights?: Float32Array) {
  const adapted = await sampler(layout);
  const { final } = await adapted.sample(await adapted.condition(PROMPTS, weights), noise, () => noise);
  const image = await adapted.decode(final);
  await adapted.release();
  return image;
}

interface Parameters {
  readonly layout: TrainableLayout;
  readonly weights: Float32Array;
}

/** An adapter with random factors, none of them 0, or a U-Net with small random changes to all weights. */
async function randomParameters(recipe: SettingsInput): Promise<Parameters> {
  const { layout, initial } = await openTrainable(await settingsFrom({ model: MODEL, ...recipe }), pipeline);
  const rng = new Rng(1);
  const isUnet = layout.kind === "unet";
  const weights = (await initial()).map((value) => (isUnet ? value * (1 + 0.05 * rng.normal()) : 0.2 * rng.normal()));
  return { layout, weights };
}

/** The mix of two adapters on different layers, so that its modules have different ranks. */
async function mixedParameters(): Promise<Parameters> {
  const [a, b] = ["attention", "convolutions"].map((name) => readLora(path.join(folder, "ours", name)));
  return toFlat(pipeline, mixAdapters((await a) as LoraAdapter, (await b) as LoraAdapter, 0.4));
}

async function writeOurs(name: string, { layout, weights }: Parameters, noise: Float32Array): Promise<void> {
  const image = await generate(noise, layout, weights);
  for (const [file, content] of exportFiles(layout, weights, {
    pipeline,
    name,
    size: latentSize(pipeline, null, null),
  })) {
    const at = path.join(folder, "ours", name, file);
    await mkdir(path.dirname(at), { recursive: true });
    await writeFile(at, content);
  }
  await writeSafetensors(path.join(folder, "ours", name, "image.safetensors"), new Map([["image", image]]));
}

async function checkInPython(): Promise<Row[]> {
  const { stdout } = await promisify(execFile)(values.python, ["parity/check_adapters.py", folder], {
    maxBuffer: 1 << 24,
  });
  return JSON.parse(stdout.slice(stdout.indexOf("[{"))) as Row[];
}

async function compareTheirs(name: string, noise: Float32Array): Promise<Row> {
  const at = path.join(folder, "theirs", name);
  const { layout, weights } = toFlat(pipeline, await readLora(at));
  const image = toFloat32(await generate(noise, layout, weights));
  const file = await openSafetensors(path.join(at, "image.safetensors"));
  const expected = toFloat32(await readTensor(file.get("image") as StoredTensor));
  const base = toFloat32(await generate(noise));
  return { name: `by ${name}`, form: "read here", levels: levels(image, expected), effect: levels(image, base) };
}

function levels(a: Float32Array, b: Float32Array): number {
  return a.reduce((most, value, i) => Math.max(most, 255 * Math.abs(value - (b[i] as number))), 0);
}
