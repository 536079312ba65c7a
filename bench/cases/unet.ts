/** One call of a U-Net alone, or of its gradient, and whether both sides compute the same. */
import { mkdir } from "node:fs/promises";
import path from "node:path";
import type { GeneratedModel } from "../folders.js";
import { peerScript, script } from "../scripts.js";
import { agreement, comparison, shareOfProducts } from "../summary.js";
import { type Case, type Job, PEER_ENV, productsJob } from "./case.js";

interface UnetCase {
  readonly name: string;
  readonly about: string;
  readonly model: GeneratedModel;
  readonly mode: "forward" | "gradient";
  /** Pixels along each side of the image whose latents the U-Net gets. */
  readonly pixels: number;
  readonly maxRounds?: number;
}

/** Largest difference of float32 results at full size, divided by the largest value. */
const TOLERANCES = { output_error: 1e-4, latents_gradient_error: 1e-3, lora_gradient_error: 1e-3 };
const ALL = "relative to the largest element";
const MEANINGS = {
  output_error: `output, largest difference ${ALL}`,
  latents_gradient_error: `gradient of the latents, largest difference ${ALL}`,
  lora_gradient_error: `gradient of the adapter, largest difference ${ALL}`,
  lora_gradient_relative_norm: "gradient of the adapter, norm of the difference relative to the norm",
};

const CASES: readonly UnetCase[] = [
  {
    name: "sd15-256-unet",
    about:
      "One gradient call of the U-Net of Stable Diffusion 1.5 for an image of 256x256 pixels, with an adapter and without guidance, from the same float32 file: time, memory, and whether both sides compute the same.",
    model: "sd15-float32",
    mode: "gradient",
    pixels: 256,
  },
  {
    name: "sdxl-512-forward",
    about:
      "One call of the U-Net of Stable Diffusion XL for an image of 512x512 pixels, with an adapter and without guidance, float16 file. Both sides compute in float32.",
    model: "sdxl-float16",
    mode: "forward",
    pixels: 512,
    maxRounds: 1,
  },
  {
    name: "sdxl-512-gradient",
    about:
      "One gradient call (forward and backward) of the U-Net of Stable Diffusion XL for an image of 512x512 pixels, with an adapter and without guidance, float16 file. Both sides compute in float32.",
    model: "sdxl-float16",
    mode: "gradient",
    pixels: 512,
    maxRounds: 1,
  },
];

const VARIANTS: Readonly<
  Record<UnetCase["mode"], readonly { readonly name: string; readonly options: readonly string[] }[]>
> = {
  forward: [
    { name: "contiguous", options: [] },
    { name: "channels_last", options: ["--memory-format", "channels_last"] },
  ],
  gradient: [
    { name: "checkpointing", options: ["--checkpointing"] },
    { name: "no checkpointing", options: [] },
  ],
};

const unetCase = ({ name, about, model, mode, pixels, maxRounds }: UnetCase): Case => ({
  name,
  about,
  models: [model],
  ...(maxRounds !== undefined && { maxRounds }),
  jobs: async (context) => {
    const { folder, threads, python } = context;
    const exchange = path.join(folder, "exchange");
    await mkdir(exchange, { recursive: true });
    const common = [
      ...["--folder", path.join(folder, model, "unet"), "--mode", mode, "--threads", String(threads), "--repeat", "2"],
      ...["--results", path.join(exchange, `${name}.safetensors`)],
    ];
    const ours: Job = {
      side: "alignprop",
      variant: "one program",
      command: [process.execPath, script("unet-call.js"), "--latents", String(pixels / 8), ...common],
    };
    const peers = VARIANTS[mode].map(
      ({ name, options }): Job => ({
        side: "PyTorch",
        variant: name,
        env: PEER_ENV,
        command: [python ?? "", peerScript("unet_peer.py"), ...common, ...options],
      }),
    );
    return [productsJob(context), ours, ...(python ? peers : [])];
  },
  show: (measured) => [
    ...comparison(measured, "a call"),
    "",
    ...shareOfProducts(measured),
    ...agreement(measured, MEANINGS, TOLERANCES),
  ],
});

export const unetCases: readonly Case[] = CASES.map(unetCase);
