import { cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { TINY_SD, tinyFamily } from "../../test/tiny.js";
import { Runtime } from "../runtime/runtime.js";
import { type HostTensor, toNumbers } from "../tensor/host.js";
import { textGraph } from "./graphs.js";
import { latentSize, openPipeline, promptWarnings } from "./pipeline.js";
import { PromptEncoder } from "./prompt-encoder.js";

const scratch = await mkdtemp(join(tmpdir(), "alignprop-pipeline-"));
afterAll(() => rm(scratch, { recursive: true }));

/** A copy of a tiny model with one file rewritten. */
async function altered(
  name: string,
  file: string,
  change: (json: Record<string, unknown>) => void,
  from = TINY_SD,
): Promise<string> {
  const model = join(scratch, name);
  await cp(from, model, { recursive: true });
  const json = JSON.parse(await readFile(join(model, file), "utf8")) as Record<string, unknown>;
  change(json);
  await writeFile(join(model, file), JSON.stringify(json));
  return model;
}

const tiny = await openPipeline(TINY_SD);

describe("a pipeline", () => {
  test("opens with all its tensors under the part's name", () => {
    const names = [...tiny.weights.names()];
    for (const name of ["unet.conv_in.weight", "vae.decoder.conv_in.weight"]) expect(names).toContain(name);
    expect(names.some((name) => name.startsWith("text_encoder.text_model."))).toBe(true);
  });

  test("is refused where its parts do not belong together", async () => {
    const model = await altered("wide", "unet/config.json", (json) => {
      json.cross_attention_dim = 99;
    });
    await expect(openPipeline(model)).rejects.toThrow(/attends to 99 features, but the text encoder gives 12/);
  });

  test("is refused where its scheduler clips, with the file's name", async () => {
    const model = await altered("clipping", "scheduler/scheduler_config.json", (json) => {
      json.clip_sample = true;
    });
    await expect(openPipeline(model)).rejects.toThrow(/scheduler_config\.json: clip_sample is true; supported: false/);
  });

  test("is refused where a part is of an unsupported class", async () => {
    const model = await altered("transformer", "model_index.json", (json) => {
      json.unet = ["diffusers", "SD3Transformer2DModel"];
    });
    await expect(openPipeline(model)).rejects.toThrow(/unet is of class SD3Transformer2DModel; supported here: UNet2D/);
  });
});

describe("a pipeline of Stable Diffusion XL", () => {
  const XL = tinyFamily("sdxl");
  const change = (file: string, values: Record<string, unknown>) => {
    const name = Object.keys(values).join();
    return altered(`xl-${name}`, file, (json) => Object.assign(json, values), XL);
  };

  test("opens with both text encoders, and asks for zeros where there is no negative prompt", async () => {
    const { textEncoders, forceZerosForEmptyPrompt, weights } = await openPipeline(XL);
    expect(textEncoders.map(({ name, config }) => [name, config.hiddenSize])).toEqual([
      ["text_encoder", 8],
      ["text_encoder_2", 12],
    ]);
    expect(weights.get("text_encoder_2.text_projection.weight")?.shape).toEqual([6, 12]);
    expect(forceZerosForEmptyPrompt).toBe(true);
    const model = await change("model_index.json", { force_zeros_for_empty_prompt: false });
    expect((await openPipeline(model)).forceZerosForEmptyPrompt).toBe(false);
  });

  test.each([
    ["unet/config.json", { addition_embed_type: null }, "the U-Net takes no pooled prompt"],
    ["unet/config.json", { cross_attention_dim: 99 }, "the text encoders together give 20"],
    [
      "unet/config.json",
      { projection_class_embeddings_input_dim: 26 },
      "the U-Net takes 2 features of the pooled prompt",
    ],
    ["model_index.json", { text_encoder_2: [null, null] }, "the text encoder gives 8"],
    ["model_index.json", { text_encoder: [null, null] }, "as Stable Diffusion XL's refiner"],
    ["model_index.json", { force_zeros_for_empty_prompt: "yes" }, 'force_zeros_for_empty_prompt is "yes"'],
    ["tokenizer_2/tokenizer_config.json", { model_max_length: 60 }, "tokenizer gives 77 ids, but tokenizer_2 60"],
  ])("is refused where its %s says %o", async (file, values, message) => {
    await expect(openPipeline(await change(file, values))).rejects.toThrow(message);
  });
});

test("without a negative prompt the unconditional branch of Stable Diffusion XL gets zeros, and with one what it says", async () => {
  const runtime = await Runtime.start({ threads: 1 });
  const pipeline = await openPipeline(tinyFamily("sdxl"));
  const encoder = await PromptEncoder.compile(runtime, pipeline, textGraph(pipeline));
  const largest = (tensor: HostTensor) => Math.max(...toNumbers(tensor).map(Math.abs));
  const none = await encoder.encodeNegative("", 2);
  expect(none.text.shape).toEqual([2, 77, 20]);
  expect([none.text, none.pooled as HostTensor].map(largest)).toEqual([0, 0]);
  const given = await encoder.encodeNegative("a dog", 2);
  expect(given.pooled).toEqual((await encoder.encode(["a dog", "a dog"])).pooled);
  expect(largest(given.pooled as HostTensor)).toBeGreaterThan(0);
  await runtime.close();
});

describe("the size of latents", () => {
  test("is the model's own where none is asked for, and pixels divided by the VAE's factor otherwise", () => {
    expect(latentSize(tiny, null, null)).toEqual({ height: 8, width: 8 });
    expect(latentSize(tiny, 64, null)).toEqual({ height: 16, width: 8 });
  });

  test("is refused where the model cannot halve it, with the nearest that fits", () => {
    expect(() => latentSize(tiny, null, 60)).toThrow(
      /sampling\.width: 60 pixels is not a multiple of \d+.* try (56|64)/,
    );
  });
});

test("a prompt that is too long is warned about once, with the part that is left out", () => {
  const long = `a cat ${"horse ".repeat(100)}`;
  const warnings = promptWarnings(tiny, ["a cat", long, long]);
  expect(warnings).toHaveLength(1);
  expect(warnings[0]).toMatch(/longer than the 77 tokens of the text encoder; its end is left out: "horse/);
});
