import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { InputError } from "../tensor/errors.js";
import { fromNumbers, type HostTensor, toNumbers } from "../tensor/host.js";
import {
  kohyaName,
  type LoraAdapter,
  modulePathOfKohya,
  PEFT_FILE,
  readLora,
  writeKohyaLora,
  writePeftLora,
} from "./lora-files.js";
import { openSafetensors, writeSafetensors } from "./safetensors.js";
import { readTensor } from "./source.js";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "alignprop-lora-"));
});
afterAll(() => rm(folder, { recursive: true }));

const BLOCK = "unet.down_blocks.0.attentions.0.transformer_blocks.0";
const down = fromNumbers([1, 2, 3, 4, 5, 6], [2, 3]);
const up = fromNumbers([1, -1, 0.5, 2], [2, 2]);
const plain: LoraAdapter = new Map([
  [`${BLOCK}.attn1.to_q`, { down, up }],
  [`${BLOCK}.attn2.to_out.0`, { down, up }],
]);
/** Rank 2 with alpha 4: a scale of 2. */
const scaled: LoraAdapter = new Map([[`${BLOCK}.attn1.to_q`, { down, up, alpha: 4 }]]);

async function refuse(tensors: Record<string, HostTensor>, message: RegExp, metadata: Record<string, string> = {}) {
  const path = join(folder, "hostile.safetensors");
  await writeSafetensors(path, new Map(Object.entries(tensors)), metadata);
  const error = await readLora(path).catch((caught) => caught);
  expect(error).toBeInstanceOf(InputError);
  expect(error.message).toMatch(message);
  expect(error.message).toMatch(/hostile\.safetensors/);
}

describe("PEFT's names", () => {
  test("are diffusers' own, and a folder with such a file reads back equal", async () => {
    const own = await mkdtemp(join(folder, "checkpoint-"));
    await writePeftLora(join(own, PEFT_FILE), plain);
    expect([...(await openSafetensors(join(own, PEFT_FILE))).names()]).toEqual([
      `${BLOCK}.attn1.to_q.lora_A.weight`,
      `${BLOCK}.attn1.to_q.lora_B.weight`,
      `${BLOCK}.attn2.to_out.0.lora_A.weight`,
      `${BLOCK}.attn2.to_out.0.lora_B.weight`,
    ]);
    expect(await readLora(own)).toEqual(plain);
  });

  test("have no place for alpha, so the scale alpha / r is multiplied into up", async () => {
    const path = join(folder, "scaled.safetensors");
    await writePeftLora(path, scaled);
    const module = (await readLora(path)).get(`${BLOCK}.attn1.to_q`);
    expect(module?.alpha).toBeUndefined();
    expect(module?.down).toEqual(down);
    expect(module && [...toNumbers(module.up)]).toEqual([2, -2, 1, 4]);
  });

  test("with diffusers' LoraConfig in the header take their alpha from it", async () => {
    const path = join(folder, "metadata.safetensors");
    const tensors = new Map([
      [`${BLOCK}.attn1.to_q.lora_A.weight`, down],
      [`${BLOCK}.attn1.to_q.lora_B.weight`, up],
    ]);
    const settings = { "unet.r": 2, "unet.lora_alpha": 4, "unet.alpha_pattern": {}, "unet.use_dora": false };
    await writeSafetensors(path, tensors, { lora_adapter_metadata: JSON.stringify(settings) });
    expect(await readLora(path)).toEqual(scaled);
  });
});

test("the names of diffusers' own training scripts are read as well", async () => {
  const path = join(folder, "diffusers.safetensors");
  const name = `${BLOCK}.attn1.to_q`;
  await writeSafetensors(
    path,
    new Map([
      [`${name}.lora.down.weight`, down],
      [`${name}.lora.up.weight`, up],
    ]),
  );
  expect(await readLora(path)).toEqual(new Map([[name, { down, up }]]));
});

describe("kohya's names", () => {
  test("carry an alpha for each module, which is the rank where none is set, and their ss_ metadata", async () => {
    const path = join(folder, "plain.kohya.safetensors");
    await writeKohyaLora(path, plain, { ss_output_name: "run" });
    const file = await openSafetensors(path);
    const name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_out_0";
    expect([...file.names()].filter((key) => key.startsWith(name)).sort()).toEqual([
      `${name}.alpha`,
      `${name}.lora_down.weight`,
      `${name}.lora_up.weight`,
    ]);
    const alpha = file.get(`${name}.alpha`);
    expect(alpha?.shape).toEqual([]);
    expect(alpha && [...toNumbers(await readTensor(alpha))]).toEqual([2]);
    expect(file.metadata).toEqual({
      ss_network_module: "networks.lora",
      ss_network_dim: "2",
      ss_network_alpha: "2",
      ss_output_name: "run",
    });
  });

  test("read back with factors as they were and the alpha that they carry", async () => {
    const path = join(folder, "scaled.kohya.safetensors");
    await writeKohyaLora(path, scaled);
    expect(await readLora(path)).toEqual(scaled);
  });

  test.each([
    [
      "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_k",
      "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_k",
    ],
    [
      "unet.up_blocks.3.attentions.2.transformer_blocks.0.ff.net.0.proj",
      "lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_ff_net_0_proj",
    ],
    ["unet.up_blocks.1.attentions.1.proj_in", "lora_unet_up_blocks_1_attentions_1_proj_in"],
    ["unet.down_blocks.1.resnets.0.time_emb_proj", "lora_unet_down_blocks_1_resnets_0_time_emb_proj"],
    ["unet.time_embedding.linear_1", "lora_unet_time_embedding_linear_1"],
    [
      "text_encoder.text_model.encoder.layers.11.self_attn.q_proj",
      "lora_te_text_model_encoder_layers_11_self_attn_q_proj",
    ],
    ["text_encoder.text_model.encoder.layers.0.mlp.fc1", "lora_te_text_model_encoder_layers_0_mlp_fc1"],
  ])("of %s is known in both directions", (modulePath, name) => {
    expect(kohyaName(modulePath)).toBe(name);
    expect(modulePathOfKohya(name)).toBe(modulePath);
  });

  test("of SDXL's two text encoders are told apart", () => {
    expect(modulePathOfKohya("lora_te1_text_model_encoder_layers_0_mlp_fc2")).toMatch(/^text_encoder\.text_model/);
    expect(modulePathOfKohya("lora_te2_text_model_encoder_layers_0_mlp_fc2")).toMatch(/^text_encoder_2\.text_model/);
  });

  test.each(["unet_to_q", "lora_unet_", "lora_unet_to__q", "lora_unet_to_q_", "lora_vae_conv_in"])(
    "do not include %j",
    (name) => expect(modulePathOfKohya(name)).toBeUndefined(),
  );
});

describe("a file that is refused", () => {
  const key = `${BLOCK}.attn1.to_q`;

  test("no tensors at all", () => refuse({}, /holds no adapter/));

  test("a key of another kind, with the kinds that are known", () =>
    refuse(
      { "unet.conv_in.weight": down },
      /"unet\.conv_in\.weight" is no key of a LoRA adapter known here; expected PEFT/,
    ));

  test("a module with one factor only", async () => {
    await refuse(
      { [`${key}.lora_A.weight`]: down },
      /attn1\.to_q: has its down \(lora_A\) factor but no up \(lora_B\)/,
    );
    await refuse({ [`${key}.lora_B.weight`]: up }, /attn1\.to_q: has its up \(lora_B\) factor but no down \(lora_A\)/);
    await refuse({ [`${key}.alpha`]: fromNumbers([1], []) }, /has only an alpha/);
  });

  test("factors of different rank", () =>
    refuse(
      { [`${key}.lora_A.weight`]: down, [`${key}.lora_B.weight`]: fromNumbers([1, 2, 3], [1, 3]) },
      /down \[2, 3\] and up \[1, 3\] differ in rank/,
    ));

  test("a convolution's factor, or one of whole numbers", async () => {
    const conv = fromNumbers([1, 2], [2, 1, 1, 1]);
    await refuse(
      { [`${key}.lora_A.weight`]: conv, [`${key}.lora_B.weight`]: up },
      /is float32\[2, 1, 1, 1\]; .*convolutions/,
    );
    const ints = fromNumbers([1, 2], [2, 1], "int32");
    await refuse({ [`${key}.lora_A.weight`]: ints, [`${key}.lora_B.weight`]: up }, /is int32\[2, 1\]/);
  });

  test("an alpha that is not one finite number", async () => {
    const factors = { [`${key}.lora_A.weight`]: down, [`${key}.lora_B.weight`]: up };
    await refuse({ ...factors, [`${key}.alpha`]: fromNumbers([1, 2], [2]) }, /alpha is not one finite number/);
    await refuse({ ...factors, [`${key}.alpha`]: fromNumbers([Number.NaN], []) }, /alpha is not one finite number/);
  });

  test("one module under both kinds of name", () =>
    refuse(
      { [`${key}.lora_A.weight`]: down, [`${kohyaName(key)}.lora_down.weight`]: down },
      /are the same factor of unet\.down_blocks/,
    ));

  test("settings in the header that plain LoRA does not have", async () => {
    const factors = { [`${key}.lora_A.weight`]: down, [`${key}.lora_B.weight`]: up };
    const header = (settings: string) => ({ lora_adapter_metadata: settings });
    await refuse(factors, /unet\.use_dora is set/, header('{"unet.use_dora": true}'));
    await refuse(factors, /unet\.alpha_pattern is set/, header('{"unet.alpha_pattern": {"to_q": 3}}'));
    await refuse(factors, /lora_alpha is "4", not a number/, header('{"unet.lora_alpha": "4"}'));
    await refuse(factors, /lora_adapter_metadata: is not valid JSON/, header("{"));
  });
});
