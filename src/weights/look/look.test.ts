import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import sharp from "sharp";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { inputError } from "../../../test/errors.js";
import { TINY_SD } from "../../../test/tiny.js";
import { dict, pickle, text, torchZip, zip } from "../../../test/torch-file.js";
import { fromNumbers, type HostTensor } from "../../tensor/host.js";
import { sizeOf } from "../../tensor/shape.js";
import { openSafetensors, writeSafetensors } from "../safetensors.js";
import { readTensor, type StoredTensor } from "../source.js";
import { type LookKind, requireKind } from "./kinds.js";
import { look } from "./look.js";

const GOLDENS = fileURLToPath(new URL("../../../test/goldens", import.meta.url));
const golden = (path: string) => join(GOLDENS, path);

let root: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "alignprop-look-"));
});
afterAll(() => rm(root, { recursive: true }));

const zeros = (shape: number[], dtype: HostTensor["dtype"] = "float16") =>
  fromNumbers(new Float64Array(sizeOf(shape)), shape, dtype);

/** A safetensors file with tensors of these shapes. */
async function fileOf(shapes: Record<string, number[]>, metadata: Record<string, string> = {}): Promise<string> {
  const path = join(await mkdtemp(join(root, "file-")), "some.safetensors");
  await writeSafetensors(path, new Map(Object.entries(shapes).map(([name, shape]) => [name, zeros(shape)])), metadata);
  return path;
}

/** A folder with these JSON or text files. */
async function folderOf(files: Record<string, unknown>): Promise<string> {
  const folder = await mkdtemp(join(root, "folder-"));
  for (const [name, content] of Object.entries(files)) {
    await mkdir(join(folder, name, ".."), { recursive: true });
    await writeFile(join(folder, name), typeof content === "string" ? content : JSON.stringify(content));
  }
  return folder;
}

describe("models", () => {
  test.each([
    ["sd1", "Stable Diffusion 1.x", "epsilon", "512x512"],
    ["sd2", "Stable Diffusion 2.x", "v_prediction (assumed)", "768x768"],
    ["sdxl", "Stable Diffusion XL", "epsilon", "1024x1024"],
  ])("a single file of %s: family, prediction and resolution", async (name, family, predicts, resolution) => {
    expect(await look(golden(`ldm/${name}.safetensors`))).toMatchObject({
      kind: "model-file",
      supported: true,
      details: { family, predicts, resolution },
    });
  });

  test("a folder of diffusers, and its parts", async () => {
    expect(await look(TINY_SD)).toMatchObject({
      kind: "pipeline",
      supported: true,
      details: { class: "StableDiffusionPipeline", scheduler: "DDIMScheduler" },
    });
    const part = (path: string) => look(join(TINY_SD, path));
    expect(await part("unet")).toMatchObject({ kind: "component", details: { class: "UNet2DConditionModel" } });
    expect((await part("unet")).advice).toContain(TINY_SD);
    expect(await part("tokenizer")).toMatchObject({ kind: "tokenizer" });
    expect(await part("unet/diffusion_pytorch_model.safetensors")).toMatchObject({
      kind: "component-file",
      what: expect.stringContaining("U-Net alone"),
    });
    expect((await part("vae/diffusion_pytorch_model.safetensors")).what).toContain("VAE alone");
    expect((await part("scheduler/scheduler_config.json")).what).toContain("DDIMScheduler");
  });

  test.each([
    ["FluxPipeline", { transformer: ["diffusers", "FluxTransformer2DModel"] }],
    ["StableDiffusion3Pipeline", { transformer: ["diffusers", "SD3Transformer2DModel"] }],
    ["PixArtSigmaPipeline", { transformer: ["diffusers", "PixArtTransformer2DModel"] }],
    ["StableCascadeDecoderPipeline", { decoder: ["diffusers", "StableCascadeUNet"] }],
  ])("a folder of %s, which is not supported, by its class", async (_class_name, parts) => {
    const path = await folderOf({ "model_index.json": { _class_name, ...parts } });
    expect(await look(path)).toMatchObject({ kind: "pipeline", what: `a ${_class_name}`, supported: false });
  });

  test("a folder that lacks a part, such as the refiner of XL", async () => {
    const path = await folderOf({
      "model_index.json": {
        _class_name: "StableDiffusionXLImg2ImgPipeline",
        unet: ["diffusers", "UNet2DConditionModel"],
        vae: ["diffusers", "AutoencoderKL"],
        text_encoder: [null, null],
        text_encoder_2: ["transformers", "CLIPTextModelWithProjection"],
        tokenizer: [null, null],
        scheduler: ["diffusers", "EulerDiscreteScheduler"],
      },
    });
    const found = await look(path);
    expect(found).toMatchObject({
      kind: "pipeline",
      supported: false,
      details: { missing: ["text_encoder", "tokenizer"] },
    });
    // The reader says what the refiner is.
    expect(() => requireKind(found, "model", "a model")).not.toThrow();
  });

  test.each([
    [9, "inpainting"],
    [8, "edits images"],
    [7, "enlarges"],
    [5, "depth"],
  ])("U-Nets with %i input channels, by their use, in both layouts", async (channels, use) => {
    const path = await folderOf({
      "model_index.json": {
        _class_name: "StableDiffusionSomethingPipeline",
        unet: ["diffusers", "UNet2DConditionModel"],
        text_encoder: ["transformers", "CLIPTextModel"],
      },
      "unet/config.json": { in_channels: channels, out_channels: 4 },
    });
    expect(await look(path)).toMatchObject({ kind: "pipeline", supported: false, what: expect.stringContaining(use) });
    const file = await openSafetensors(golden("ldm/sd1.safetensors"));
    const tensors = new Map<string, HostTensor>();
    for (const name of file.names()) tensors.set(name, await readTensor(file.get(name) as StoredTensor));
    const first = "model.diffusion_model.input_blocks.0.0.weight";
    const [out = 0, , ...kernel] = tensors.get(first)?.shape ?? [];
    tensors.set(first, zeros([out, channels, ...kernel], "float32"));
    const single = join(root, `${channels}.safetensors`);
    await writeSafetensors(single, tensors);
    expect(await look(single)).toMatchObject({
      kind: "model-file",
      supported: false,
      what: expect.stringContaining(use),
    });
  });

  test("as many input as output channels are no sign of an inpainting or edit model", async () => {
    const embedded = fileURLToPath(new URL("../../../models/emoji-64", import.meta.url));
    expect(await look(embedded)).toMatchObject({ kind: "pipeline", supported: true });
  });

  test.each([
    ["FLUX", "double_blocks.0.img_attn.proj.weight"],
    ["FLUX", "model.diffusion_model.double_blocks.0.img_attn.proj.weight"],
    ["FLUX", "single_transformer_blocks.0.attn.to_q.weight"],
    ["Stable Diffusion 3", "model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"],
    ["PixArt", "adaln_single.linear.weight"],
  ])("files of other architectures: %s, %s", async (architecture, name) => {
    expect(await look(await fileOf({ [name]: [2, 2] }))).toMatchObject({
      kind: "other-architecture",
      what: `a model of ${architecture}`,
      supported: false,
    });
  });

  test.each<[string, LookKind, Record<string, number[]>]>([
    [
      "a U-Net in the original layout",
      "component-file",
      { "model.diffusion_model.input_blocks.0.0.weight": [2, 4, 3, 3] },
    ],
    ["a text encoder", "component-file", { "text_model.embeddings.token_embedding.weight": [4, 4] }],
    ["T5", "component-file", { "encoder.block.0.layer.0.SelfAttention.q.weight": [2, 2] }],
    ["a ControlNet", "controlnet", { "controlnet_cond_embedding.conv_in.weight": [2, 2] }],
    ["unknown tensors", "weights", { "layer.weight": [2, 2] }],
  ])("files that are not a whole model: %s", async (_, kind, shapes) => {
    expect(await look(await fileOf(shapes))).toMatchObject({ kind, supported: false });
  });
});

describe("adapters", () => {
  test.each([
    ["adapters/kohya", "a LoRA adapter", { tool: "kohya's sd-scripts", rank: 2 }],
    ["adapters/peft", "a LoRA adapter", { tool: "PEFT", rank: 4 }],
    ["adapters/processors", "a LoRA adapter", { tool: "diffusers (attention processors)" }],
    ["adapter-variants/peft-dora", "a DoRA adapter", { tool: "PEFT", layers: 4 }],
    ["adapter-variants/lycoris-lokr", "a LoKr adapter", { layers: 4 }],
    ["adapter-variants/lycoris-loha-tucker", "a LoHa and DoRA adapter", { layers: 4 }],
  ])("%s", async (path, what, details) => {
    expect(await look(golden(path))).toMatchObject({ kind: "adapter", what, details, supported: true });
    expect((await look(golden(path))).command).toContain(golden(path));
  });

  test.each([
    [768, "Stable Diffusion 1.x"],
    [1024, "Stable Diffusion 2.x"],
    [2048, "Stable Diffusion XL"],
  ])("their base, by the %i features of the text", async (features, base) => {
    const name = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k";
    const path = await fileOf({ [`${name}.lora_down.weight`]: [4, features], [`${name}.lora_up.weight`]: [8, 4] });
    expect(await look(path)).toMatchObject({ details: { base, rank: 4, layers: 1 } });
  });

  test("of other architectures, of text encoders alone, and of unsupported kinds", async () => {
    const flux = await fileOf({ "lora_unet_double_blocks_0_img_attn_proj.lora_down.weight": [4, 8] });
    expect(await look(flux)).toMatchObject({ kind: "adapter", what: "an adapter of FLUX", supported: false });
    const text = await fileOf({ "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": [4, 8] });
    expect(await look(text)).toMatchObject({ kind: "adapter", supported: false, details: { layers: 0 } });
    const oft = await fileOf({ "lora_unet_mid_block_attentions_0_proj_in.oft_blocks": [4, 8] });
    expect(await look(oft)).toMatchObject({
      kind: "adapter",
      supported: false,
      advice: expect.stringContaining("OFT"),
    });
  });

  test("textual inversions are not adapters", async () => {
    const forms: Record<string, number[]>[] = [
      { emb_params: [2, 768] },
      { "<cat-toy>": [768] },
      { clip_l: [2, 768], clip_g: [2, 1280] },
    ];
    for (const shapes of forms) expect(await look(await fileOf(shapes))).toMatchObject({ kind: "textual-inversion" });
    const path = join(root, "a1111.pt");
    await writeFile(
      path,
      torchZip(pickle(dict({ string_to_token: dict({}), string_to_param: dict({}), name: text("x") }))),
    );
    expect(await look(path)).toMatchObject({ kind: "textual-inversion" });
  });
});

describe("other files and folders", () => {
  test.each<[LookKind, string, string | Uint8Array]>([
    ["gguf", "model.gguf", "GGUF\x03\0\0\0rest of the file"],
    ["archive", "model.safetensors", "7z\xbc\xaf\x27\x1c and more bytes"],
    ["web-page", "model.ckpt", "<!DOCTYPE html><html></html>"],
    ["git-lfs-pointer", "model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"],
    ["empty", "model.safetensors", ""],
    ["text", "notes.txt", "just some notes"],
    ["recipe", "mine.yaml", "reward: aesthetic\ntrain:\n  steps: 3\n"],
    ["unknown", "noise.bin", Uint8Array.of(1, 2, 3, 4, 0, 0, 0)],
  ])("%s: %s", async (kind, name, content) => {
    const path = join(await mkdtemp(join(root, "kind-")), name);
    await writeFile(path, typeof content === "string" ? Buffer.from(content, "latin1") : content);
    expect((await look(path)).kind).toBe(kind);
  });

  test.each(["png", "jpeg", "webp", "gif", "tiff"] as const)("a picture: %s", async (format) => {
    const path = join(root, `picture.${format}.safetensors`);
    await writeFile(
      path,
      await sharp({ create: { width: 2, height: 2, channels: 3, background: "#123" } })
        [format]()
        .toBuffer(),
    );
    expect((await look(path)).kind).toBe("image");
  });

  test("an ONNX model, by its content", async () => {
    const path = join(root, "model.bin");
    await cp(golden("onnx/clip.dynamo-21.onnx"), path);
    expect(await look(path)).toMatchObject({ kind: "onnx", supported: true });
  });

  test("a zip that torch.save did not write", async () => {
    const path = join(root, "lora.zip");
    await writeFile(path, zip([{ name: "style.safetensors", content: Buffer.from("x") }]));
    expect(await look(path)).toMatchObject({ kind: "archive", supported: false });
  });

  test("a run, a checkpoint, a model of transformers, an empty folder, and nothing", async () => {
    expect(await look(await folderOf({ "config.yaml": "", "metrics.jsonl": "" }))).toMatchObject({ kind: "run" });
    expect(await look(await folderOf({ "training_state.safetensors": "" }))).toMatchObject({ kind: "checkpoint" });
    const bert = await folderOf({ "config.json": { model_type: "bert" }, "tokenizer.json": {} });
    expect(await look(bert)).toMatchObject({ kind: "transformers-model", what: expect.stringContaining("bert") });
    expect(await look(await folderOf({}))).toMatchObject({ kind: "folder" });
    expect(await look(join(root, "nowhere"))).toMatchObject({ kind: "missing" });
  });

  test("a damaged file of weights", async () => {
    const path = join(root, "damaged.safetensors");
    await writeFile(path, (await readFile(golden("adapters/kohya/pytorch_lora_weights.safetensors"))).subarray(0, 100));
    expect(await look(path)).toMatchObject({ kind: "damaged", supported: false });
  });
});

describe("where another kind is needed", () => {
  test("the file is named as what it is, with the command that it is for", async () => {
    const [model, adapter] = [golden("ldm/sd1.safetensors"), golden("adapters/kohya/pytorch_lora_weights.safetensors")];
    const found = await look(adapter);
    expect(() => requireKind(found, "model", "a model")).toThrow(
      inputError("model-unsupported", {
        path: adapter,
        found: "adapter",
        suggestion: expect.stringContaining("--adapter"),
      }),
    );
    const single = await look(model);
    expect(() => requireKind(single, "adapter", "an adapter")).toThrow(
      inputError("adapter-unsupported", {
        path: model,
        found: "model-file",
        suggestion: expect.stringContaining("--model"),
      }),
    );
    expect(() => requireKind(single, "model", "a model")).not.toThrow();
    expect(() => requireKind(found, "adapter", "an adapter")).not.toThrow();
  });

  test("what EDM and an unknown prediction type are refused for is said before anything else", async () => {
    const file = await openSafetensors(golden("ldm/sdxl.safetensors"));
    const tensors = new Map<string, HostTensor>([["edm_mean", zeros([1])]]);
    for (const name of file.names()) tensors.set(name, await readTensor(file.get(name) as StoredTensor));
    const path = join(root, "edm.safetensors");
    await writeSafetensors(path, tensors);
    const found = await look(path);
    expect(() => requireKind(found, "model", "a model")).toThrow(inputError("model-unsupported", { found: "EDM" }));
  });
});
