import { isDeepStrictEqual } from "node:util";
import type { Settings } from "../config/settings.js";
import { runtimeOptions } from "../config/settings.js";
import { type RgbImage, toRgb } from "../images/rgb.js";
import type { LoraLayout } from "../nn/lora.js";
import { Runtime } from "../runtime/runtime.js";
import type { LoraAdapter } from "../weights/lora-files.js";
import type { WeightSource } from "../weights/source.js";
import { toFlat } from "./adapter.js";
import { annealingOf, type Picture, samplePictures } from "./draw.js";
import { type OpenListener, openModel } from "./open-model.js";
import { promptWarnings, withUnet } from "./pipeline.js";
import { choosePrecision } from "./precision.js";
import { Sampler } from "./sampler.js";

export interface GenerateOptions
  extends Pick<Settings, "model" | "device" | "threads" | "sampling">,
    Partial<Pick<Settings, "loading" | "precision">>,
    OpenListener {
  readonly pictures: readonly Picture[];
  readonly negative?: string;
  readonly adapter?: LoraAdapter | undefined;
  /** Weights in the place of the model's U-Net. */
  readonly unet?: WeightSource | undefined;
  /** Pictures sampled at once. */
  readonly batch?: number;
  /** The power of annealed guidance from the model to what was tuned (`annealing.ts`). */
  readonly anneal?: number | undefined;
}

/** One image for each prompt and seed. The same prompt and seed give the same image, whatever else is asked for. */
export async function generate({ adapter, ...options }: GenerateOptions): Promise<RgbImage[]> {
  const [images] = await generateEach(options, [adapter]);
  return images as RgbImage[];
}

/** The same images with each of several adapters. */
export async function generateEach(
  options: Omit<GenerateOptions, "adapter">,
  adapters: readonly (LoraAdapter | undefined)[],
): Promise<RgbImage[][]> {
  const { pictures, sampling, negative = "", batch = 4, anneal, signal, warn = () => {} } = options;
  const { device, precision: asked = "auto" } = options;
  const model = await openModel(options, options);
  const pipeline = withUnet(model, options.unet);
  const loras = adapters.map((adapter) => adapter && toFlat(pipeline, adapter));
  const prompts = [...pictures.map(({ prompt }) => prompt), negative];
  for (const message of promptWarnings(pipeline, prompts)) warn(message);
  const runtime = await Runtime.start(runtimeOptions(options));
  try {
    const precision = await choosePrecision({ device, precision: asked }, runtime, warn);
    const shared = { batch: Math.min(batch, pictures.length), negativePrompt: negative, precision };
    const from =
      options.unet && anneal !== undefined ? await Sampler.compile(runtime, model, sampling, shared) : undefined;
    const all: RgbImage[][] = [];
    let compiled: { layout: LoraLayout | undefined; sampler: Sampler } | undefined;
    for (const lora of loras) {
      const layout = lora?.layout;
      if (!compiled || !isDeepStrictEqual(layout, compiled.layout)) {
        await compiled?.sampler.release();
        compiled = { layout, sampler: await Sampler.compile(runtime, pipeline, sampling, { ...shared, layout }) };
      }
      const annealing = annealingOf(anneal, compiled.sampler, from, lora?.weights);
      const images: RgbImage[] = [];
      for await (const sampled of samplePictures(compiled.sampler, pictures, lora?.weights, { signal, annealing })) {
        images.push(...toRgb(sampled.images).slice(0, sampled.pictures.length));
      }
      all.push(images);
    }
    return all;
  } finally {
    await runtime.close();
  }
}
