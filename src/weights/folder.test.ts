import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { z } from "zod";
import { inputError } from "../../test/errors.js";
import { dict, pickle, tensor, torchZip } from "../../test/torch-file.js";
import { type ErrorCode, type ErrorFacts, InputError } from "../errors/index.js";
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

  test("that is missing, a file, or without an index is refused, and the message describes the layout", async () => {
    const layout = expect.objectContaining({
      message: expect.stringMatching(/diffusers layout.*model_index\.json.*unet\//),
    });
    const refused = async (path: string, code: ErrorCode, facts: ErrorFacts) => {
      await expect(openModelFolder(path)).rejects.toThrow(inputError(code, { path, ...facts }));
      await expect(openModelFolder(path)).rejects.toThrow(layout);
    };
    await refused(join(folder, "nowhere"), "model-not-found", { found: "nothing", expected: "folder" });
    const path = await model(undefined, { "weights.bin": "" });
    await refused(path, "model-incomplete", { missing: "model_index.json" });
    await refused(join(path, "weights.bin"), "model-not-found", { found: "file", expected: "folder" });
  });

  test.each(["../secrets", "/etc", "a/b", "..", "a\\b", "C:", ""])(
    "with a component called %j is refused",
    async (name) => {
      const path = await model({ _class_name: "X", [name]: ["diffusers", "UNet2DConditionModel"] });
      await expect(openModelFolder(path)).rejects.toThrow(
        inputError("path-unsafe", { path: join(path, "model_index.json"), component: name }),
      );
    },
  );

  test("with an entry of another shape is refused", async () => {
    const path = await model({ _class_name: "X", unet: ["diffusers", 3] });
    await expect(openModelFolder(path)).rejects.toThrow(
      inputError("config-invalid", {
        path: join(path, "model_index.json"),
        component: "unet",
        found: '["diffusers",3]',
        expected: "[library, class]",
      }),
    );
  });

  test("whose index is not JSON or has no class name is refused with its path", async () => {
    const refused = async (path: string) => {
      const error = await openModelFolder(path).catch((caught) => caught);
      expect(error).toBeInstanceOf(InputError);
      expect(error.message).toContain(join(path, "model_index.json"));
      return error.message;
    };
    await refused(await model(undefined, { "model_index.json": "{" }));
    expect(await refused(await model({ unet: [] }))).toContain("_class_name");
  });
});

describe("a component of a model", () => {
  test("is found if its class is supported", async () => {
    const opened = await openModelFolder(await model(INDEX, { "unet/config.json": "{}" }));
    const unet = await requireComponent(opened, "unet", ["UNet2DConditionModel"]);
    expect(unet.path).toBe(join(opened.path, "unet"));
  });

  test("that the index lacks, whose folder is missing, or that is of another class is refused", async () => {
    const opened = await openModelFolder(await model(INDEX));
    const path = join(opened.path, "model_index.json");
    await expect(requireComponent(opened, "unett", [])).rejects.toThrow(
      inputError("model-incomplete", { path, component: "unett", found: ["unet", "vae"], suggestion: "unet" }),
    );
    await expect(requireComponent(opened, "unet", ["UNet2DConditionModel"])).rejects.toThrow(
      inputError("model-incomplete", { path: join(opened.path, "unet"), found: "nothing", expected: "folder" }),
    );
    const supported = ["AutoencoderTiny", "VQModel"];
    await expect(requireComponent(opened, "vae", supported)).rejects.toThrow(
      inputError("model-unsupported", { path, component: "vae", found: "AutoencoderKL", expected: supported }),
    );
  });
});

describe("the configuration of a component", () => {
  test("is read as its schema says", async () => {
    const path = await model(undefined, { "config.json": '\uFEFF{"in_channels": 4, "block": {"widths": [32]}}' });
    expect(await readConfig(path, config)).toEqual({ in_channels: 4, block: { widths: [32] } });
  });

  test("names each key at fault and what was found there", async () => {
    const path = await model(undefined, { "config.json": '{"in_channels": "4", "block": {"widths": [32, null]}}' });
    const error = await readConfig(path, config).catch((caught) => caught);
    expect(error).toBeInstanceOf(InputError);
    expect(error.message).toMatch(/config\.json: .*in_channels.*"4".*number/);
    expect(error.message).toMatch(/block\.widths\[1\].*null.*number/);
  });

  test("that is missing or far too large is refused", async () => {
    const empty = await model(undefined);
    await expect(readConfig(empty, config)).rejects.toThrow(
      inputError("model-incomplete", { path: empty, missing: "config.json" }),
    );
    const huge = await model(undefined, { "config.json": " ".repeat(2 ** 20 + 1) });
    const error = await readConfig(huge, config).catch((caught) => caught);
    expect(error).toBeInstanceOf(InputError);
    expect(error.message).toMatch(/1048577.*1048576/);
  });
});

describe("the weights of a component", () => {
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

  test("in full precision are preferred to float16, even if only a PyTorch file has them", async () => {
    const path = await model(undefined, { "diffusion_pytorch_model.fp16.safetensors": "" });
    await writeFile(join(path, "diffusion_pytorch_model.bin"), pickled);
    expect((await openWeights(path)).describe).toBe(join(path, "diffusion_pytorch_model.bin"));
    await writeSafetensors(join(path, "diffusion_pytorch_model.safetensors"), tensors);
    expect((await openWeights(path)).describe).toBe(join(path, "diffusion_pytorch_model.safetensors"));
  });

  test("are refused if no file has a supported name", async () => {
    const path = await model(undefined, { "notes.txt": "" });
    const expected = expect.arrayContaining(["diffusion_pytorch_model.safetensors", "pytorch_model.fp16.bin"]);
    await expect(openWeights(path)).rejects.toThrow(
      inputError("model-incomplete", { path, missing: "weights", expected, found: ["notes.txt"] }),
    );
  });

  test("whose folder is missing are refused without a description of a whole model", async () => {
    const path = join(folder, "rewards/clip");
    for (const work of [() => openWeights(path), () => readConfig(path, config)]) {
      const error = await work().catch((caught) => caught);
      expect(error).toEqual(inputError("model-not-found", { path, found: "nothing", expected: "folder" }));
      expect(error.message).not.toContain("model_index.json");
    }
  });
});
