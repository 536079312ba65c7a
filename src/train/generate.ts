import { Runtime } from "../runtime/runtime.js";
import type { LoraAdapter } from "../weights/lora-files.js";
import { toFlat } from "./adapter.js";
import { type Picture, runtimeOptions, samplePictures } from "./evaluate.js";
import type { RgbImage } from "./events.js";
import { locate } from "./locate.js";
import { openPipeline } from "./pipeline.js";
import { Sampler, toRgb } from "./sampler.js";
import type { Settings } from "./settings.js";

export interface GenerateOptions extends Pick<Settings, "model" | "device" | "threads" | "sampling"> {
  readonly pictures: readonly Picture[];
  readonly negative?: string;
  readonly adapter?: LoraAdapter | undefined;
  /** Pictures sampled at once. */
  readonly batch?: number;
  readonly signal?: AbortSignal | undefined;
}

/** One image for each prompt and seed. The same prompt and seed give the same image, whatever else is asked for. */
export async function generate(options: GenerateOptions): Promise<RgbImage[]> {
  const { pictures, sampling, negative = "", adapter, batch = 4, signal } = options;
  const pipeline = await openPipeline(locate(options.model));
  const lora = adapter && toFlat(pipeline, adapter);
  const runtime = await Runtime.start(runtimeOptions(options));
  try {
    const sampler = await Sampler.compile(runtime, pipeline, sampling, {
      batch: Math.min(batch, pictures.length),
      layout: lora?.layout,
      negativePrompt: negative,
    });
    const images: RgbImage[] = [];
    for await (const sampled of samplePictures(sampler, pictures, lora?.weights, signal)) {
      images.push(...toRgb(sampled.images).slice(0, sampled.pictures.length));
    }
    return images;
  } finally {
    await runtime.close();
  }
}
