/**
 * Compares imported ONNX files with autograd: the value and the image gradient of each model that parity/onnx_models.py
 * exported. Both are compared with float64. For scale, the table also has the error of PyTorch's own gradient in float32.
 *
 *     python parity/onnx_models.py --full FOLDER
 *     node dist/bench/onnx.js FOLDER
 */
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { gradients } from "../src/autodiff/index.js";
import { topologicalOrder } from "../src/graph/graph.js";
import { openOnnx } from "../src/onnx/import/file.js";
import { OnnxImport } from "../src/onnx/import/import.js";
import { input } from "../src/ops/index.js";
import { Runtime } from "../src/runtime/runtime.js";
import { type HostTensor, toNumbers } from "../src/tensor/host.js";
import { openSafetensors } from "../src/weights/safetensors.js";
import { readTensor } from "../src/weights/source.js";

export interface OnnxParity {
  /** Largest difference divided by the largest expected value. */
  readonly valueError: number;
  readonly gradientError: number;
  /**
   * The gradient's error over all but the worst hundredth of the pixels. If the input of a ReLU or a maximum in a large model
   * lies within rounding of the kink, float32 and float64 may take different sides of it. Then only the pixels in its receptive
   * field differ.
   */
  readonly usualError: number;
  /** Error of PyTorch's own gradient in float32. */
  readonly peerError: number;
  readonly nodes: number;
  readonly importSeconds: number;
  /** Time of one call that computes value and gradient. */
  readonly seconds: number;
}

/** `model` is an ONNX file with one input and one output; `golden` holds image, upstream, output and gradient. */
export async function onnxParity(runtime: Runtime, model: string, golden: string): Promise<OnnxParity> {
  const expected = await openSafetensors(golden);
  const tensor = async (name: string): Promise<HostTensor> => {
    const stored = expected.get(name);
    if (!stored) throw new Error(`${golden}: the tensor ${name} is missing`);
    return readTensor(stored);
  };
  const started = performance.now();
  const file = await openOnnx(model);
  const given = await tensor("image");
  const image = input(given.shape);
  const [name] = file.inputs.map((one) => one.name);
  const output = new OnnxImport(file, { [name ?? ""]: image }).output(file.outputs[0] ?? "");
  const upstream = input(output.shape);
  const [gradient] = gradients([{ value: output, gradient: upstream }], [image]);
  if (!gradient) throw new Error(`${model}: no gradient reaches the image`);
  const importSeconds = (performance.now() - started) / 1000;
  const program = await runtime.compile(
    { name: model, inputs: { image, upstream }, outputs: { output, gradient } },
    file.weights,
  );
  const feeds = { image: given, upstream: await tensor("upstream") };
  await program.run(feeds);
  const ready = performance.now();
  const results = await program.run(feeds);
  const seconds = (performance.now() - ready) / 1000;
  await program.release();
  return {
    valueError: difference(results.output as HostTensor, await tensor("output")),
    gradientError: difference(results.gradient as HostTensor, await tensor("gradient")),
    usualError: difference(results.gradient as HostTensor, await tensor("gradient"), 0.99),
    peerError: toNumbers(await tensor("float32_error"))[0] as number,
    nodes: topologicalOrder([output]).length,
    importSeconds,
    seconds,
  };
}

/** The `share` quantile of the differences, divided by the largest expected value. */
function difference(actual: HostTensor, expected: HostTensor, share = 1): number {
  const [a, b] = [toNumbers(actual), toNumbers(expected)];
  if (a.length !== b.length) throw new Error(`${a.length} elements, expected ${b.length}`);
  const largest = b.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const differences = b.map((value, i) => Math.abs((a[i] as number) - value)).sort();
  return (differences[Math.ceil(share * differences.length) - 1] as number) / largest;
}

async function main(folder: string): Promise<void> {
  const runtime = await Runtime.start();
  const files = (await readdir(folder)).filter((name) => name.endsWith(".onnx")).sort();
  console.log(["model".padEnd(44), "value", "gradient", "99 %", "PyTorch", "nodes", "import s", "call s"].join("\t"));
  let failed = 0;
  let kinks = 0;
  for (const name of files) {
    try {
      const golden = join(folder, `${name.split(".").slice(0, -2).join(".")}.safetensors`);
      const { valueError, gradientError, usualError, peerError, nodes, importSeconds, seconds } = await onnxParity(
        runtime,
        join(folder, name),
        golden,
      );
      if (!(usualError <= 1e-3)) failed++;
      else if (!(gradientError <= 1e-3)) kinks++;
      const columns = [
        valueError.toExponential(1),
        gradientError.toExponential(1),
        usualError.toExponential(1),
        peerError.toExponential(1),
        nodes,
        importSeconds.toFixed(2),
        seconds.toFixed(2),
      ];
      console.log([name.padEnd(44), ...columns].join("\t"));
    } catch (error) {
      failed++;
      console.log(`${name.padEnd(44)}\t${(error as Error).message}`);
    }
  }
  await runtime.close();
  const exceptions = kinks === 0 ? "" : `, ${kinks} of them except for pixels that a unit at its kink sees`;
  console.log(`${files.length - failed} of ${files.length} agree with autograd's gradient to 1e-3${exceptions}`);
  process.exitCode = failed === 0 ? 0 : 1;
}

const [folder] = process.argv.slice(2);
if (import.meta.filename === process.argv[1]) {
  if (folder === undefined) throw new Error("usage: node dist/bench/onnx.js FOLDER");
  await main(folder);
}
