/** Exports trained weights in formats that other tools load. */
import type { FileContent } from "../io/files.js";
import { flatTensors } from "../nn/flat.js";
import { kohyaLora, PEFT_FILE, peftLora } from "../weights/lora-files.js";
import { safetensorsChunks } from "../weights/safetensors.js";
import { toModules } from "./adapter.js";
import type { LatentSize } from "./latent-size.js";
import { modelMetadata } from "./model-metadata.js";
import type { Pipeline } from "./pipeline.js";
import type { TrainableLayout } from "./trainable.js";

/** End of the name of an adapter file in kohya's format, which begins with the run's name. */
export const KOHYA_ENDING = ".kohya.safetensors";

/** Files of a whole U-Net in a checkpoint, as in a diffusers folder. */
export const UNET_FILES = { config: "unet/config.json", weights: "unet/diffusion_pytorch_model.safetensors" } as const;

export interface ExportOptions {
  readonly pipeline: Pipeline;
  /** Name of the run. */
  readonly name: string;
  /** Size of the latents that were trained on. */
  readonly size: LatentSize;
}

/** The files of an adapter in PEFT's and kohya's format, or the folder of a U-Net, by their names. */
export function exportFiles(
  layout: TrainableLayout,
  weights: Float32Array,
  { pipeline, name, size }: ExportOptions,
): Map<string, FileContent> {
  switch (layout.kind) {
    case "lora": {
      const adapter = toModules({ layout, weights });
      return new Map<string, FileContent>([
        [PEFT_FILE, peftLora(adapter)],
        [name + KOHYA_ENDING, kohyaLora(adapter, modelMetadata(pipeline, name, size))],
      ]);
    }
    case "unet": {
      const tensors = [...flatTensors(layout, weights)].map(
        ([key, tensor]) => [key.slice("unet.".length), tensor] as const,
      );
      return new Map<string, FileContent>([
        [UNET_FILES.config, Buffer.from(`${JSON.stringify(pipeline.unetJson, null, 2)}\n`)],
        [UNET_FILES.weights, safetensorsChunks(new Map(tensors), { format: "pt" })],
      ]);
    }
  }
}
