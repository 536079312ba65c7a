import { cp, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { gunzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { inputError } from "../../../test/errors.js";
import { type ErrorCode, type ErrorFacts, InputError } from "../../errors/index.js";
import { allocate, fromNumbers, type HostTensor } from "../../tensor/host.js";
import { Rng } from "../../tensor/rng.js";
import { sizeOf } from "../../tensor/shape.js";
import { type Model, openModelFolder } from "../folder.js";
import { openSafetensors, writeSafetensors } from "../safetensors.js";
import { fromTensors, readTensor, type StoredTensor, type WeightSource } from "../source.js";
import { renamed } from "./rename.js";
import { openSingleFile, singleFileModel } from "./single-file.js";

/** parity/ldm.py wrote these files and checked them with the converters of diffusers. */
const GOLDENS = fileURLToPath(new URL("../../../test/goldens", import.meta.url));
const LDM = join(GOLDENS, "ldm");
const TOKENIZER = join(GOLDENS, "tiny-sd/tokenizer");
/** The models that they were made from. */
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

/** Settings that depend on the family. The tiny models have other values, which no tensor shows. */
const FAMILY_FACTS = [
  "addition_time_embed_dim",
  "attention_head_dim",
  "norm_num_groups",
  "num_attention_heads",
  "sample_size",
  "scaling_factor",
];
/** Settings that are written in two ways; the tests of the models show that both are equivalent. */
const SPELT_OTHERWISE = ["eos_token_id", "projection_dim"];

/** The keys that both configurations have, except those in `without`. */
function common(made: Record<string, unknown>, expected: Record<string, unknown>, without: readonly string[]) {
  const keys = Object.keys(made).filter((key) => key in expected && !without.includes(key));
  const pick = (of: Record<string, unknown>) => Object.fromEntries(keys.map((key) => [key, of[key]]));
  return { made: pick(made), expected: pick(expected), keys };
}

/** All tensors of the components that have weights. */
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
  test("has exactly the tensors of the folder, with equal names and bits", async () => {
    const expected = new Map<string, HostTensor>();
    for (const [key, stored] of await tensorsOf(await openModelFolder(folder))) {
      // transformers 5 saves a text encoder without the level `text_model`.
      const full = key.replace(/^(text_encoder(?:_2)?)\.(embeddings|encoder|final_layer_norm)\./, "$1.text_model.$2.");
      expected.set(full, await readTensor(stored));
    }
    const found = await tensorsOf(await open(name));
    expect([...found.keys()].sort()).toEqual([...expected.keys()].sort());
    for (const [key, stored] of found) expect(await readTensor(stored), key).toEqual(expected.get(key));
  });

  test("gives blocks, widths, depths and attention by its shapes", async () => {
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

/** `expected`, with a number as a list or a list of equal numbers as a number, where `made` has it so. */
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

/** Tensors of these shapes. Only the one that is transposed when the file is opened has elements. */
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

describe("the prediction type of a U-Net", () => {
  const predictionIn = async (
    base: string,
    { extra = {}, metadata = {} }: { extra?: Record<string, HostTensor>; metadata?: Record<string, string> } = {},
    options: { prediction?: "epsilon" | "v_prediction" } = {},
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

  test("is epsilon in 1.x and SDXL", async () => {
    expect(await predictionIn("sd1")).toMatchObject({ prediction_type: "epsilon", side: 64, notes: 0 });
    expect(await predictionIn("sdxl")).toMatchObject({ prediction_type: "epsilon", side: 128, notes: 0 });
  });

  test("is v in 2.x, with a note, except for 2.0-base", async () => {
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

  test("is as the header, the marker tensors or the user say", async () => {
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

  test("keeps the rescaled betas of the marker tensor ztsnr if the user says that the model predicts v", async () => {
    const mark = fromNumbers([], [0]);
    const rescaled = { prediction_type: "v_prediction", rescale_betas_zero_snr: true, timestep_spacing: "trailing" };
    const given = { prediction: "v_prediction" } as const;
    for (const extra of [{ v_pred: mark, ztsnr: mark }, { ztsnr: mark }] as Record<string, HostTensor>[]) {
      expect(await predictionIn("sdxl", { extra }, given)).toMatchObject(rescaled);
    }
    expect(await predictionIn("sd2", { extra: { ztsnr: mark } })).toMatchObject(rescaled);
    const ignored = await predictionIn("sdxl", { extra: { ztsnr: mark } });
    expect(ignored).toMatchObject({ prediction_type: "epsilon", notes: 1 });
    expect(ignored).not.toHaveProperty("rescale_betas_zero_snr");
  });

  test.each(["edm_mean", "edm_vpred.sigma_max"])("is refused if it is EDM's, which %s shows", async (tensor) => {
    await expect(predictionIn("sdxl", { extra: { [tensor]: fromNumbers([1], [1]) } })).rejects.toThrow(
      inputError("model-unsupported", { found: "EDM", tensor }),
    );
  });

  test("is refused by name if the header says something unknown, unless the user says what it is", async () => {
    const metadata = { "modelspec.prediction_type": "flow" };
    await expect(predictionIn("sdxl", { metadata })).rejects.toThrow(
      inputError("model-unsupported", { found: "flow", setting: "loading.prediction_type" }),
    );
    expect(await predictionIn("sdxl", { metadata }, { prediction: "epsilon" })).toMatchObject({
      prediction_type: "epsilon",
    });
  });
});

describe("a tokenizer", () => {
  test("is found in the folder of the file or in one called tokenizer, also through a link", async () => {
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

  test("that is missing is reported with the setting", async () => {
    const path = join(LDM, "sd1.safetensors");
    await expect(openSingleFile(path)).rejects.toThrow(
      inputError("model-incomplete", { path, missing: "tokenizer", setting: "loading.tokenizer" }),
    );
  });

  test("pads as the text encoder was trained: with the end-of-text token, or with ! for OpenCLIP", async () => {
    const padOf = async (name: Name, part = "tokenizer") =>
      (await (await open(name)).components.get(part)?.config()) as { pad_token: string };
    expect((await padOf("sd1")).pad_token).toBe("<|endoftext|>");
    expect((await padOf("sd2")).pad_token).toBe("!");
    expect((await padOf("sdxl")).pad_token).toBe("<|endoftext|>");
    expect((await padOf("sdxl", "tokenizer_2")).pad_token).toBe("!");
  });
});

test("the configurations of a folder that the user gives replace those made from shapes", async () => {
  const folder = join(GOLDENS, "tiny-sd");
  const { components } = await openSingleFile(join(LDM, "sd1.safetensors"), { config: folder });
  expect(await components.get("unet")?.config()).toMatchObject({ norm_num_groups: 2, attention_head_dim: 2 });
  expect((await components.get("unet")?.weights())?.describe).toBe(join(LDM, "sd1.safetensors"));
  const path = join(LDM, "sdxl.safetensors");
  await expect(openSingleFile(path, { config: folder })).rejects.toThrow(
    inputError("model-mismatch", {
      path,
      family: "Stable Diffusion XL",
      setting: "loading.config",
      config: expect.stringMatching(/tiny-sd$/),
      component: "text_encoder_2",
    }),
  );
});

describe("a file that is refused", () => {
  type Expected = ErrorFacts & { readonly code: ErrorCode; readonly base?: Name };
  type Change = (all: Map<string, HostTensor>) => void;

  /** The file `base` with a change must be refused with these facts. */
  async function expectRefused(change: Change, { code, base = "sd1", ...facts }: Expected): Promise<void> {
    const path = join(await mkdtemp(join(root, "refused-")), "model.safetensors");
    const file = await openSafetensors(join(LDM, `${base}.safetensors`));
    const all = new Map<string, HostTensor>();
    for (const name of file.names()) all.set(name, await readTensor(file.get(name) as StoredTensor));
    change(all);
    await writeSafetensors(path, all);
    const opening = openSingleFile(path, { tokenizer: TOKENIZER, note: () => {} });
    await expect(opening).rejects.toThrow(inputError(code, { path, ...facts }));
  }
  const U = "model.diffusion_model";
  const one = fromNumbers([1], [1]);
  const dropping =
    (pattern: RegExp): Change =>
    (all) => {
      for (const name of [...all.keys()]) if (pattern.test(name)) all.delete(name);
    };

  test("one that lacks tensors, by the names that the file has", () =>
    expectRefused(dropping(/input_blocks\.1\.0\.in_layers\.2\.|output_blocks\.0\.0\.out_layers\.3\.bias/), {
      code: "model-incomplete",
      missing: 3,
      tensors: [
        `${U}.input_blocks.1.0.in_layers.2.weight`,
        `${U}.input_blocks.1.0.in_layers.2.bias`,
        `${U}.output_blocks.0.0.out_layers.3.bias`,
      ],
    }));

  test("the U-Net alone, and a model without its VAE", async () => {
    await expectRefused(dropping(/^cond_stage_model/), { code: "model-unsupported", missing: "text_encoder" });
    await expectRefused(dropping(/^first_stage_model/), {
      code: "tensor-missing",
      tensor: "first_stage_model.decoder.conv_in.weight",
    });
  });

  test("an adapter, or anything else", async () => {
    const only =
      (name: string): Change =>
      (all) => {
        all.clear();
        all.set(name, one);
      };
    const code = "model-unsupported";
    const lora = "lora_unet_x.lora_down.weight";
    await expectRefused(only(lora), { code, found: lora, suggestion: "--adapter" });
    await expectRefused(only("conv_in.weight"), { code, found: "conv_in.weight", suggestion: undefined });
  });

  test("a U-Net with more in its blocks than these models have", () =>
    expectRefused((all) => all.set(`${U}.input_blocks.1.2.fuser.weight`, one), {
      code: "model-unsupported",
      tensor: `${U}.input_blocks.1.2.fuser.weight`,
    }));

  test("one whose blocks of a level differ in depth", () =>
    expectRefused(dropping(/output_blocks\.0\.1\.transformer_blocks\.1\./), {
      code: "model-unsupported",
      base: "sdxl",
      module: `${U}.output_blocks.0.1`,
      found: 1,
      expected: 2,
    }));

  test("a fused projection that is not a multiple of 3", () => {
    const name = "attn.in_proj_bias";
    const source = fromTensors(new Map([[`block.${name}`, fromNumbers([1, 2], [2])]]));
    const layer = { from: name, to: "q_proj.bias", tensor: true, view: { third: 0 } } as const;
    const view = renamed(source, [{ from: "block", to: "", layers: [layer] }]);
    expect(() => view.get("q_proj.bias")).toThrow(
      inputError("tensor-mismatch", { tensor: "block.attn.in_proj_bias", found: [2] }),
    );
  });

  test("a file of another kind", async () => {
    const path = join(root, "model.gguf");
    await writeFile(path, "GGUF".repeat(10));
    await expect(openSingleFile(path, { tokenizer: TOKENIZER })).rejects.toThrow(InputError);
  });
});

test("a file whose names and shapes are mutated is read or refused with an InputError", async () => {
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

test("a name of two million dots is read quickly", () => {
  const hostile = `a${".".repeat(2_000_000)}`;
  const source: WeightSource = { describe: "hostile", names: () => [hostile], get: () => undefined };
  expect([...renamed(source, [{ from: "a", to: "b." }]).names()]).toEqual([`b.${hostile.slice(2)}`]);
});
