import { cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { TINY_SD } from "../../test/tiny.js";
import { latentSize, openPipeline, promptWarnings } from "./pipeline.js";

const scratch = await mkdtemp(join(tmpdir(), "alignprop-pipeline-"));
afterAll(() => rm(scratch, { recursive: true }));

/** A copy of the tiny model with one file rewritten. */
async function altered(name: string, file: string, change: (json: Record<string, unknown>) => void): Promise<string> {
  const model = join(scratch, name);
  await cp(TINY_SD, model, { recursive: true });
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
