/** The precision of the U-Net. VAE, text encoders and reward stay in float32: Stable Diffusion XL's VAE overflows in float16. */
import { gradients } from "../autodiff/index.js";
import type { SettingsPart } from "../config/index.js";
import type { Graph } from "../graph/graph.js";
import type { Value } from "../graph/value.js";
import { halfPrecision } from "../onnx/half-precision.js";
import {
  attention,
  conv2d,
  groupNorm,
  input,
  linear,
  reshape,
  silu,
  transpose,
  upsampleNearest,
} from "../ops/index.js";
import type { Runtime } from "../runtime/runtime.js";
import { fromNumbers, type HostTensor, toFloat32 } from "../tensor/host.js";
import { Rng } from "../tensor/rng.js";
import { sizeOf } from "../tensor/shape.js";

export type Precision = "float32" | "float16";

/** A graph of the U-Net in the given precision. The timestep stays float32: float16 has too few digits for its angles. */
export function inPrecision(graph: Graph, precision: Precision): Graph {
  return precision === "float16" ? halfPrecision(graph, { exact: ["timestep"] }) : graph;
}

/** Resolves `auto` by a trial on the device. Without a runtime, GPUs are assumed to compute in float16. */
export async function choosePrecision(
  { device, precision }: SettingsPart<"device" | "precision">,
  runtime?: Runtime,
  warn: (message: string) => void = () => {},
): Promise<Precision> {
  if (precision === "float16" && device === "cpu") warn(SLOW_ON_CPU);
  if (precision !== "auto") return precision;
  if (device === "cpu") return "float32";
  const fault = runtime && (await float16Fault(runtime));
  if (fault === undefined) return "float16";
  warn(`${device} does not compute in float16 here (${fault}); the U-Net computes in float32`);
  return "float32";
}

const SLOW_ON_CPU =
  "precision: float16 gives no speed on the CPU, which computes almost everything in float32 and converts around it; leave it at auto";

/**
 * Bound on the trial's largest error, relative to the largest value. On the CPU the error is at most 1e-3 (AVX-512, AVX2
 * and SSE kernels), two units of roundoff 2^-11. The rest is for devices that accumulate products in float16.
 */
const PROBE_TOLERANCE = 0.03;

/** Runs a small U-Net block and its gradient in both precisions. Returns why float16 cannot be used, or undefined if it can. */
async function float16Fault(runtime: Runtime): Promise<string | undefined> {
  const graph = probeGraph();
  const rng = new Rng(0);
  const feeds = Object.fromEntries(
    Object.entries(graph.inputs).map(([name, { shape }]) => [
      name,
      fromNumbers(
        Float32Array.from({ length: sizeOf(shape) }, () => rng.normal() / 2),
        shape,
      ),
    ]),
  );
  try {
    const expected = await runOnce(runtime, graph, feeds);
    const found = await runOnce(runtime, halfPrecision(graph), feeds);
    for (const [name, tensor] of Object.entries(expected)) {
      const [right, half] = [toFloat32(tensor), toFloat32(found[name] as HostTensor)];
      const size = Math.max(...right.map(Math.abs));
      const error = right.reduce((most, value, i) => Math.max(most, Math.abs(value - (half[i] as number)) / size), 0);
      if (!(error < PROBE_TOLERANCE)) return `a trial's ${name} was wrong by ${(100 * error).toFixed(0)} %`;
    }
    return undefined;
  } catch (error) {
    return (error as Error).message.split("\n")[0];
  }
}

async function runOnce(runtime: Runtime, graph: Graph, feeds: Readonly<Record<string, HostTensor>>) {
  const program = await runtime.compile(graph);
  try {
    return await program.run(feeds);
  } finally {
    await program.release();
  }
}

function probeGraph(): Graph {
  const [channels, size, heads] = [8, 4, 2];
  const inputs = {
    x: input([2, channels, size, size]),
    kernel: input([channels, channels, 3, 3]),
    scale: input([channels]),
    bias: input([channels]),
    weight: input([channels, channels]),
    upstream: input([2, channels, 2 * size, 2 * size]),
  };
  const h = silu(groupNorm(inputs.x, 2, { scale: inputs.scale, bias: inputs.bias }));
  const tokens = reshape(transpose(conv2d(h, inputs.kernel, inputs.bias, { padding: 1 }), [0, 2, 3, 1]), [
    2,
    -1,
    channels,
  ]);
  const seen = attention(linear(tokens, inputs.weight), tokens, tokens, heads);
  const image = transpose(reshape(seen, [2, size, size, channels]), [0, 3, 1, 2]);
  const output = upsampleNearest(image, 2);
  const [dx, dWeight, dKernel] = gradients(
    [{ value: output, gradient: inputs.upstream }],
    [inputs.x, inputs.weight, inputs.kernel],
  ) as [Value, Value, Value];
  return { name: "half-precision trial", inputs, outputs: { output, dx, dWeight, dKernel } };
}
