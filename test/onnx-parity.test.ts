/** Small image models from both ONNX exporters of PyTorch (parity/onnx_models.py): value and image gradient agree with autograd. */
import { readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";
import { onnxParity } from "../bench/onnx.js";
import { Runtime } from "../src/runtime/runtime.js";
import { OP_TOLERANCE } from "./tolerance.js";

const folder = fileURLToPath(new URL("./goldens/onnx", import.meta.url));
const files = readdirSync(folder).filter((name) => name.endsWith(".onnx"));
const models = new Set(files.map((name) => name.split(".")[0] as string));

let runtime: Runtime;
beforeAll(async () => {
  runtime = await Runtime.start({ threads: 1 });
});
afterAll(() => runtime.close());

test.each(files)("%s has the value and the gradient of autograd", async (name) => {
  const golden = `${folder}/${name.split(".")[0]}.safetensors`;
  const { valueError, gradientError } = await onnxParity(runtime, `${folder}/${name}`, golden);
  expect(valueError).toBeLessThan(OP_TOLERANCE);
  expect(gradientError).toBeLessThan(OP_TOLERANCE);
});

test("every architecture is exported by both exporters, except transformers' Swin, which the newer one refuses", () => {
  for (const model of models) {
    const exporters = files.filter((name) => name.startsWith(`${model}.`)).map((name) => name.split(/[.-]/).at(-3));
    expect([model, exporters]).toEqual([
      model,
      model === "swin-transformers" ? ["torchscript"] : ["dynamo", "torchscript"],
    ]);
  }
  expect(models.size).toBe(12);
});
