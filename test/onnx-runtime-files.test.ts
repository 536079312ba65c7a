/** Files that ONNX Runtime optimized or quantized (parity/onnx_variants.py), against ONNX Runtime and the files from before. */
import { readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { InferenceSession, Tensor } from "onnxruntime-node";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { gradients } from "../src/autodiff/index.js";
import { openOnnx } from "../src/onnx/import/file.js";
import { OnnxImport } from "../src/onnx/import/import.js";
import { constant, input } from "../src/ops/index.js";
import { Runtime } from "../src/runtime/runtime.js";
import { fromNumbers, type HostTensor, toNumbers } from "../src/tensor/host.js";
import { Rng } from "../src/tensor/rng.js";
import { sizeOf } from "../src/tensor/shape.js";

const goldens = fileURLToPath(new URL("./goldens/", import.meta.url));
const variants = readdirSync(`${goldens}onnx-runtime`).filter((name) => name.endsWith(".onnx"));

let runtime: Runtime;
beforeAll(async () => {
  runtime = await Runtime.start({ threads: 1 });
});
afterAll(() => runtime.close());

/** The output for an image of noise, the same from ONNX Runtime, and the image's gradient. */
async function run(path: string) {
  const file = await openOnnx(path);
  const [image] = file.inputs;
  const shape = image?.shape.map((extent) => (typeof extent === "number" ? extent : 1)) ?? [];
  const x = input(shape);
  const y = new OnnxImport(file, { [image?.name ?? ""]: x }).output(file.outputs[0] ?? "");
  const rng = new Rng(9);
  const upstream = Float64Array.from({ length: sizeOf(y.shape) }, () => rng.normal());
  const [gradient] = gradients([{ value: y, gradient: constant(upstream, y.shape) }], [x]);
  if (!gradient) throw new Error(`${path}: no gradient`);
  const pixels = Float32Array.from({ length: sizeOf(shape) }, () => rng.uniform());
  const program = await runtime.compile({ name: path, inputs: { x }, outputs: { y, gradient } }, file.weights);
  const results = await program.run({ x: fromNumbers(pixels, shape) });
  await program.release();
  const session = await InferenceSession.create(path, { graphOptimizationLevel: "disabled", logSeverityLevel: 4 });
  const expected = await session.run({ [image?.name ?? ""]: new Tensor(pixels, shape) });
  await session.release();
  return {
    value: [...toNumbers(results.y as HostTensor)],
    expected: Array.from((expected[file.outputs[0] ?? ""] as Tensor).data as Float32Array),
    gradient: [...toNumbers(results.gradient as HostTensor)],
  };
}

const largest = (values: readonly number[]) => values.reduce((top, value) => Math.max(top, Math.abs(value)), 0);
const dot = (a: readonly number[], b: readonly number[]) => a.reduce((sum, x, i) => sum + x * (b[i] as number), 0);

describe("a file of ONNX Runtime", () => {
  test.each(variants)("%s has its value, and the gradient of the file from before", async (name) => {
    const found = await run(`${goldens}onnx-runtime/${name}`);
    const before = await run(`${goldens}onnx/${name.replace(/\.[a-z]+\.onnx$/, ".onnx")}`);
    const error = largest(found.value.map((value, i) => value - (found.expected[i] as number)));
    expect(error / largest(found.expected)).toBeLessThan(1e-5);
    if (/\.(extended|fused)\.onnx$/.test(name)) {
      const difference = largest(found.gradient.map((value, i) => value - (before.gradient[i] as number)));
      expect(difference / largest(before.gradient)).toBeLessThan(1e-4);
    } else {
      const lengths = Math.sqrt(dot(found.gradient, found.gradient) * dot(before.gradient, before.gradient));
      expect(dot(found.gradient, before.gradient) / lengths).toBeGreaterThan(0.9);
    }
  });
});
