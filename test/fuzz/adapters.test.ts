/** Mutated adapters of every kind are read with finite shapes or refused, and `look` says what they are. */
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, test } from "vitest";
import { fromNumbers } from "../../src/tensor/host.js";
import type { Rng } from "../../src/tensor/rng.js";
import { sizeOf } from "../../src/tensor/shape.js";
import { look } from "../../src/weights/look/look.js";
import { readAdapter } from "../../src/weights/read-adapter.js";
import { writeSafetensors } from "../../src/weights/safetensors.js";
import { fuzz, LIMIT, scratchFolder } from "./fuzz.js";
import { mutateBytes, mutateJson } from "./mutate.js";

const folder = scratchFolder();
afterAll(() => rmSync(folder, { recursive: true }));

const tensor = (...shape: number[]) => fromNumbers(new Float32Array(sizeOf(shape)).fill(0.5), shape);
const layer = (end: string) => `base_model.model.mid_block.attentions.0.transformer_blocks.0.${end}`;
const valid = join(folder, "adapter_model.safetensors");
await writeSafetensors(
  valid,
  new Map([
    [`${layer("attn1.to_q")}.lora_A.weight`, tensor(2, 3)],
    [`${layer("attn1.to_q")}.lora_B.weight`, tensor(4, 2)],
    [`${layer("attn1.to_q")}.lora_magnitude_vector`, tensor(4)],
    [`${layer("attn1.to_k")}.hada_w1_a`, tensor(4, 2)],
    [`${layer("attn1.to_k")}.hada_w1_b`, tensor(2, 3)],
    [`${layer("attn1.to_k")}.hada_w2_a`, tensor(4, 2)],
    [`${layer("attn1.to_k")}.hada_w2_b`, tensor(2, 3)],
    [`${layer("attn1.to_v")}.lokr_w1`, tensor(2, 3)],
    [`${layer("attn1.to_v")}.lokr_t2`, tensor(2, 2, 3, 3)],
    [`${layer("attn1.to_v")}.lokr_w2_a`, tensor(2, 4)],
    [`${layer("attn1.to_v")}.lokr_w2_b`, tensor(2, 5)],
    ["lora_unet_mid_block_attentions_0_proj_in.lora_down.weight", tensor(2, 3, 1, 1)],
    ["lora_unet_mid_block_attentions_0_proj_in.lora_mid.weight", tensor(2, 2, 3, 3)],
    ["lora_unet_mid_block_attentions_0_proj_in.lora_up.weight", tensor(4, 2, 1, 1)],
    ["lora_unet_mid_block_attentions_0_proj_in.alpha", tensor()],
  ]),
);
const original = readFileSync(valid);
const dataStart = 8 + Number(original.readBigUInt64LE());
const header = JSON.parse(original.subarray(8, dataStart).toString()) as unknown;
const config = {
  peft_type: "LORA",
  r: 2,
  lora_alpha: 4,
  alpha: 3,
  alpha_pattern: { to_k: 2 },
  use_dora: true,
  use_rslora: true,
};

test("adapters with changed names, shapes, bytes and configs", LIMIT, async () => {
  const withHeader = (json: string) => {
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(Buffer.byteLength(json)));
    return Buffer.concat([length, Buffer.from(json), original.subarray(dataStart)]);
  };
  const names = [
    ".lora_A.weight",
    ".hada_w1_a",
    ".lokr_w2",
    "lora_unet_",
    "diffusion_model.",
    "[2,3]",
    "[3,2]",
    "F16",
    "I64",
  ];
  const mutate = (rng: Rng): { weights: Buffer; settings: string } => {
    const weights =
      rng.uniform() < 0.2
        ? original
        : rng.uniform() < 0.5
          ? mutateBytes(original, rng, names)
          : withHeader(mutateJson(header, rng));
    return { weights, settings: rng.uniform() < 0.5 ? JSON.stringify(config) : mutateJson(config, rng) };
  };
  await fuzz(3_7, mutate, async ({ weights, settings }) => {
    writeFileSync(valid, weights);
    writeFileSync(join(folder, "adapter_config.json"), settings);
    const found = await look(valid);
    if (found.what === "") throw new Error("nothing was said");
    for (const [module, { down, up }] of await readAdapter(folder)) {
      if (down.shape[0] !== up.shape[1] || down.data.length !== sizeOf(down.shape))
        throw new Error(`${module} is no product`);
    }
  });
});
