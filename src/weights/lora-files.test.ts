import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { inputError } from "../../test/errors.js";
import { type ErrorCode, type ErrorFacts, InputError } from "../errors/index.js";
import { fromNumbers, type HostTensor, toNumbers } from "../tensor/host.js";
import { type LoraAdapter, type LoraModule, PEFT_FILE, writeKohyaLora, writePeftLora } from "./lora-files.js";
import { kohyaName, modulePathOfKohya } from "./lora-names.js";
import { readLora } from "./read-adapter.js";
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

/** The error of reading a file with these tensors. */
async function readError(tensors: Record<string, HostTensor>, metadata: Record<string, string> = {}) {
  const path = join(folder, "hostile.safetensors");
  await writeSafetensors(path, new Map(Object.entries(tensors)), metadata);
  const error = await readLora(path).catch((caught) => caught);
  expect(error).toBeInstanceOf(InputError);
  expect(error.message).toContain(path);
  return error as InputError;
}

async function expectRefused(tensors: Record<string, HostTensor>, code: ErrorCode, facts: ErrorFacts) {
  const path = join(folder, "hostile.safetensors");
  expect(await readError(tensors)).toEqual(inputError(code, { path, ...facts }));
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

  test("have no alpha, so the scale alpha / r is multiplied into up", async () => {
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

describe("other names for the same adapter", () => {
  const module = `${BLOCK}.attn1.to_q`;
  const inUnet = module.slice("unet.".length);
  test.each([
    ["diffusers' own training scripts", `${module}.lora.down.weight`, `${module}.lora.up.weight`],
    ["PEFT without a pipeline", `${inUnet}.lora_A.weight`, `${inUnet}.lora_B.weight`],
    [
      "PEFT in training",
      `base_model.model.${inUnet}.lora_A.default.weight`,
      `base_model.model.${inUnet}.lora_B.default.weight`,
    ],
    [
      "diffusers' attention processors",
      `${module.replace(".to_q", ".processor.to_q_lora")}.down.weight`,
      `${module.replace(".to_q", ".processor.to_q_lora")}.up.weight`,
    ],
  ])("%s are read", async (_, a, b) => {
    const path = join(folder, "other.safetensors");
    await writeSafetensors(
      path,
      new Map([
        [a, down],
        [b, up],
      ]),
    );
    expect(await readLora(path)).toEqual(new Map([[module, { down, up }]]));
  });

  test("to_out of a processor is the Linear in its list", async () => {
    const path = join(folder, "to-out.safetensors");
    const name = "mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_out_lora";
    await writeSafetensors(
      path,
      new Map([
        [`${name}.down.weight`, down],
        [`${name}.up.weight`, up],
      ]),
    );
    expect([...(await readLora(path)).keys()]).toEqual([
      "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0",
    ]);
  });

  test.each([
    ["input_blocks_4_1_transformer_blocks_0_attn1_to_q", "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"],
    [
      "input_blocks_8_1_transformer_blocks_9_ff_net_0_proj",
      "down_blocks.2.attentions.1.transformer_blocks.9.ff.net.0.proj",
    ],
    ["input_blocks_3_0_op", "down_blocks.0.downsamplers.0.conv"],
    ["input_blocks_1_0_in_layers_2", "down_blocks.0.resnets.0.conv1"],
    ["middle_block_1_proj_in", "mid_block.attentions.0.proj_in"],
    ["middle_block_2_out_layers_3", "mid_block.resnets.1.conv2"],
    ["output_blocks_2_2_conv", "up_blocks.0.upsamplers.0.conv"],
    [
      "output_blocks_5_1_transformer_blocks_1_attn2_to_out_0",
      "up_blocks.1.attentions.2.transformer_blocks.1.attn2.to_out.0",
    ],
    ["output_blocks_7_0_skip_connection", "up_blocks.2.resnets.1.conv_shortcut"],
    ["output_blocks_8_0_emb_layers_1", "up_blocks.2.resnets.2.time_emb_proj"],
    ["time_embed_2", "time_embedding.linear_2"],
    ["label_emb_0_0", "add_embedding.linear_1"],
    ["input_blocks_0_0", "conv_in"],
    ["out_2", "conv_out"],
  ])("the original layout of SDXL: %s", (name, path) => {
    expect(modulePathOfKohya(`lora_unet_${name}`)).toBe(`unet.${path}`);
  });
});

test("factors in float16 stay float16", async () => {
  const path = join(folder, "half.safetensors");
  const half = (values: number[], shape: number[]) => fromNumbers(values, shape, "float16");
  const factors = { down: half([1, 2], [1, 2]), up: half([0.5], [1, 1]) };
  await writePeftLora(path, new Map([[`${BLOCK}.attn1.to_q`, factors]]));
  expect(await readLora(path)).toEqual(new Map([[`${BLOCK}.attn1.to_q`, factors]]));
});

test("layers of the text encoder are left out, with a warning", async () => {
  const path = join(folder, "text.safetensors");
  const text = "lora_te_text_model_encoder_layers_0_mlp_fc1";
  const tensors = new Map([
    [`${text}.lora_down.weight`, down],
    [`${text}.lora_up.weight`, up],
    [`${kohyaName(`${BLOCK}.attn1.to_q`)}.lora_down.weight`, down],
    [`${kohyaName(`${BLOCK}.attn1.to_q`)}.lora_up.weight`, up],
  ]);
  await writeSafetensors(path, tensors);
  const warnings: string[] = [];
  const adapter = await readLora(path, { warn: (message) => warnings.push(message) });
  expect([...adapter.keys()]).toEqual([`${BLOCK}.attn1.to_q`]);
  expect(warnings).toEqual([expect.stringMatching(/text\.safetensors: 1 .*text_encoder/)]);
});

describe("PEFT's own folder", () => {
  test("gives the alphas of its adapter_config.json, also those of single modules and rank-stabilized ones", async () => {
    const own = await mkdtemp(join(folder, "peft-"));
    const inUnet = BLOCK.slice("unet.".length);
    const tensors = new Map(
      ["attn1.to_q", "attn2.to_q"].flatMap((end) => [
        [`base_model.model.${inUnet}.${end}.lora_A.weight`, down] as const,
        [`base_model.model.${inUnet}.${end}.lora_B.weight`, up] as const,
      ]),
    );
    await writeSafetensors(join(own, "adapter_model.safetensors"), tensors);
    const alphas = async (config: object) => {
      await writeFile(join(own, "adapter_config.json"), JSON.stringify(config));
      return [...(await readLora(own)).values()].map(({ alpha }) => alpha);
    };
    expect(await alphas({ lora_alpha: 6, alpha_pattern: { "attn2.to_q": 8 } })).toEqual([6, 8]);
    expect(await alphas({ lora_alpha: 6, alpha_pattern: { "^attn2.to_q": 8 } })).toEqual([6, 6]);
    expect(await alphas({ lora_alpha: 6, use_rslora: true })).toEqual([
      Math.fround(6 * 2 ** 0.5),
      Math.fround(6 * 2 ** 0.5),
    ]);
  });
});

describe("kohya's names", () => {
  test("have an alpha for each module, by default the rank, and ss_ metadata", async () => {
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

  test("have one alpha even if ranks or alphas differ, and the same change of the weights", async () => {
    const path = join(folder, "mixed.kohya.safetensors");
    const other = { down: fromNumbers([1, 2, 3], [1, 3]), up: fromNumbers([3, 5], [2, 1]), alpha: 6 };
    const names = ["attn1.to_q", "attn1.to_k", "attn1.to_v"].map((end) => `${BLOCK}.${end}`);
    const [q, k, v] = names as [string, string, string];
    // Scales of 1, 1 and 6. With alpha 2 for all, the last scale becomes 2 / 1, and the other factor of 3 is in its up.
    await writeKohyaLora(
      path,
      new Map<string, LoraModule>([
        [q, { down, up }],
        [k, { down, up }],
        [v, other],
      ]),
    );
    const found = await readLora(path);
    expect([...found.values()].map(({ alpha }) => alpha)).toEqual([2, 2, 2]);
    expect(found.get(q)).toEqual({ down, up, alpha: 2 });
    expect([...toNumbers((found.get(v) as LoraModule).up)]).toEqual([9, 15]);
    expect((await openSafetensors(path)).metadata).toMatchObject({ ss_network_dim: "Dynamic", ss_network_alpha: "2" });
  });

  test("read back with the same factors and alphas", async () => {
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
  ])("translate %s in both directions", (modulePath, name) => {
    expect(kohyaName(modulePath)).toBe(name);
    expect(modulePathOfKohya(name)).toBe(modulePath);
  });

  test("distinguish the two text encoders of SDXL", () => {
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

  test("no tensors at all", () => expectRefused({}, "tensor-missing", {}));

  test("a key of another kind, with the kinds that are known", async () => {
    await expectRefused({ "unet.conv_in.weight": down }, "adapter-unsupported", { tensor: "unet.conv_in.weight" });
    expect((await readError({ "unet.conv_in.weight": down })).message).toMatch(/PEFT.*lora_A.*kohya.*lora_down/);
  });

  test("a module with one factor only", async () => {
    const module = key;
    await expectRefused({ [`${key}.lora_A.weight`]: down }, "tensor-missing", { module, missing: ["up"] });
    await expectRefused({ [`${key}.lora_B.weight`]: up }, "tensor-missing", { module, missing: ["down"] });
    const alpha = { [`${key}.alpha`]: fromNumbers([1], []) };
    await expectRefused(alpha, "tensor-missing", { module, missing: ["down", "up"] });
  });

  test("factors of different rank", () =>
    expectRefused(
      { [`${key}.lora_A.weight`]: down, [`${key}.lora_B.weight`]: fromNumbers([1, 2, 3], [1, 3]) },
      "tensor-mismatch",
      { module: key, down: [2, 3], up: [1, 3] },
    ));

  test("a factor that is not a matrix or a convolution, or has integers", async () => {
    const [tensor, other] = [`${key}.lora_A.weight`, `${key}.lora_B.weight`];
    const odd = fromNumbers([1, 2], [2, 1, 1]);
    await expectRefused({ [tensor]: odd, [other]: up }, "tensor-mismatch", {
      tensor,
      dtype: "float32",
      shape: [2, 1, 1],
    });
    const ints = fromNumbers([1, 2], [2, 1], "int32");
    await expectRefused({ [tensor]: ints, [other]: up }, "tensor-mismatch", { tensor, dtype: "int32", shape: [2, 1] });
    const wide = fromNumbers([1, 2, 3, 4], [1, 2, 2, 1]);
    await expectRefused({ [tensor]: down, [other]: wide }, "tensor-mismatch", {
      module: key,
      down: [2, 3],
      up: [1, 2, 2, 1],
    });
  });

  test.each([
    ["OFT or BOFT", "lora_unet_mid_block_attentions_0_proj_in.oft_blocks"],
    ["weight differences beside LoRA", "lora_unet_conv_in.diff_b"],
    ["IA3", "lora_unet_mid_block_attentions_0_proj_in.on_input"],
    ["VeRA", `${key}.vera_lambda_b`],
    ["LoRA with a bias", `${key}.lora_B.bias`],
  ])("one of %s, by that name: %s", (found, tensor) =>
    expectRefused(
      { [`${key}.lora_A.weight`]: down, [`${key}.lora_B.weight`]: up, [tensor]: down },
      "adapter-unsupported",
      { tensor, found },
    ),
  );

  test("one that adapts only the text encoder", () =>
    expectRefused({ "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": down }, "adapter-unsupported", {
      found: ["text_encoder"],
      expected: "unet",
    }));

  test("a name of many megabytes, quickly and with a short message", async () => {
    const { message, facts } = await readError({ [".lora_A".repeat(1e6)]: down });
    expect(message.length).toBeLessThan(800);
    expect((facts.tensor as string).length).toBeLessThan(400);
  });

  test("an alpha that is not one finite number", async () => {
    const factors = { [`${key}.lora_A.weight`]: down, [`${key}.lora_B.weight`]: up };
    const tensor = `${key}.alpha`;
    await expectRefused({ ...factors, [tensor]: fromNumbers([1, 2], [2]) }, "tensor-mismatch", { tensor, shape: [2] });
    await expectRefused({ ...factors, [tensor]: fromNumbers([Number.NaN], []) }, "tensor-mismatch", {
      tensor,
      shape: [],
    });
  });

  test("one module under both kinds of name", async () => {
    const tensors = [`${key}.lora_A.weight`, `${kohyaName(key)}.lora_down.weight`] as const;
    const file = { [tensors[0]]: down, [tensors[1]]: down };
    await expectRefused(file, "file-malformed", { module: key, tensors: expect.arrayContaining([...tensors]) });
  });

  test("settings in the header that plain LoRA does not have", async () => {
    const factors = { [`${key}.lora_A.weight`]: down, [`${key}.lora_B.weight`]: up };
    const refused = async (settings: string, code: ErrorCode, facts: ErrorFacts) => {
      const error = await readError(factors, { lora_adapter_metadata: settings });
      expect(error).toEqual(inputError(code, { path: join(folder, "hostile.safetensors"), ...facts }));
    };
    const pattern = "unet.alpha_pattern";
    await refused('{"unet.use_dora": true}', "adapter-unsupported", { setting: "unet.use_dora" });
    await refused(`{"${pattern}": {"to_[qk]": 3}}`, "adapter-unsupported", { setting: pattern, found: "to_[qk]" });
    await refused(`{"${pattern}": {"to_q": "3"}}`, "config-invalid", { setting: `${pattern}.to_q`, found: '"3"' });
    await refused('{"unet.lora_alpha": "4"}', "config-invalid", { setting: "unet.lora_alpha", found: '"4"' });
    const { message } = await readError(factors, { lora_adapter_metadata: "{" });
    expect(message).toContain("lora_adapter_metadata");
  });
});
