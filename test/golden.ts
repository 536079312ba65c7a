import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { expect } from "vitest";
import { gradients, splitAtResiduals } from "../src/autodiff/index.js";
import type { Graph } from "../src/graph/graph.js";
import type { Value } from "../src/graph/value.js";
import { input } from "../src/ops/index.js";
import type { Feeds, Runtime } from "../src/runtime/runtime.js";
import { fromNumbers, type HostTensor, toNumbers } from "../src/tensor/host.js";
import { showShape } from "../src/tensor/shape.js";
import { openSafetensors } from "../src/weights/safetensors.js";
import { readTensor, type WeightSource } from "../src/weights/source.js";
import { distance, MODEL_TOLERANCE } from "./tolerance.js";

/** A folder under test/goldens, made by parity/make_goldens.py: results of PyTorch in float64. */
export interface Golden {
  readonly folder: string;
  readonly config: unknown;
  tensor(name: string): HostTensor;
  /** The names that begin with `prefix`, without the prefix. */
  names(prefix: string): string[];
}

export async function openGolden(name: string, { config = "config.json" } = {}): Promise<Golden> {
  const folder = fileURLToPath(new URL(`./goldens/${name}`, import.meta.url));
  const file = await openSafetensors(`${folder}/inputs.safetensors`);
  const tensors = new Map<string, HostTensor>();
  for (const key of file.names()) {
    const stored = file.get(key);
    if (stored) tensors.set(key, await readTensor(stored));
  }
  return {
    folder,
    config: await readFile(`${folder}/${config}`, "utf8").then(JSON.parse, () => undefined),
    tensor(key) {
      const tensor = tensors.get(key);
      if (!tensor) throw new Error(`golden ${name}: no tensor ${key}. It has ${[...tensors.keys()].join(", ")}.`);
      return tensor;
    },
    names: (prefix) =>
      [...tensors.keys()].filter((key) => key.startsWith(prefix)).map((key) => key.slice(prefix.length)),
  };
}

/** Largest difference, divided by the largest expected value. */
export function relativeError(actual: HostTensor, expected: HostTensor): number {
  if (showShape(actual.shape) !== showShape(expected.shape)) {
    throw new Error(`shape ${showShape(actual.shape)}, expected ${showShape(expected.shape)}`);
  }
  const [a, b] = [toNumbers(actual), toNumbers(expected)];
  let difference = 0;
  let largest = 0;
  for (const [i, y] of b.entries()) {
    // Math.max passes NaN on, so that a NaN never counts as agreement.
    difference = Math.max(difference, Math.abs((a[i] as number) - y));
    largest = Math.max(largest, Math.abs(y));
  }
  return difference / largest;
}

/**
 * Computes outputs and gradients of a graph and compares them with the golden: outputs with `<at>output.<name>`, gradients with
 * respect to inputs and parameters with `<at>gradient.<name>`.
 */
export async function expectParity(
  runtime: Runtime,
  golden: Golden,
  {
    inputs,
    outputs,
    wrt,
    weights,
    at = "",
    results = at,
    given = {},
    tolerance = MODEL_TOLERANCE,
    split = false,
    rewrite = (graph) => graph,
  }: {
    inputs: Record<string, Value>;
    outputs: Record<string, Value>;
    /** Inputs and parameters to differentiate with respect to. The keys are the names after `gradient.`. */
    wrt: Record<string, Value>;
    weights?: WeightSource;
    /** Prefix of the names of tensors in the golden. */
    at?: string;
    /** Prefix of the outputs and gradients, if it differs. */
    results?: string;
    /** Inputs that replace those of the golden. */
    given?: Record<string, HostTensor>;
    /** Bounds the largest error over the largest value, and |actual − expected| / |expected|. */
    tolerance?: number;
    /** Forward and backward pass are two programs. The second one starts from the residuals of the first. */
    split?: boolean;
    /** Rewrites the graph before it is compiled. */
    rewrite?: (graph: Graph) => Graph;
  },
): Promise<void> {
  const upstream = Object.fromEntries(Object.entries(outputs).map(([name, { shape }]) => [name, input(shape)]));
  const found = gradients(
    Object.entries(outputs).map(([name, value]) => ({ value, gradient: upstream[name] as Value })),
    Object.values(wrt),
  );
  const named = (kind: string, values: Record<string, Value | undefined>) =>
    Object.entries(values).map(([name, value]) => {
      if (!value) throw new Error(`no gradient reaches ${name}`);
      return [`${kind}.${name}`, value] as const;
    });
  const graph = rewrite({
    name: "parity",
    inputs: Object.fromEntries([...named("input", inputs), ...named("upstream", upstream)]),
    outputs: Object.fromEntries([
      ...named("output", outputs),
      ...named("gradient", Object.fromEntries(Object.keys(wrt).map((name, i) => [name, found[i]]))),
    ]),
  });
  const feeds = Object.fromEntries(
    Object.entries(graph.inputs).map(([name, { shape, dtype }]) => {
      const tensor = given[name.replace("input.", "")] ?? golden.tensor(`${at}${name}`);
      return [name, tensor.dtype === dtype ? tensor : fromNumbers(toNumbers(tensor), shape, dtype)];
    }),
  );
  const computed = split
    ? await runSplit(runtime, graph, feeds, weights)
    : await runWhole(runtime, graph, feeds, weights);
  const errors = Object.entries(computed).map(([name, tensor]) => {
    const expected = golden.tensor(`${results}${name}`);
    return [name, Math.max(relativeError(tensor, expected), distance(toNumbers(tensor), toNumbers(expected)))] as const;
  });
  expect(errors.filter(([, error]) => !(error < tolerance))).toEqual([]);
}

async function runWhole(runtime: Runtime, graph: Graph, feeds: Feeds, weights?: WeightSource) {
  const program = await runtime.compile(graph, weights);
  const results = await program.run(feeds);
  await program.release();
  return results;
}

async function runSplit(runtime: Runtime, graph: Graph, feeds: Feeds, weights?: WeightSource) {
  const outputs = Object.keys(graph.outputs).filter((name) => name.startsWith("output."));
  const { forward, backward, residuals } = splitAtResiduals(graph, outputs);
  const forwardProgram = await runtime.compile(forward, weights);
  const backwardProgram = await runtime.compile(backward, weights);
  const forwardFeeds = Object.entries(feeds).filter(([name]) => name in forward.inputs);
  const { outputs: predicted, kept } = await forwardProgram.runSaving(Object.fromEntries(forwardFeeds), residuals);
  const found = await backwardProgram.run(feeds, kept);
  for (const resource of [kept, forwardProgram, backwardProgram]) await resource.release();
  return { ...predicted, ...found };
}
