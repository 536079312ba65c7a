import { Runtime } from "../runtime/runtime.js";
import type { LoraAdapter } from "../weights/lora-files.js";
import { toFlat } from "./adapter.js";
import { runtimeOptions } from "./evaluate.js";
import type { RgbImage } from "./events.js";
import { type OpenListener, openModel } from "./open-model.js";
import { type Picture, samplePictures, toRgb } from "./pictures.js";
import { promptWarnings } from "./pipeline.js";
import { Sampler } from "./sampler.js";
import type { Settings } from "./settings.js";

export interface GenerateOptions
  extends Pick<Settings, "model" | "device" | "threads" | "sampling">,
    Partial<Pick<Settings, "loading">>,
    OpenListener {
  readonly pictures: readonly Picture[];
  readonly negative?: string;
  readonly adapter?: LoraAdapter | undefined;
  /** Pictures sampled at once. */
  readonly batch?: number;
}

/** One image for each prompt and seed. The same prompt and seed give the same image, whatever else is asked for. */
export async function generate(options: GenerateOptions): Promise<RgbImage[]> {
  const { pictures, sampling, negative = "", adapter, batch = 4, signal, warn = () => {} } = options;
  const pipeline = await openModel(options, options);
  const lora = adapter && toFlat(pipeline, adapter);
  const prompts = [...pictures.map(({ prompt }) => prompt), negative];
  for (const message of promptWarnings(pipeline, prompts)) warn(message);
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
