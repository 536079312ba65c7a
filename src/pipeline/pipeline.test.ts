import { cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { inputError } from "../../test/errors.js";
import { TINY_SD, tinyFamily } from "../../test/tiny.js";
import type { ErrorCode, ErrorFacts } from "../errors/index.js";
import { Runtime } from "../runtime/runtime.js";
import { type HostTensor, toNumbers } from "../tensor/host.js";
import { textGraph } from "./graphs.js";
import { latentSize } from "./latent-size.js";
import { openPipeline, promptWarnings } from "./pipeline.js";
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
  test("opens with its tensors under the name of their part", () => {
    const names = [...tiny.weights.names()];
    for (const name of ["unet.conv_in.weight", "vae.decoder.conv_in.weight"]) expect(names).toContain(name);
    expect(names.some((name) => name.startsWith("text_encoder.text_model."))).toBe(true);
  });

  test("reads the tokens that a textual inversion added to it", async () => {
    const notes: string[] = [];
    const model = await altered("added", "text_encoder/config.json", (json) => {
      json.vocab_size = 524;
    });
    await writeFile(join(model, "tokenizer/added_tokens.json"), JSON.stringify({ "<foo>": 522 }));
    const { textEncoders } = await openPipeline(model, { note: (message) => notes.push(message) });
    const { ids } = textEncoders[0].tokenizer.encode("a <foo> cat");
    expect(ids.slice(0, 5)).toEqual([520, 320, 522, 513, 521]);
    // Row 523 of the embedding has no token.
    expect(notes).toEqual([expect.stringMatching(/524 tokens.* only 523/)]);
  });

  test("may have a scheduler with Python's Infinity, as DPMSolverMultistepScheduler is saved", async () => {
    const model = await altered("dpm", "scheduler/scheduler_config.json", (json) => {
      json._class_name = "DPMSolverMultistepScheduler";
    });
    const file = join(model, "scheduler/scheduler_config.json");
    const json = await readFile(file, "utf8");
    await writeFile(file, json.replace("{", '{"lambda_min_clipped": -Infinity, '));
    const { scheduler } = await openPipeline(model);
    expect(scheduler).toEqual(tiny.scheduler);
  });

  test("is refused if its parts do not fit each other", async () => {
    const model = await altered("wide", "unet/config.json", (json) => {
      json.cross_attention_dim = 99;
    });
    await expect(openPipeline(model)).rejects.toThrow(
      inputError("model-mismatch", { path: model, key: "cross_attention_dim", found: 99, expected: 12 }),
    );
  });

  test("is refused if its scheduler clips, with the path of the file", async () => {
    const model = await altered("clipping", "scheduler/scheduler_config.json", (json) => {
      json.clip_sample = true;
    });
    await expect(openPipeline(model)).rejects.toThrow(
      inputError("config-invalid", { path: join(model, "scheduler/scheduler_config.json"), keys: ["clip_sample"] }),
    );
  });

  test("is refused if a part is of an unsupported class", async () => {
    const model = await altered("transformer", "model_index.json", (json) => {
      json.unet = ["diffusers", "SD3Transformer2DModel"];
    });
    await expect(openPipeline(model)).rejects.toThrow(
      inputError("model-unsupported", {
        path: join(model, "model_index.json"),
        component: "unet",
        found: "SD3Transformer2DModel",
        expected: ["UNet2DConditionModel"],
      }),
    );
  });
});

describe("a pipeline of Stable Diffusion XL", () => {
  const XL = tinyFamily("sdxl");
  const change = (file: string, values: Record<string, unknown>) => {
    const name = Object.keys(values).join();
    return altered(`xl-${name}`, file, (json) => Object.assign(json, values), XL);
  };

  test("opens with both text encoders, and with zeros instead of an empty negative prompt", async () => {
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

  test.each<[file: string, values: Record<string, unknown>, code: ErrorCode, facts: ErrorFacts]>([
    [
      "unet/config.json",
      { addition_embed_type: null },
      "model-mismatch",
      { component: "text_encoder_2", key: "addition_embed_type" },
    ],
    ["unet/config.json", { cross_attention_dim: 99 }, "model-mismatch", { found: 99, expected: 20 }],
    [
      "unet/config.json",
      { projection_class_embeddings_input_dim: 26 },
      "model-mismatch",
      { key: "projection_class_embeddings_input_dim", found: 2, expected: 6 },
    ],
    ["model_index.json", { text_encoder_2: [null, null] }, "model-mismatch", { found: 20, expected: 8 }],
    ["model_index.json", { text_encoder: [null, null] }, "model-unsupported", { component: "text_encoder" }],
    [
      "model_index.json",
      { force_zeros_for_empty_prompt: "yes" },
      "config-invalid",
      { keys: ["force_zeros_for_empty_prompt"], found: ['"yes"'] },
    ],
    [
      "tokenizer_2/tokenizer_config.json",
      { model_max_length: 60 },
      "model-mismatch",
      { component: "tokenizer_2", found: 60, expected: 77 },
    ],
  ])("is refused if its %s says %o", async (file, values, code, facts) => {
    await expect(openPipeline(await change(file, values))).rejects.toThrow(inputError(code, facts));
  });
});

test("the unconditional branch of Stable Diffusion XL gets zeros without a negative prompt, and its embedding with one", async () => {
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
  test("is the one that the model was trained at by default, and otherwise pixels divided by the VAE's factor", () => {
    expect(latentSize(tiny, null, null)).toEqual({ height: 8, width: 8 });
    expect(latentSize(tiny, 64, null)).toEqual({ height: 16, width: 8 });
  });

  test("is refused if the model cannot halve it, with the nearest that fits", () => {
    expect(() => latentSize(tiny, null, 60)).toThrow(
      inputError("setting-invalid", { setting: "sampling.width", found: 60, divisor: 16, suggestion: 64 }),
    );
  });

  test("must be given if the model does not say what it was trained at", () => {
    const pipeline = { ...tiny, unet: { ...tiny.unet, sampleSize: undefined } };
    expect(() => latentSize(pipeline, 64, null)).toThrow(
      inputError("setting-invalid", { setting: "sampling.width", found: null, path: TINY_SD, key: "sample_size" }),
    );
  });
});

test("there is one warning about a prompt that is too long, with the part that is left out", () => {
  const long = `a cat ${"horse ".repeat(100)}`;
  const warnings = promptWarnings(tiny, ["a cat", long, long]);
  expect(warnings).toHaveLength(1);
  expect(warnings[0]).toMatch(/longer than the 77 tokens of the text encoder; its end is left out: "horse/);
});
