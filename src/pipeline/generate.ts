/** Generates images with a model, and with adapters on it. */

import { isDeepStrictEqual } from "node:util";
import { runtimeOptions, type SettingsPart } from "../config/index.js";
import { type RgbImage, toRgb } from "../images/rgb.js";
import { Runtime } from "../runtime/runtime.js";
import type { Adapter } from "../weights/lora-files.js";
import type { WeightSource } from "../weights/source.js";
import { type Adapted, applyAdapter } from "./apply-adapter.js";
import { annealingOf, type ImageRequest, sampleImages } from "./images.js";
import { type OpenListener, openModel } from "./open-model.js";
import { type Pipeline, promptWarnings, withUnet } from "./pipeline.js";
import { choosePrecision } from "./precision.js";
import { Sampler } from "./sampler.js";
import type { TrainableLayout } from "./trainable.js";

export interface GenerateOptions
  extends SettingsPart<"model" | "device" | "threads" | "sampling">,
    Partial<SettingsPart<"loading" | "precision" | "prompts">>,
    OpenListener {
  readonly images: readonly ImageRequest[];
  /** Negative prompt of all images; default: that of `prompts`, or none. */
  readonly negative?: string;
  readonly adapter?: Adapter | undefined;
  /** Weights that replace those of the model's U-Net. */
  readonly unet?: WeightSource | undefined;
  /** Images sampled at once; default 4. */
  readonly batchSize?: number;
  /** Power of annealed guidance from the base model to the fine-tuned one (`diffusion/annealing.ts`). */
  readonly anneal?: number | undefined;
}

/**
 * Generates one image for each prompt and seed. The same prompt and seed give the same image, whatever other images are
 * requested. The noise of a seed is that of `torch.Generator("cpu").manual_seed(seed)`.
 *
 * @example
 * const settings = await loadSettings({ recipe: "default" });
 * const adapter = await loadAdapter("runs/default-1");
 * const [fox] = await generate({ ...settings, images: [{ prompt: "fox", seed: 7 }], adapter });
 * if (fox) await writePng("fox.png", fox);
 */
export async function generate({ adapter, ...options }: GenerateOptions): Promise<RgbImage[]> {
  const [images] = await generateEach(options, [adapter]);
  return images as RgbImage[];
}

/** Generates the same images with each of several adapters. */
export async function generateEach(
  options: Omit<GenerateOptions, "adapter">,
  adapters: readonly (Adapter | undefined)[],
): Promise<RgbImage[][]> {
  const {
    images: requests,
    sampling,
    prompts: promptSettings,
    batchSize = 4,
    anneal,
    signal,
    warn = () => {},
  } = options;
  const { device, precision: wanted = "auto", negative = promptSettings?.negative ?? "" } = options;
  const model = await openModel(options, options);
  const pipeline = withUnet(model, options.unet);
  const adapted: Adapted[] = [];
  for (const adapter of adapters) adapted.push(await applyAdapter(pipeline, adapter));
  const prompts = [...requests.map(({ prompt }) => prompt), negative];
  for (const message of promptWarnings(pipeline, prompts)) warn(message);
  const runtime = await Runtime.start(runtimeOptions(options));
  try {
    const precision = await choosePrecision({ device, precision: wanted }, runtime, warn);
    const shared = { batch: Math.min(batchSize, requests.length), negativePrompt: negative, precision };
    const base =
      anneal !== undefined && adapted.some((each) => each.pipeline !== model)
        ? await Sampler.compile(runtime, model, sampling, shared)
        : undefined;
    const all: RgbImage[][] = [];
    let compiled: { pipeline: Pipeline; layout: TrainableLayout | undefined; sampler: Sampler } | undefined;
    for (const { pipeline, lora } of adapted) {
      const layout = lora?.layout;
      if (compiled?.pipeline !== pipeline || !isDeepStrictEqual(layout, compiled.layout)) {
        await compiled?.sampler.release();
        const sampler = await Sampler.compile(runtime, pipeline, sampling, { ...shared, layout });
        compiled = { pipeline, layout, sampler };
      }
      const { sampler } = compiled;
      const parameters = lora?.weights;
      const annealing = annealingOf({ power: anneal, sampler, base, parameters });
      const images: RgbImage[] = [];
      for await (const sampled of sampleImages(sampler, requests, parameters, { signal, annealing })) {
        images.push(...toRgb(sampled.images).slice(0, sampled.requests.length));
      }
      all.push(images);
    }
    return all;
  } finally {
    await runtime.close();
  }
}
