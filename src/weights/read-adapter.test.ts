import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { inputError } from "../../test/errors.js";
import { dict, pickle, tensor, torchZip } from "../../test/torch-file.js";
import { fromNumbers, type HostTensor, toNumbers } from "../tensor/host.js";
import { type LoraAdapter, PEFT_FILE, writeKohyaLora, writePeftLora } from "./lora-files.js";
import { readAdapter, readLora } from "./read-adapter.js";
import { writeSafetensors } from "./safetensors.js";

let root: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "alignprop-read-adapter-"));
});
afterAll(() => rm(root, { recursive: true }));

const IN_UNET = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q";
const MODULE = `unet.${IN_UNET}`;
const ORIGINAL = "input_blocks.4.1.transformer_blocks.0.attn1.to_q";
const down = fromNumbers([1, 2, 3, 4, 5, 6], [2, 3]);
const up = fromNumbers([1, -1, 0.5, 2], [2, 2]);
const adapter: LoraAdapter = new Map([[MODULE, { down, up }]]);

async function fileOf(tensors: Record<string, HostTensor>, name = "adapter.safetensors") {
  const path = join(await mkdtemp(join(root, "file-")), name);
  await writeSafetensors(path, new Map(Object.entries(tensors)));
  return path;
}

/** A file of `torch.save` with these matrices. */
function torchFile(tensors: Record<string, HostTensor>, wrap = (entries: Buffer) => entries): Buffer {
  const storages: Record<string, Uint8Array> = {};
  const entries = Object.entries(tensors).map(([name, { shape, data }], i) => {
    storages[String(i)] = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    const [rows = 1, columns = 1] = shape;
    return [name, tensor({ key: String(i), elements: rows * columns, shape, strides: [columns, 1] })] as const;
  });
  return torchZip(pickle(wrap(dict(Object.fromEntries(entries)))), storages);
}

describe("PyTorch files are read as safetensors files are", () => {
  const processor = IN_UNET.replace(".to_q", ".processor.to_q_lora");
  test("AlignProp's checkpoint: pytorch_lora_weights.bin in a folder, with names of attention processors", async () => {
    const folder = await mkdtemp(join(root, "checkpoint_1-"));
    const tensors = { [`${processor}.down.weight`]: down, [`${processor}.up.weight`]: up };
    await writeFile(join(folder, "pytorch_lora_weights.bin"), torchFile(tensors));
    expect(await readLora(folder)).toEqual(adapter);
  });

  test("PEFT's adapter_model.bin, with its config", async () => {
    const folder = await mkdtemp(join(root, "peft-"));
    const name = `base_model.model.${IN_UNET}`;
    const tensors = { [`${name}.lora_A.weight`]: down, [`${name}.lora_B.weight`]: up };
    await writeFile(join(folder, "adapter_model.bin"), torchFile(tensors));
    await writeFile(join(folder, "adapter_config.json"), JSON.stringify({ peft_type: "LORA", r: 2, lora_alpha: 6 }));
    expect((await readLora(folder)).get(MODULE)).toEqual({ down, up, alpha: 6 });
  });

  test.each(["pt", "ckpt"])("a .%s file, also with a state_dict in it", async (ending) => {
    const path = join(root, `lora.${ending}`);
    const tensors = { [`${MODULE}.lora_A.weight`]: down, [`${MODULE}.lora_B.weight`]: up };
    await writeFile(
      path,
      torchFile(tensors, ending === "ckpt" ? (entries) => dict({ state_dict: entries }) : undefined),
    );
    expect(await readLora(path)).toEqual(adapter);
  });
});

describe("names of other tools", () => {
  test.each([
    ["ComfyUI", `diffusion_model.${ORIGINAL}.lora_A.weight`, `diffusion_model.${ORIGINAL}.lora_B.weight`],
    ["ComfyUI, older", `diffusion_model.${ORIGINAL}.lora_down.weight`, `diffusion_model.${ORIGINAL}.lora_up.weight`],
    [
      "the original code",
      `model.diffusion_model.${ORIGINAL}.lora_A.weight`,
      `model.diffusion_model.${ORIGINAL}.lora_B.weight`,
    ],
    ["PEFT with a named adapter", `${IN_UNET}.lora_A.myname.weight`, `${IN_UNET}.lora_B.myname.weight`],
    [
      "LyCORIS around a U-Net",
      `lycoris_${IN_UNET.replaceAll(".", "_")}.lora_down.weight`,
      `lycoris_${IN_UNET.replaceAll(".", "_")}.lora_up.weight`,
    ],
  ])("%s are read", async (_, a, b) => {
    expect(await readLora(await fileOf({ [a]: down, [b]: up }))).toEqual(adapter);
  });

  test("an unknown tensor of an adapted layer is refused, because it may change the formula", async () => {
    const factors = { [`${MODULE}.lora_A.weight`]: down, [`${MODULE}.lora_B.weight`]: up };
    for (const tensor of [`${MODULE}.lora_C.weight`, `lora_unet_${IN_UNET.replaceAll(".", "_")}.gate`]) {
      await expect(readLora(await fileOf({ ...factors, [tensor]: down }))).rejects.toThrow(
        inputError("adapter-unsupported", { tensor, module: MODULE }),
      );
    }
    // The layer's own weight changes nothing.
    const path = await fileOf({ ...factors, [`${MODULE}.base_layer.weight`]: down });
    expect(await readLora(path)).toEqual(adapter);
  });

  test("the scalar of older LyCORIS is a factor of the change", async () => {
    const name = `lora_unet_${IN_UNET.replaceAll(".", "_")}`;
    const path = await fileOf({
      [`${name}.lora_down.weight`]: down,
      [`${name}.lora_up.weight`]: up,
      [`${name}.alpha`]: fromNumbers([4], []),
      [`${name}.scalar`]: fromNumbers([0.5], []),
    });
    expect((await readLora(path)).get(MODULE)?.alpha).toBe(2);
  });

  test("two adapters in one file are refused by their names", async () => {
    const path = await fileOf({ [`${IN_UNET}.lora_A.one.weight`]: down, [`${IN_UNET}.lora_B.two.weight`]: up });
    await expect(readLora(path)).rejects.toThrow(inputError("adapter-unsupported", { path, found: ["one", "two"] }));
  });

  test.each(["int64", "int32", "uint8", "float64", "bfloat16"] as const)(
    "an alpha of type %s is its number",
    async (type) => {
      const name = `lora_unet_${IN_UNET.replaceAll(".", "_")}`;
      const path = await fileOf({
        [`${name}.lora_down.weight`]: down,
        [`${name}.lora_up.weight`]: up,
        [`${name}.alpha`]: fromNumbers([4], [], type),
      });
      expect((await readLora(path)).get(MODULE)?.alpha).toBe(4);
    },
  );

  test("what cannot be used is named in one warning, and the rest is read", async () => {
    const path = await fileOf({
      [`${MODULE}.lora_A.weight`]: down,
      [`${MODULE}.lora_B.weight`]: up,
      "bundle_emb.foo.clip_l": down,
      "base_model.model.conv_in.weight": down,
      "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.lora_A.weight": down,
    });
    const warnings: string[] = [];
    expect(await readLora(path, { warn: (message) => warnings.push(message) })).toEqual(adapter);
    expect(warnings).toEqual([
      expect.stringMatching(/1 layers of the text_encoder and 2 tensors .*conv_in.*bundle_emb\.foo\.clip_l/),
    ]);
  });

  test("an adapter of another architecture is refused by its name", async () => {
    const tensor = "lora_unet_double_blocks_0_img_attn_proj.lora_down.weight";
    await expect(readLora(await fileOf({ [tensor]: down }))).rejects.toThrow(
      inputError("adapter-unsupported", { what: "an adapter of FLUX" }),
    );
  });
});

describe("a folder", () => {
  test("with one adapter of any name is that adapter, beside other files", async () => {
    const folder = await mkdtemp(join(root, "folder-"));
    await writeKohyaLora(join(folder, "my style.safetensors"), adapter);
    await writeFile(join(folder, "README.md"), "# style");
    await writeSafetensors(join(folder, "optimizer.safetensors"), new Map([["step", down]]));
    expect((await readLora(folder)).get(MODULE)).toEqual({ down, up, alpha: 2 });
  });

  test("has its alphas in adapter_config.json, whatever the name of the weights", async () => {
    const folder = await mkdtemp(join(root, "renamed-"));
    await writePeftLora(join(folder, "style.safetensors"), adapter);
    await writeFile(join(folder, "adapter_config.json"), JSON.stringify({ lora_alpha: 6 }));
    expect((await readLora(folder)).get(MODULE)?.alpha).toBe(6);
  });

  test("with several adapters is refused with their names, unless one has the name that diffusers looks for", async () => {
    const folder = await mkdtemp(join(root, "several-"));
    for (const name of ["a.safetensors", "b.safetensors"]) await writePeftLora(join(folder, name), adapter);
    await expect(readLora(folder)).rejects.toThrow(
      inputError("adapter-unsupported", { path: folder, found: ["a.safetensors", "b.safetensors"] }),
    );
    await writePeftLora(join(folder, PEFT_FILE), adapter);
    expect(await readLora(folder)).toEqual(adapter);
  });

  test("without an adapter is refused", async () => {
    const folder = await mkdtemp(join(root, "empty-"));
    await expect(readLora(folder)).rejects.toThrow(inputError("file-not-found", { path: folder }));
  });
});

describe("PEFT's config", () => {
  const refused = async (config: object, facts: object) => {
    const folder = await mkdtemp(join(root, "config-"));
    const tensors = { [`${IN_UNET}.lora_A.weight`]: down, [`${IN_UNET}.lora_B.weight`]: up };
    await writeSafetensors(join(folder, "adapter_model.safetensors"), new Map(Object.entries(tensors)));
    await writeFile(join(folder, "adapter_config.json"), JSON.stringify({ lora_alpha: 2, ...config }));
    const path = join(folder, "adapter_config.json");
    await expect(readLora(folder)).rejects.toThrow(inputError("adapter-unsupported", { path, ...facts }));
  };

  test.each(["pissa", "pissa_niter_16", "olora", "loftq", "corda", "something new"])(
    "refuses an adapter that began as %s by name, because the model's weights changed with it",
    (initial) =>
      refused({ init_lora_weights: initial }, { setting: "init_lora_weights", found: JSON.stringify(initial) }),
  );

  test("refuses other kinds of adapter and variants of LoRA by name", async () => {
    await refused({ peft_type: "OFT" }, { setting: "peft_type", found: '"OFT"' });
    await refused({ use_qalora: true }, { setting: "use_qalora" });
    await refused({ lora_bias: true }, { setting: "lora_bias" });
    await refused(
      { use_dora: true },
      { setting: "use_dora", missing: "lora_magnitude_vector", path: expect.any(String) },
    );
  });

  test.each([true, false, "gaussian", "eva", "orthogonal", null])(
    "allows initial factors that leave the model as it is: %j",
    async (initial) => {
      const folder = await mkdtemp(join(root, "config-"));
      await writePeftLora(join(folder, "adapter_model.safetensors"), adapter);
      await writeFile(join(folder, "adapter_config.json"), JSON.stringify({ init_lora_weights: initial }));
      expect(await readLora(folder)).toEqual(adapter);
    },
  );
});

test("factors of two kinds for one layer are refused", async () => {
  const path = await fileOf({
    [`${MODULE}.lora_A.weight`]: down,
    [`${MODULE}.lora_B.weight`]: up,
    [`${MODULE}.hada_w1_a`]: down,
  });
  await expect(readAdapter(path)).rejects.toThrow(
    inputError("file-malformed", { module: MODULE, found: ["LoRA", "LoHa"] }),
  );
});

test("LoHa's product of elements is LoRA of the squared rank: (2·3) ⊙ (5·7) = 6 · 35", async () => {
  const one = (value: number) => fromNumbers([value], [1, 1]);
  const path = await fileOf({
    [`${MODULE}.hada_w1_a`]: one(2),
    [`${MODULE}.hada_w1_b`]: one(3),
    [`${MODULE}.hada_w2_a`]: one(5),
    [`${MODULE}.hada_w2_b`]: one(7),
  });
  const module = (await readLora(path)).get(MODULE);
  expect(module && [...toNumbers(module.up), ...toNumbers(module.down)].reduce((a, b) => a * b)).toBe(6 * 35);
});

test("a damaged PyTorch file is refused as such", async () => {
  const path = join(root, "damaged.bin");
  await writeFile(path, (await readFile(await fileOf({ [`${MODULE}.lora_A.weight`]: down }))).subarray(0, 20));
  await expect(readLora(path)).rejects.toThrow(inputError("file-malformed"));
});
