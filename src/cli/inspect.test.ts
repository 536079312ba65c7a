import { cp, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { TINY_SD } from "../../test/tiny.js";
import { runCommandLine } from "./program.js";

const golden = (path: string) => fileURLToPath(new URL(`../../test/goldens/${path}`, import.meta.url));
const LORA = golden("adapters/kohya/pytorch_lora_weights.safetensors");
const MODEL = golden("ldm/sd1.safetensors");

let root: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), "alignprop-inspect-"));
});
afterAll(() => rm(root, { recursive: true }));

async function run(...args: string[]) {
  const [printed, said]: [string[], string[]] = [[], []];
  const terminal = {
    isTTY: false,
    print: (line: string) => printed.push(line),
    say: (line: string) => said.push(line),
    update: () => {},
  };
  const code = await runCommandLine(args, terminal);
  return { code, printed: printed.join("\n"), said: said.join("\n") };
}

async function errorOf(...args: string[]) {
  const { code, printed } = await run(...args, "--json");
  expect(code).toBe(2);
  return JSON.parse(printed).error;
}

describe("inspect", () => {
  test("says what each file is, its properties, and the command that uses it", async () => {
    const { code, printed } = await run("inspect", LORA, MODEL);
    expect(code).toBe(0);
    expect(printed).toContain(`${LORA}: a LoRA adapter`);
    expect(printed).toMatch(/rank +2/);
    expect(printed).toContain(`npx alignprop generate --adapter ${LORA}`);
    expect(printed).toContain(`${MODEL}: a Stable Diffusion 1.x model in one file`);
    expect(printed).toContain(`npx alignprop generate --model ${MODEL}`);
  });

  test("prints the same as JSON, and the inputs and outputs of an ONNX file", async () => {
    const { printed } = await run("inspect", golden("onnx/clip.dynamo-21.onnx"), "--json");
    const [file] = JSON.parse(printed).files;
    expect(file).toMatchObject({ kind: "onnx", supported: true, details: { opset: 21, outputs: expect.any(Array) } });
    expect(file.details.inputs[0]).toMatch(/ float32\[/);
    expect(file.command).toContain("reward check");
  });

  test("fails if there is nothing", async () => {
    const path = join(root, "nowhere");
    expect(await errorOf("inspect", path)).toMatchObject({ code: "file-not-found", path });
  });
});

describe("the wrong kind of file for an option is named before anything else is asked for", () => {
  const generate = (...args: string[]) => errorOf("generate", "--prompt", "cat", ...args);

  test("an adapter as the model", async () => {
    expect(await generate("--model", LORA)).toMatchObject({
      code: "model-unsupported",
      path: LORA,
      found: "adapter",
      suggestion: expect.stringContaining("--adapter"),
    });
  });

  test("a model as the adapter", async () => {
    for (const path of [MODEL, TINY_SD]) {
      expect(await generate("--model", TINY_SD, "--adapter", path)).toMatchObject({
        code: "adapter-unsupported",
        path,
        suggestion: expect.stringContaining("--model"),
      });
    }
  });

  test("a part of a model, a picture and a GGUF as the model", async () => {
    const unet = join(root, "unet.safetensors");
    await cp(join(TINY_SD, "unet/diffusion_pytorch_model.safetensors"), unet);
    const gguf = join(root, "model.safetensors");
    await writeFile(gguf, "GGUF\x03\0\0\0");
    const picture = fileURLToPath(new URL("../../docs/images/before-after.png", import.meta.url));
    for (const [path, found] of [
      [unet, "component-file"],
      [gguf, "gguf"],
      [picture, "image"],
    ]) {
      expect(await generate("--model", path as string)).toMatchObject({ code: "model-unsupported", found });
      expect(await generate("--adapter", path as string)).toMatchObject({ code: "adapter-unsupported", found });
    }
  });

  test("a pipeline of another class as the model", async () => {
    const folder = await mkdtemp(join(root, "flux-"));
    const index = { _class_name: "FluxPipeline", transformer: ["diffusers", "FluxTransformer2DModel"] };
    await writeFile(join(folder, "model_index.json"), JSON.stringify(index));
    expect(await generate("--model", folder)).toMatchObject({
      code: "model-unsupported",
      what: "a FluxPipeline",
      message: expect.stringContaining("FluxPipeline is not supported"),
    });
  });
});

test("--resume of a folder that does not exist suggests a run beside it", async () => {
  await cp(golden("tiny-sd/tokenizer"), join(root, "runs/mine-1"), { recursive: true });
  await writeFile(join(root, "runs/mine-1/config.yaml"), "reward: aesthetic\n");
  const path = join(root, "runs/mine-2");
  expect(await errorOf("train", "--resume", path)).toMatchObject({
    code: "run-not-found",
    found: "missing",
    suggestion: join(root, "runs/mine-1"),
  });
  expect(await errorOf("train", "--resume", TINY_SD)).toMatchObject({ code: "run-not-found", found: "pipeline" });
});
