/**
 * Writes a model folder of Stable Diffusion 1.5's architecture with random weights, so that loading, generation and training
 * at full size can be measured without a download.
 *
 *     npm run build && node dist/bench/full-size.js --out FOLDER [--float32]
 */
import { mkdir, writeFile } from "node:fs/promises";
import path from "node:path";
import { parseArgs } from "node:util";
import { writeTokenizer } from "../pretrain/data/bpe.js";
import { parseClipTextConfig } from "../src/models/clip/config.js";
import { clipText } from "../src/models/clip/text.js";
import { parseUnetConfig } from "../src/models/unet/config.js";
import { unet, unetInputs } from "../src/models/unet/unet.js";
import { parseVaeConfig } from "../src/models/vae/config.js";
import { decode, encode } from "../src/models/vae/vae.js";
import type { Scope } from "../src/nn/scope.js";
import { input } from "../src/ops/index.js";
import type { DType } from "../src/tensor/dtype.js";
import { writeRandomWeights } from "./random-weights.js";

const { values: options } = parseArgs({
  options: { out: { type: "string" }, float32: { type: "boolean", default: false } },
});
if (!options.out) throw new Error("usage: --out FOLDER [--float32], where FOLDER is the model folder to write");
const folder = options.out;
const dtype: DType = options.float32 ? "float32" : "float16";

/** The keys of the published config files that differ from the defaults of diffusers and transformers. */
const UNET = {
  _class_name: "UNet2DConditionModel",
  sample_size: 64,
  block_out_channels: [320, 640, 1280, 1280],
  down_block_types: ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
  up_block_types: ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
  layers_per_block: 2,
  cross_attention_dim: 768,
  attention_head_dim: 8,
};
const VAE = {
  _class_name: "AutoencoderKL",
  block_out_channels: [128, 256, 512, 512],
  down_block_types: new Array(4).fill("DownEncoderBlock2D"),
  up_block_types: new Array(4).fill("UpDecoderBlock2D"),
  layers_per_block: 2,
  latent_channels: 4,
  sample_size: 512,
  scaling_factor: 0.18215,
};
const TEXT = {
  architectures: ["CLIPTextModel"],
  model_type: "clip_text_model",
  hidden_size: 768,
  intermediate_size: 3072,
  num_attention_heads: 12,
  num_hidden_layers: 12,
  max_position_embeddings: 77,
  vocab_size: 49408,
  hidden_act: "quick_gelu",
};
const SCHEDULER = {
  _class_name: "DDIMScheduler",
  beta_schedule: "scaled_linear",
  beta_start: 0.00085,
  beta_end: 0.012,
  clip_sample: false,
  num_train_timesteps: 1000,
  set_alpha_to_one: false,
  steps_offset: 1,
};

async function writeJson(file: string, content: unknown): Promise<void> {
  await mkdir(path.dirname(file), { recursive: true });
  await writeFile(file, `${JSON.stringify(content, null, 2)}\n`);
}

async function writePart(name: string, config: object, file: string, build: (scope: Scope) => unknown) {
  await writeJson(path.join(folder, name, "config.json"), config);
  const numbers = await writeRandomWeights(path.join(folder, name, file), dtype, build);
  console.log(`${name}: ${(numbers / 1e6).toFixed(1)} M parameters, ${dtype}`);
}

await writeJson(path.join(folder, "model_index.json"), {
  _class_name: "StableDiffusionPipeline",
  scheduler: ["diffusers", "DDIMScheduler"],
  text_encoder: ["transformers", "CLIPTextModel"],
  tokenizer: ["transformers", "CLIPTokenizer"],
  unet: ["diffusers", "UNet2DConditionModel"],
  vae: ["diffusers", "AutoencoderKL"],
});
await writeJson(path.join(folder, "scheduler/scheduler_config.json"), SCHEDULER);
await writeTokenizer(path.join(folder, "tokenizer"), ["a", "cat", "dog", "photo", "of"], 77);

const unetConfig = parseUnetConfig(UNET);
const unetGiven = unetInputs(unetConfig, { batch: 1, height: 64, width: 64, tokens: 77 });
await writePart("unet", UNET, "diffusion_pytorch_model.safetensors", (scope) => unet(scope, unetConfig, unetGiven));

const vaeConfig = parseVaeConfig(VAE);
await writePart("vae", VAE, "diffusion_pytorch_model.safetensors", (scope) => [
  encode(scope, vaeConfig, input([1, 3, 512, 512])),
  decode(scope, vaeConfig, input([1, 4, 64, 64])),
]);

const textConfig = parseClipTextConfig(TEXT);
await writePart("text_encoder", TEXT, "model.safetensors", (scope) =>
  clipText(scope, textConfig, input([1, 77], "int64")),
);
