/**
 * Times one call of a U-Net alone, or of its gradient, and prints one line of JSON. The call has a LoRA adapter with random
 * factors and no guidance. Inputs and results are written to `--results`, where the peer compares them with its own.
 */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { gradients } from "../src/autodiff/index.js";
import { flops } from "../src/engine/index.js";
import type { Graph } from "../src/graph/graph.js";
import type { Value } from "../src/graph/value.js";
import { parseUnetConfig } from "../src/models/unet/config.js";
import { unet, unetInputs } from "../src/models/unet/unet.js";
import { flatTensors, joinFlat } from "../src/nn/flat.js";
import { loraAdapter, loraLayout } from "../src/nn/lora.js";
import { frozenScope } from "../src/nn/scope.js";
import { input } from "../src/ops/index.js";
import { Runtime } from "../src/runtime/runtime.js";
import { float32, type HostTensor } from "../src/tensor/host.js";
import { Rng } from "../src/tensor/rng.js";
import { type Shape, sizeOf } from "../src/tensor/shape.js";
import { openSafetensors, writeSafetensors } from "../src/weights/safetensors.js";
import { withPrefix } from "../src/weights/source.js";

const { values } = parseArgs({
  options: {
    /** The folder with the U-Net's config.json and weights. */
    folder: { type: "string", default: "." },
    mode: { type: "string", default: "forward" },
    /** Extent of the latents along each side: an eighth of the image's for Stable Diffusion. */
    latents: { type: "string", default: "64" },
    threads: { type: "string", default: "2" },
    repeat: { type: "string", default: "3" },
    results: { type: "string", default: "unet-call.safetensors" },
  },
});
const { folder, mode } = values;
if (mode !== "forward" && mode !== "gradient") throw new Error(`--mode ${mode}: must be forward or gradient`);
const RANK = 4;
const TOKENS = 77;
const TIMESTEP = 481;

const side = Number(values.latents);
const config = parseUnetConfig(JSON.parse(await readFile(join(folder, "config.json"), "utf8")));
const weights = withPrefix(await openSafetensors(join(folder, "diffusion_pytorch_model.safetensors")), "unet.");
const inputs = unetInputs(config, { batch: 1, height: side, width: side, tokens: TOKENS });
const settings = { rank: RANK, alpha: null, targets: ["attention"] };
const layout = loraLayout(settings, "unet", (scope) => unet(scope, config, inputs));
const lora = input([layout.size]);
const { adapter, parts } = loraAdapter(layout, lora);
const output = unet(frozenScope(weights, "unet", { adapter }), config, inputs);
const forward: Graph = {
  name: "U-Net forward",
  inputs: {
    latents: inputs.sample,
    timestep: inputs.timestep,
    text: inputs.encoderHiddenStates,
    ...(inputs.added && { pooled: inputs.added.textEmbeds, time_ids: inputs.added.timeIds }),
    lora,
  },
  outputs: { output },
};
const graph = mode === "forward" ? forward : withGradient();

const rng = new Rng(1);
const normals = (shape: Shape, deviation = 1) =>
  float32(
    rng.normals(sizeOf(shape)).map((x) => deviation * x),
    shape,
  );
const parameters = new Float32Array(layout.size);
for (const { factor, shape, offset } of layout.entries) {
  // B of a fresh adapter is 0, and then the gradient of A is 0 too.
  parameters.set(
    rng.normals(sizeOf(shape)).map((x) => x * (factor === "A" ? 1 / RANK : 0.02)),
    offset,
  );
}
const pixels = 8 * side;
const given: Record<string, HostTensor> = {
  latents: normals(inputs.sample.shape),
  timestep: float32(Float32Array.of(TIMESTEP), [1]),
  text: normals(inputs.encoderHiddenStates.shape),
  ...(inputs.added && {
    pooled: normals(inputs.added.textEmbeds.shape),
    time_ids: float32(Float32Array.of(pixels, pixels, 0, 0, pixels, pixels), [1, 6]),
  }),
  ...(mode === "gradient" && { upstream: normals(output.shape) }),
};
const feeds = { ...given, lora: float32(parameters, [layout.size]) };

const runtime = await Runtime.start({ threads: Number(values.threads) });
const program = await runtime.compile(graph, weights);
const loadSeconds = performance.now() / 1000;
const loadedRssBytes = process.memoryUsage.rss();
let results = await program.run(feeds);
const seconds: number[] = [];
for (let i = 0; i < Number(values.repeat); i++) {
  const began = performance.now();
  results = await program.run(feeds);
  seconds.push((performance.now() - began) / 1000);
}
await runtime.close();
const { dLora, ...others } = results;
await writeSafetensors(
  values.results,
  new Map([
    ...Object.entries(given),
    ...Object.entries(others),
    ...named("lora.", parameters),
    ...(dLora ? named("gradient.", dLora.data as Float32Array) : []),
  ]),
);
console.log(
  JSON.stringify({
    seconds,
    load_seconds: loadSeconds,
    loaded_rss_bytes: loadedRssBytes,
    peak_rss_bytes: process.resourceUsage().maxRSS * 1024,
    flops: flops(graph),
  }),
);

/** Adds the gradients of the latents and of the adapter, for a random gradient `upstream` of the output. */
function withGradient(): Graph {
  const upstream = input(output.shape);
  const found = gradients([{ value: output, gradient: upstream }], [...parts, inputs.sample]);
  const dLatents = found.pop() as Value;
  return {
    name: "U-Net gradient",
    inputs: { ...forward.inputs, upstream },
    outputs: { output, dLatents, dLora: joinFlat(layout, found) },
  };
}

/** The adapter's factors, or their gradients, under PEFT's names. */
function named(prefix: string, flat: Float32Array): [string, HostTensor][] {
  return [...flatTensors(layout, flat)].map(([name, tensor]) => [prefix + name, tensor]);
}
