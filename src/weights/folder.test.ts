import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { z } from "zod";
import { dict, pickle, tensor, torchZip } from "../../test/torch-file.js";
import { InputError } from "../errors/index.js";
import { fromNumbers } from "../tensor/host.js";
import { openModelFolder, openWeights, readConfig, requireComponent } from "./folder.js";
import { writeSafetensors } from "./safetensors.js";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "alignprop-folder-"));
});
afterAll(() => rm(folder, { recursive: true }));

/** A new model folder with the given index and files; folders are made as needed. */
async function model(index: unknown, files: Record<string, string> = {}): Promise<string> {
  const path = await mkdtemp(join(folder, "model-"));
  if (index !== undefined) await writeFile(join(path, "model_index.json"), JSON.stringify(index));
  for (const [name, content] of Object.entries(files)) {
    await mkdir(join(path, name, ".."), { recursive: true });
    await writeFile(join(path, name), content);
  }
  return path;
}

const INDEX = {
  _class_name: "StableDiffusionPipeline",
  _diffusers_version: "0.6.0",
  unet: ["diffusers", "UNet2DConditionModel"],
  vae: ["diffusers", "AutoencoderKL"],
  safety_checker: [null, null],
  requires_safety_checker: false,
};

const config = z.object({ in_channels: z.number(), block: z.object({ widths: z.array(z.number()) }) });

describe("a model folder", () => {
  test("names its pipeline and the parts that it has", async () => {
    const opened = await openModelFolder(await model(INDEX));
    expect(opened.pipeline).toBe("StableDiffusionPipeline");
    expect([...opened.components].map(([name, { className }]) => [name, className])).toEqual([
      ["unet", "UNet2DConditionModel"],
      ["vae", "AutoencoderKL"],
    ]);
  });

  test("that is missing, a file, or without an index says what one looks like", async () => {
    await expect(openModelFolder(join(folder, "nowhere"))).rejects.toThrow(
      /nowhere: not found\. A model folder.*unet\//,
    );
    const path = await model(undefined, { "weights.bin": "" });
    await expect(openModelFolder(path)).rejects.toThrow(/has no model_index\.json\. A model folder/);
    await expect(openModelFolder(join(path, "weights.bin"))).rejects.toThrow(/is a file, not a folder/);
  });

  test.each(["../secrets", "/etc", "a/b", "..", "a\\b", "C:", ""])("with a part called %j is refused", async (name) => {
    const path = await model({ _class_name: "X", [name]: ["diffusers", "UNet2DConditionModel"] });
    await expect(openModelFolder(path)).rejects.toThrow(/cannot be the name of a component's folder/);
  });

  test("with an entry of another shape is refused", async () => {
    const path = await model({ _class_name: "X", unet: ["diffusers", 3] });
    await expect(openModelFolder(path)).rejects.toThrow(/unet: expected \[library, class\], found \["diffusers",3\]/);
  });

  test("whose index is no JSON or has no class name is refused with its path", async () => {
    const broken = await model(undefined, { "model_index.json": "{" });
    await expect(openModelFolder(broken)).rejects.toThrow(/model_index\.json: is not valid JSON/);
    await expect(openModelFolder(await model({ unet: [] }))).rejects.toThrow(/_class_name is missing/);
  });
});

describe("a part of a model", () => {
  test("is found where its class is supported", async () => {
    const opened = await openModelFolder(await model(INDEX, { "unet/config.json": "{}" }));
    const unet = await requireComponent(opened, "unet", ["UNet2DConditionModel"]);
    expect(unet.path).toBe(join(opened.path, "unet"));
  });

  test("that the index lacks, whose folder is missing, or of another class says so", async () => {
    const opened = await openModelFolder(await model(INDEX));
    await expect(requireComponent(opened, "unett", [])).rejects.toThrow(
      /names no unett; it has unet, vae\. Is it unet\?/,
    );
    await expect(requireComponent(opened, "unet", ["UNet2DConditionModel"])).rejects.toThrow(/part unet: not found/);
    await expect(requireComponent(opened, "vae", ["AutoencoderTiny", "VQModel"])).rejects.toThrow(
      /vae is of class AutoencoderKL; supported here: AutoencoderTiny, VQModel/,
    );
  });
});

describe("a part's configuration", () => {
  test("is read as its schema says", async () => {
    const path = await model(undefined, { "config.json": '\uFEFF{"in_channels": 4, "block": {"widths": [32]}}' });
    expect(await readConfig(path, config)).toEqual({ in_channels: 4, block: { widths: [32] } });
  });

  test("names each key at fault and what was found there", async () => {
    const path = await model(undefined, { "config.json": '{"in_channels": "4", "block": {"widths": [32, null]}}' });
    const error = await readConfig(path, config).catch((caught) => caught);
    expect(error).toBeInstanceOf(InputError);
    expect(error.message).toMatch(/config\.json: in_channels is "4": .*expected number/);
    expect(error.message).toMatch(/block\.widths\[1\] is null: .*expected number/);
  });

  test("that is missing or far too large is refused", async () => {
    await expect(readConfig(await model(undefined), config)).rejects.toThrow(/has no config\.json/);
    const huge = await model(undefined, { "config.json": " ".repeat(2 ** 20 + 1) });
    await expect(readConfig(huge, config)).rejects.toThrow(/has 1048577 bytes, but such a file has at most 1048576/);
  });
});

describe("a part's weights", () => {
  const tensors = new Map([["conv_in.bias", fromNumbers([1], [1])]]);

  const STORED = { kind: "file", dtype: "float32", shape: [1] };
  const index = (file: string) => JSON.stringify({ metadata: {}, weight_map: { "conv_in.bias": file } });
  const pickled = torchZip(pickle(dict({ "conv_in.bias": tensor({ elements: 1, shape: [1], strides: [1] }) })), {
    0: new Uint8Array(4),
  });

  test.each([
    "diffusion_pytorch_model.safetensors",
    "model.safetensors",
    "diffusion_pytorch_model.fp16.safetensors",
    "model.fp16.safetensors",
  ])("are found as %s", async (name) => {
    const path = await model(undefined);
    await writeSafetensors(join(path, name), tensors);
    const weights = await openWeights(path);
    expect(weights.describe).toBe(join(path, name));
    expect(weights.get("conv_in.bias")).toMatchObject(STORED);
  });

  test.each(["diffusion_pytorch_model.bin", "pytorch_model.bin", "pytorch_model.fp16.bin"])(
    "are found as %s, which PyTorch wrote",
    async (name) => {
      const path = await model(undefined);
      await writeFile(join(path, name), pickled);
      expect((await openWeights(path)).get("conv_in.bias")).toMatchObject(STORED);
    },
  );

  test.each([
    ["diffusion_pytorch_model.safetensors.index.json", "diffusion_pytorch_model-00001-of-00001.safetensors"],
    ["model.safetensors.index.json", "model-00001-of-00001.safetensors"],
    ["model.safetensors.index.fp16.json", "model.fp16-00001-of-00001.safetensors"],
    ["diffusion_pytorch_model.fp16.safetensors.index.json", "diffusion_pytorch_model.fp16-00001-of-00001.safetensors"],
    ["pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin"],
  ])("are found by the index %s", async (name, shard) => {
    const path = await model(undefined, { [name]: index(shard) });
    if (shard.endsWith(".bin")) await writeFile(join(path, shard), pickled);
    else await writeSafetensors(join(path, shard), tensors);
    expect((await openWeights(path)).get("conv_in.bias")).toMatchObject(STORED);
  });

  test("in full precision are preferred to float16, even where only PyTorch's file has it", async () => {
    const path = await model(undefined, { "diffusion_pytorch_model.fp16.safetensors": "" });
    await writeFile(join(path, "diffusion_pytorch_model.bin"), pickled);
    expect((await openWeights(path)).describe).toBe(join(path, "diffusion_pytorch_model.bin"));
    await writeSafetensors(join(path, "diffusion_pytorch_model.safetensors"), tensors);
    expect((await openWeights(path)).describe).toBe(join(path, "diffusion_pytorch_model.safetensors"));
  });

  test("missing say what they are called and what is there instead", async () => {
    await expect(openWeights(await model(undefined, { "notes.txt": "" }))).rejects.toThrow(
      /expected one of diffusion_pytorch_model\.safetensors, .*pytorch_model\.fp16\.bin\. Found: notes\.txt/,
    );
  });

  test("whose folder is missing are explained without a whole model's layout", async () => {
    const path = join(folder, "rewards/clip");
    await expect(openWeights(path)).rejects.toThrow(`weights folder ${path}: not found. Its weights belong there`);
    await expect(readConfig(path, config)).rejects.toThrow(`folder ${path}: not found. Its config.json belongs there`);
  });
});
