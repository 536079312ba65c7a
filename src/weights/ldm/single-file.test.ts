import { cp, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { gunzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { InputError } from "../../errors/index.js";
import { allocate, fromNumbers, type HostTensor } from "../../tensor/host.js";
import { Rng } from "../../tensor/rng.js";
import { sizeOf } from "../../tensor/shape.js";
import { type Model, openModelFolder } from "../folder.js";
import { openSafetensors, writeSafetensors } from "../safetensors.js";
import { fromTensors, readTensor, type StoredTensor, type WeightSource } from "../source.js";
import { renamed } from "./rename.js";
import { openSingleFile, singleFileModel } from "./single-file.js";

/** Written by parity/ldm.py, which checks its files with diffusers' own converters. */
const GOLDENS = fileURLToPath(new URL("../../../test/goldens", import.meta.url));
const LDM = join(GOLDENS, "ldm");
const TOKENIZER = join(GOLDENS, "tiny-sd/tokenizer");
/** What they were made from. */
const FOLDERS = [
  ["sd1", join(GOLDENS, "tiny-sd")],
  ["sd2", join(GOLDENS, "families/sd2/model")],
  ["sdxl", join(GOLDENS, "families/sdxl/model")],
] as const;
type Name = (typeof FOLDERS)[number][0];

type Configs = Record<string, Record<string, unknown>>;
type Shapes = Record<string, number[]>;
const published: Record<Name, { configs: Configs; single_file: Shapes; folder: Shapes }> = JSON.parse(
  gunzipSync(await readFile(join(LDM, "published.json.gz"))).toString(),
);

let root: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "alignprop-ldm-"));
});
afterAll(() => rm(root, { recursive: true }));

const open = (name: Name) => openSingleFile(join(LDM, `${name}.safetensors`), { tokenizer: TOKENIZER, note: () => {} });

async function configsOf({ components }: Model): Promise<Configs> {
  const entries = [...components].map(async ([name, part]) => [name, (await part.config()) as object] as const);
  return Object.fromEntries(await Promise.all(entries)) as Configs;
}

/** What no tensor of a tiny model shows, because its numbers are not those of its family. */
const FAMILY_FACTS = [
  "addition_time_embed_dim",
  "attention_head_dim",
  "norm_num_groups",
  "num_attention_heads",
  "sample_size",
  "scaling_factor",
];
/** Two spellings of what the tests of the models prove to be one. */
const SPELT_OTHERWISE = ["eos_token_id", "projection_dim"];

/** Keys that both configurations have, but for `without`. */
function common(made: Record<string, unknown>, expected: Record<string, unknown>, without: readonly string[]) {
  const keys = Object.keys(made).filter((key) => key in expected && !without.includes(key));
  const pick = (of: Record<string, unknown>) => Object.fromEntries(keys.map((key) => [key, of[key]]));
  return { made: pick(made), expected: pick(expected), keys };
}

/** All tensors of a model's weighed parts. */
async function tensorsOf({ components }: Model): Promise<Map<string, StoredTensor>> {
  const found = new Map<string, StoredTensor>();
  for (const [name, part] of components) {
    if (!/^(unet|vae|text_encoder(_2)?)$/.test(name)) continue;
    const weights = await part.weights();
    for (const key of weights.names()) found.set(`${name}.${key}`, weights.get(key) as StoredTensor);
  }
  return found;
}

describe.each(FOLDERS)("a single file of the family %s", (name, folder) => {
  test("holds every tensor of the folder, bit by bit under its name there, and no other", async () => {
    const expected = new Map<string, HostTensor>();
    for (const [key, stored] of await tensorsOf(await openModelFolder(folder))) {
      // transformers 5 saves a text encoder without the level that older files have.
      const full = key.replace(/^(text_encoder(?:_2)?)\.(embeddings|encoder|final_layer_norm)\./, "$1.text_model.$2.");
      expected.set(full, await readTensor(stored));
    }
    const found = await tensorsOf(await open(name));
    expect([...found.keys()].sort()).toEqual([...expected.keys()].sort());
    for (const [key, stored] of found) expect(await readTensor(stored), key).toEqual(expected.get(key));
  });

  test("tells blocks, widths, depths and attention by its shapes", async () => {
    const made = await configsOf(await open(name));
    for (const [part, component] of (await openModelFolder(folder)).components) {
      if (/tokenizer|scheduler/.test(part)) continue;
      const config = (await component.config()) as Record<string, unknown>;
      const both = common(made[part] as Record<string, unknown>, config, [...FAMILY_FACTS, ...SPELT_OTHERWISE]);
      expect(both.made, part).toEqual(each(both.expected, both.made));
      expect(both.keys.length, part).toBeGreaterThan(6);
    }
  });

  test("of the published size gets the published configuration and tensors", async () => {
    const { configs, single_file, folder } = published[name];
    const model = await singleFileModel("shapes", shapesOnly(single_file), { tokenizer: TOKENIZER, note: () => {} });
    const made = await configsOf(model);
    for (const [part, config] of Object.entries(configs)) {
      const both = common(made[part] as Record<string, unknown>, config, SPELT_OTHERWISE);
      expect(both.made, part).toEqual(each(both.expected, both.made));
    }
    const shapes = [...(await tensorsOf(model))].map(([key, { shape }]) => [key, shape]);
    expect(Object.fromEntries(shapes)).toEqual(folder);
  });
});

/** Lists of one number repeated stand for the number, in either. */
function each(expected: Record<string, unknown>, made: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(expected).map(([key, value]) => {
      const other = made[key];
      if (Array.isArray(other) && typeof value === "number") return [key, other.map(() => value)];
      if (typeof other === "number" && Array.isArray(value) && new Set(value).size === 1) return [key, value[0]];
      return [key, value];
    }),
  );
}

/** Tensors of these shapes without elements, but for the one that is turned over when it is opened. */
function shapesOnly(shapes: Record<string, number[]>): WeightSource {
  const data = (name: string, shape: number[]) =>
    name.endsWith("text_projection") ? allocate("float16", sizeOf(shape)) : new Uint16Array();
  return {
    describe: "shapes",
    names: () => Object.keys(shapes),
    get(name) {
      const shape = shapes[name];
      return shape && { kind: "memory", dtype: "float16", shape, data: data(name, shape) };
    },
  };
}

describe("what a U-Net predicts", () => {
  const predictionIn = async (
    base: string,
    { extra = {}, metadata = {} }: { extra?: Record<string, HostTensor>; metadata?: Record<string, string> } = {},
    options: { prediction?: "epsilon" } = {},
  ) => {
    const path = join(await mkdtemp(join(root, "prediction-")), "model.safetensors");
    const file = await openSafetensors(join(LDM, `${base}.safetensors`));
    const all = new Map(Object.entries(extra));
    for (const name of file.names()) all.set(name, await readTensor(file.get(name) as StoredTensor));
    await writeSafetensors(path, all, metadata);
    const notes: string[] = [];
    const model = await openSingleFile(path, {
      tokenizer: TOKENIZER,
      note: (message) => notes.push(message),
      ...options,
    });
    const config = async (part: string) => (await model.components.get(part)?.config()) as Record<string, unknown>;
    return { ...(await config("scheduler")), side: (await config("unet")).sample_size, notes: notes.length };
  };

  test("is the noise in 1.x and SDXL", async () => {
    expect(await predictionIn("sd1")).toMatchObject({ prediction_type: "epsilon", side: 64, notes: 0 });
    expect(await predictionIn("sdxl")).toMatchObject({ prediction_type: "epsilon", side: 128, notes: 0 });
  });

  test("is v in 2.x, with a note that says so, but for the base", async () => {
    expect(await predictionIn("sd2")).toMatchObject({ prediction_type: "v_prediction", side: 96, notes: 1 });
    const base = { global_step: fromNumbers([875_000], [], "int64") };
    expect(await predictionIn("sd2", { extra: base })).toMatchObject({
      prediction_type: "epsilon",
      side: 64,
      notes: 0,
    });
    const other = { global_step: fromNumbers([140_000], [], "int64") };
    expect(await predictionIn("sd2", { extra: other })).toMatchObject({ prediction_type: "v_prediction", notes: 1 });
  });

  test("is what the file's header, its marks or the user say", async () => {
    const epsilon = { "modelspec.prediction_type": "epsilon" };
    expect(await predictionIn("sd2", { metadata: epsilon })).toMatchObject({ prediction_type: "epsilon", notes: 0 });
    const mark = fromNumbers([], [0]);
    expect(await predictionIn("sdxl", { extra: { v_pred: mark } })).toMatchObject({ prediction_type: "v_prediction" });
    expect(await predictionIn("sdxl", { extra: { v_pred: mark, ztsnr: mark } })).toMatchObject({
      prediction_type: "v_prediction",
      rescale_betas_zero_snr: true,
      timestep_spacing: "trailing",
    });
    expect(await predictionIn("sd2", {}, { prediction: "epsilon" })).toMatchObject({
      prediction_type: "epsilon",
      side: 64,
      notes: 0,
    });
  });
});

describe("a tokenizer", () => {
  test("is found beside the file, in its folder or in one called tokenizer, behind a link too", async () => {
    const folder = await mkdtemp(join(root, "beside-"));
    const path = join(folder, "model.safetensors");
    await cp(join(LDM, "sd1.safetensors"), path);
    await cp(join(TOKENIZER, "vocab.json"), join(folder, "vocab.json"));
    await cp(join(TOKENIZER, "merges.txt"), join(folder, "merges.txt"));
    expect((await openSingleFile(path)).components.get("tokenizer")?.path).toBe(folder);
    const link = join(await mkdtemp(join(root, "link-")), "model.safetensors");
    await symlink(path, link);
    expect((await openSingleFile(link)).components.get("tokenizer")?.path).toBe(folder);
    await cp(TOKENIZER, join(folder, "tokenizer"), { recursive: true });
    expect((await openSingleFile(path)).components.get("tokenizer")?.path).toBe(join(folder, "tokenizer"));
  });

  test("that is nowhere is asked for", async () => {
    await expect(openSingleFile(join(LDM, "sd1.safetensors"))).rejects.toThrow(
      /a single file holds no tokenizer\. Put CLIP's vocab\.json and merges\.txt beside it, or .* loading\.tokenizer/,
    );
  });

  test("pads as the text encoder learnt it: with the end of text, or OpenCLIP's with !", async () => {
    const padOf = async (name: Name, part = "tokenizer") =>
      (await (await open(name)).components.get(part)?.config()) as { pad_token: string };
    expect((await padOf("sd1")).pad_token).toBe("<|endoftext|>");
    expect((await padOf("sd2")).pad_token).toBe("!");
    expect((await padOf("sdxl")).pad_token).toBe("<|endoftext|>");
    expect((await padOf("sdxl", "tokenizer_2")).pad_token).toBe("!");
  });
});

test("configurations of the user's own folder stand for those made from shapes", async () => {
  const folder = join(GOLDENS, "tiny-sd");
  const { components } = await openSingleFile(join(LDM, "sd1.safetensors"), { config: folder });
  expect(await components.get("unet")?.config()).toMatchObject({ norm_num_groups: 2, attention_head_dim: 2 });
  expect((await components.get("unet")?.weights())?.describe).toBe(join(LDM, "sd1.safetensors"));
  await expect(openSingleFile(join(LDM, "sdxl.safetensors"), { config: folder })).rejects.toThrow(
    /is a Stable Diffusion XL model, but .*tiny-sd \(loading\.config\) names no text_encoder_2/,
  );
});

describe("a file that is refused", () => {
  /** sd1 or another, changed. */
  async function refused(change: (all: Map<string, HostTensor>) => void, message: RegExp, base = "sd1") {
    const path = join(await mkdtemp(join(root, "refused-")), "model.safetensors");
    const file = await openSafetensors(join(LDM, `${base}.safetensors`));
    const all = new Map<string, HostTensor>();
    for (const name of file.names()) all.set(name, await readTensor(file.get(name) as StoredTensor));
    change(all);
    await writeSafetensors(path, all);
    const error = await openSingleFile(path, { tokenizer: TOKENIZER, note: () => {} }).catch((caught) => caught);
    expect(error).toBeInstanceOf(InputError);
    expect(error.message).toMatch(message);
  }
  const U = "model.diffusion_model";
  const one = fromNumbers([1], [1]);
  const dropping = (pattern: RegExp) => (all: Map<string, HostTensor>) => {
    for (const name of [...all.keys()]) if (pattern.test(name)) all.delete(name);
  };

  test("one that lacks tensors, by the names that the file has", () =>
    refused(
      dropping(/input_blocks\.1\.0\.in_layers\.2\.|output_blocks\.0\.0\.out_layers\.3\.bias/),
      /is incomplete: 3 tensors are missing, such as model\.diffusion_model\.input_blocks\.1\.0\.in_layers\.2\.weight, .*2\.bias, .*output_blocks\.0\.0\.out_layers\.3\.bias/,
    ));

  test("the U-Net alone, and a model without its VAE", async () => {
    await refused(dropping(/^cond_stage_model/), /has no text encoder that is known here .*U-Net alone/);
    await refused(dropping(/^first_stage_model/), /has no VAE: first_stage_model\.decoder\.conv_in\.weight is missing/);
  });

  test("an adapter, or anything else", async () => {
    const only = (name: string) => (all: Map<string, HostTensor>) => {
      all.clear();
      all.set(name, one);
    };
    await refused(only("lora_unet_x.lora_down.weight"), /is no Stable Diffusion checkpoint.* give that with --adapter/);
    await refused(
      only("conv_in.weight"),
      /the first is "conv_in\.weight"\)\. A model in the diffusers layout is given/,
    );
  });

  test("a U-Net with more in its blocks than these models have", () =>
    refused(
      (all) => all.set(`${U}.input_blocks.1.2.fuser.weight`, one),
      /the U-Net has model\.diffusion_model\.input_blocks\.1\.2\.fuser\.weight, which these models do not have/,
    ));

  test("one whose blocks of a level differ in depth", () =>
    refused(
      dropping(/output_blocks\.0\.1\.transformer_blocks\.1\./),
      /output_blocks\.0\.1 has 1 transformer blocks, others of its level 2/,
      "sdxl",
    ));

  test("a fused projection that is not three", async () => {
    const name = "attn.in_proj_bias";
    const source = fromTensors(new Map([[`block.${name}`, fromNumbers([1, 2], [2])]]));
    const layer = { from: name, to: "q_proj.bias", tensor: true, view: { third: 0 } } as const;
    const seen = renamed(source, [{ from: "block", to: "", layers: [layer] }]);
    expect(() => seen.get("q_proj.bias")).toThrow(
      /block\.attn\.in_proj_bias: has shape \[2\]; queries, keys and values/,
    );
  });

  test("a file of another kind", async () => {
    const path = join(root, "model.gguf");
    await writeFile(path, "GGUF".repeat(10));
    await expect(openSingleFile(path, { tokenizer: TOKENIZER })).rejects.toThrow(InputError);
  });
});

test("a file whose names and shapes are mutated is read or refused in words", async () => {
  const random = new Rng(7);
  const pick = <T>(from: readonly T[]): T => from[Math.floor(random.uniform() * from.length)] as T;
  for (let i = 0; i < 300; i++) {
    const file = await openSafetensors(join(LDM, `${pick(FOLDERS)[0]}.safetensors`));
    const all = new Map([...file.names()].map((name) => [name, file.get(name) as StoredTensor]));
    for (let change = 0; change < 1 + 3 * random.uniform(); change++) {
      const name = pick([...all.keys()]);
      const stored = all.get(name) as StoredTensor;
      const words = name.split(".");
      const k = Math.floor(random.uniform() * words.length);
      all.delete(name);
      const kind = pick(["drop", "number", "word", "shape", "scalar"] as const);
      if (kind === "number" || kind === "word")
        words[k] = kind === "word" ? pick(["", "conv", "op"]) : String(2 ** (i % 40));
      const shape = kind === "shape" ? stored.shape.toReversed() : kind === "scalar" ? [] : stored.shape;
      if (kind !== "drop") all.set(words.join("."), { ...stored, shape });
    }
    const source = { describe: "mutated", get: (name: string) => all.get(name), names: () => all.keys() };
    const work = singleFileModel("mutated", source, { tokenizer: TOKENIZER, note: () => {} }).then(tensorsOf);
    const outcome = await work.catch((error) => error);
    expect(outcome instanceof Map || outcome instanceof InputError, String(outcome?.stack)).toBe(true);
  }
});

test("names of endless dots take no time", () => {
  const hostile = `a${".".repeat(2_000_000)}`;
  const source: WeightSource = { describe: "hostile", names: () => [hostile], get: () => undefined };
  expect([...renamed(source, [{ from: "a", to: "b." }]).names()]).toEqual([`b.${hostile.slice(2)}`]);
});
