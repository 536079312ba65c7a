/**
 * Writes a model of a published architecture with random weights, so that loading, generation and training at full size can be
 * measured without a download.
 *
 *     npm run build && node dist/bench/full-size.js --out FOLDER [--family sd15] [--float32]
 *
 * - `sd15`: a whole folder of Stable Diffusion 1.5.
 * - `sdxl`: only the U-Net of Stable Diffusion XL, 2.57 billion numbers. `FOLDER/unet` has its config.json and weights.
 * - `vit-l-14`: what the reward `aesthetic` reads: CLIP ViT-L/14's vision tower in `FOLDER/clip`, the head in `FOLDER/head`.
 * - `vit-h-14`: what the reward `hps` reads: CLIP ViT-H/14 with its text tower, in `FOLDER/clip`.
 */
import { mkdir, writeFile } from "node:fs/promises";
import path from "node:path";
import { parseArgs } from "node:util";
import { writeTokenizer } from "../pretrain/data/bpe.js";
import { imageEmbedding, textEmbedding } from "../src/models/clip/clip.js";
import { parseClipConfig, parseClipTextConfig } from "../src/models/clip/config.js";
import { clipText } from "../src/models/clip/text.js";
import { aestheticConfig, aestheticScore } from "../src/models/heads/aesthetic.js";
import { parseUnetConfig } from "../src/models/unet/config.js";
import { unet, unetInputs } from "../src/models/unet/unet.js";
import { parseVaeConfig } from "../src/models/vae/config.js";
import { decode, encode } from "../src/models/vae/vae.js";
import type { Scope } from "../src/nn/scope.js";
import { input } from "../src/ops/index.js";
import { AESTHETIC_WIDTHS, CLIP_MEAN, CLIP_STD, CLIPS, SD15, SDXL_UNET } from "./architectures.js";
import { type WeightType, writeRandomWeights } from "./random-weights.js";

const WORDS = ["a", "cat", "dog", "photo", "of"];
const TOKENS = 77;

const FAMILIES = {
  sd15: writeSd15,
  sdxl: (folder: string, dtype: WeightType) => writeUnet(folder, SDXL_UNET, dtype),
  "vit-l-14": writeVitL,
  "vit-h-14": writeVitH,
};

const { values } = parseArgs({
  options: {
    out: { type: "string" },
    family: { type: "string", default: "sd15" },
    float32: { type: "boolean", default: false },
  },
});
if (values.out === undefined || !(values.family in FAMILIES)) {
  throw new Error(`usage: --out FOLDER [--family ${Object.keys(FAMILIES).join("|")}] [--float32]`);
}
await FAMILIES[values.family as keyof typeof FAMILIES](values.out, values.float32 ? "float32" : "float16");

async function writeSd15(folder: string, dtype: WeightType): Promise<void> {
  await writeJson(path.join(folder, "model_index.json"), {
    _class_name: "StableDiffusionPipeline",
    scheduler: ["diffusers", "DDIMScheduler"],
    text_encoder: ["transformers", "CLIPTextModel"],
    tokenizer: ["transformers", "CLIPTokenizer"],
    unet: ["diffusers", "UNet2DConditionModel"],
    vae: ["diffusers", "AutoencoderKL"],
  });
  await writeJson(path.join(folder, "scheduler/scheduler_config.json"), SD15.scheduler);
  await writeTokenizer(path.join(folder, "tokenizer"), WORDS, TOKENS);
  await writeUnet(folder, SD15.unet, dtype);

  const vaeConfig = parseVaeConfig(SD15.vae);
  await writeJson(path.join(folder, "vae/config.json"), SD15.vae);
  await writeWeights(path.join(folder, "vae/diffusion_pytorch_model.safetensors"), dtype, (scope) => [
    encode(scope, vaeConfig, input([1, 3, 512, 512])),
    decode(scope, vaeConfig, input([1, 4, 64, 64])),
  ]);

  const textConfig = parseClipTextConfig(SD15.text);
  await writeJson(path.join(folder, "text_encoder/config.json"), SD15.text);
  await writeWeights(path.join(folder, "text_encoder/model.safetensors"), dtype, (scope) =>
    clipText(scope, textConfig, input([1, TOKENS], "int64")),
  );
}

async function writeUnet(folder: string, json: object, dtype: WeightType): Promise<void> {
  const config = parseUnetConfig(json);
  const inputs = unetInputs(config, { batch: 1, height: 64, width: 64, tokens: TOKENS });
  await writeJson(path.join(folder, "unet/config.json"), json);
  await writeWeights(path.join(folder, "unet/diffusion_pytorch_model.safetensors"), dtype, (scope) =>
    unet(scope, config, inputs),
  );
}

async function writeVitL(folder: string, dtype: WeightType): Promise<void> {
  const { config, pixels } = await writeClipConfig(path.join(folder, "clip"), CLIPS["vit-l-14"]);
  await writeWeights(path.join(folder, "clip/model.safetensors"), dtype, (scope) =>
    imageEmbedding(scope, config, pixels),
  );
  const head = aestheticConfig(AESTHETIC_WIDTHS);
  await mkdir(path.join(folder, "head"), { recursive: true });
  await writeWeights(path.join(folder, "head/model.safetensors"), dtype, (scope) =>
    aestheticScore(scope, head, input([1, AESTHETIC_WIDTHS[0]])),
  );
}

async function writeVitH(folder: string, dtype: WeightType): Promise<void> {
  const clip = path.join(folder, "clip");
  const { config, pixels } = await writeClipConfig(clip, CLIPS["vit-h-14"]);
  const { maxPositions } = config.text;
  await writeTokenizer(clip, WORDS, maxPositions);
  await writeWeights(path.join(clip, "model.safetensors"), dtype, (scope) => [
    imageEmbedding(scope, config, pixels),
    textEmbedding(scope, config, input([1, maxPositions], "int64"), input([1, maxPositions])),
  ]);
}

async function writeClipConfig(folder: string, keys: object) {
  const json = { architectures: ["CLIPModel"], model_type: "clip", ...keys };
  await writeJson(path.join(folder, "config.json"), json);
  await writeJson(path.join(folder, "preprocessor_config.json"), { image_mean: CLIP_MEAN, image_std: CLIP_STD });
  const config = parseClipConfig(json);
  const { channels, imageSize } = config.vision;
  return { config, pixels: input([1, channels, imageSize, imageSize]) };
}

async function writeWeights(file: string, dtype: WeightType, build: (scope: Scope) => unknown): Promise<void> {
  const numbers = await writeRandomWeights(file, dtype, build);
  console.log(`${file}: ${(numbers / 1e6).toFixed(1)} M parameters, ${dtype}`);
}

async function writeJson(file: string, content: unknown): Promise<void> {
  await mkdir(path.dirname(file), { recursive: true });
  await writeFile(file, `${JSON.stringify(content, null, 2)}\n`);
}
