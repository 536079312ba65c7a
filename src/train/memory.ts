/**
 * Memory against time. Keeping a U-Net call's residuals spares computing its forward pass again on the way back; how many
 * calls are kept follows from a budget for the whole process.
 */
import { type Graph, topologicalOrder } from "../graph/graph.js";
import { bytesOf, type Value } from "../graph/value.js";
import type { Reward } from "../rewards/index.js";
import { showBytes } from "../tensor/bytes.js";
import { InputError } from "../tensor/errors.js";
import { sizeOf } from "../tensor/shape.js";
import type { Estimator } from "./estimators/estimator.js";
import { type TrainingGraphs, trainingGraphs } from "./graphs.js";
import type { LearnedLayout } from "./learned.js";
import type { Pipeline } from "./pipeline.js";
import type { Precision } from "./precision.js";
import type { Settings } from "./settings.js";
import { backwardCalls, drawnWalks } from "./walks.js";

export interface MemoryPlan {
  /** Calls whose residuals are held at once, at most. */
  readonly keptAtOnce: number;
  /** Whether other calls remain, whose forward pass is computed twice. */
  readonly recomputes: boolean;
  /** Residuals of one call. */
  readonly residualBytes: number;
  /** The process's peak, estimated. */
  readonly expectedBytes: number;
}

export interface MemoryOptions {
  /** The peak to stay within; null: half of the memory that is free now, and where that is too little nothing is kept. */
  readonly budget: number | null;
  /** Calls that could be kept at once; `all`: there are no others. */
  readonly keepable: number;
  readonly all: boolean;
  /** x_t of all pictures that walk back together. */
  readonly trajectoryBytes: number;
}

/** For a run with these settings: what its draws ask for, within `settings.memory`. */
export function memoryOf(
  settings: Settings,
  pipeline: Pipeline,
  reward: Reward,
  layout: LearnedLayout,
  estimator: Estimator,
  precision: Precision = "float32",
): MemoryPlan {
  const onCpu = settings.device === "cpu";
  // Of halves the CPU makes float32 before it computes with them.
  const graphs = trainingGraphs(settings, pipeline, reward, layout, estimator, onCpu ? "float32" : precision);
  const walks = drawnWalks(settings, estimator).flat();
  const { per_device: batch } = settings.batch;
  const calls = walks.map((walk) => backwardCalls(walk, batch, Number.POSITIVE_INFINITY));
  const pictures = Math.max(...walks.map((walk) => walk.flat().length));
  // Elsewhere residuals would cross between host and device and back.
  const keeps = onCpu && precision === "float32";
  return planMemory(graphs, {
    budget: settings.memory,
    keepable: keeps ? Math.max(...calls.map(({ kept }) => kept)) : 0,
    all: keeps && calls.every(({ recomputed }) => recomputed === 0),
    trajectoryBytes: (settings.sampling.steps * pictures * bytesOf(graphs.forward.inputs.latents as Value)) / batch,
  });
}

/** Node with ONNX Runtime loaded, and what it takes to pass tensors around. */
const PROCESS_BYTES = 200e6;

/** Kernels like their weights in an order of their own and hold them a second time. */
const COPIES_OF_WEIGHTS = 2;

/** What an arena holds above what a graph's values need at one time: scratch space of kernels, and gaps. */
const ARENA_SURPLUS = 1.5;

/**
 * Of each element that learns: the master, two moments, the gradient and a call's sums in float64, a call's copy of the
 * master on its way to the runtime and there, and of the gradient back.
 */
const BYTES_PER_LEARNED = 4 + 2 * 4 + 2 * 8 + 4 * 4;

export function planMemory(graphs: TrainingGraphs, options: MemoryOptions): MemoryPlan {
  const { keepable, all, trajectoryBytes } = options;
  const { text, forward, vjp, split, reward, evaluation } = graphs;
  const { residualBytes } = split;
  // The evaluation samples with the training's own program where its batch is as large.
  const always = new Set([text, forward, reward, ...Object.values(evaluation)]);
  const learned = sizeOf((forward.inputs.parameters as Value).shape);
  const base = PROCESS_BYTES + trajectoryBytes + learned * BYTES_PER_LEARNED + sum([...always].map(programBytes));
  const recomputing = base + programBytes(vjp);
  // The forward graph's residuals are counted by themselves.
  const keepingPrograms =
    weightBytes(split.forward) * COPIES_OF_WEIGHTS + arenaBytes(forward) + programBytes(split.backward);
  const expected = (kept: number, recomputes: boolean) =>
    (recomputes ? recomputing : base) + (kept > 0 ? keepingPrograms + kept * residualBytes : 0);

  const { budget } = options;
  const least = all ? Math.min(recomputing, expected(keepable, false)) : recomputing;
  if (budget !== null && budget < least) {
    throw new InputError(
      `memory ${showBytes(budget)} is too little: this run needs about ${showBytes(least)} even where it keeps the least. ` +
        "Allow that much, or lower batch.per_device or the size of the pictures",
    );
  }
  const limit = budget ?? process.availableMemory() / 2;
  if (all && keepable > 0 && expected(keepable, false) <= limit) {
    return { keptAtOnce: keepable, recomputes: false, residualBytes, expectedBytes: expected(keepable, false) };
  }
  const affordable = Math.floor((limit - expected(0, true) - keepingPrograms) / residualBytes);
  const keptAtOnce = Math.max(0, Math.min(keepable, affordable));
  return { keptAtOnce, recomputes: true, residualBytes, expectedBytes: expected(keptAtOnce, true) };
}

const programBytes = (graph: Graph) => weightBytes(graph) * COPIES_OF_WEIGHTS + arenaBytes(graph);

function weightBytes(graph: Graph): number {
  const weights = new Map<string, number>();
  for (const { op, inputs, outputs } of topologicalOrder(Object.values(graph.outputs))) {
    const [output] = outputs as [Value];
    // Whatever the file holds, the runtime has what the graph casts it to.
    const stored = op.name === "cast" ? (inputs[0] as Value) : output;
    if (stored.node.op.name === "parameter") weights.set((stored.node.attrs as { name: string }).name, bytesOf(output));
  }
  return sum([...weights.values()]);
}

/** The most that is alive at one time when the nodes run in order. A reshape is the value that it views. */
function arenaBytes(graph: Graph): number {
  const order = topologicalOrder(Object.values(graph.outputs)).filter(({ inputs }) => inputs.length > 0);
  const views = new Map<Value, Value>();
  const held = (value: Value) => views.get(value) ?? value;
  const lastUse = new Map<Value, number>();
  for (const [i, { op, inputs, outputs }] of order.entries()) {
    if (op.name === "reshape") views.set(outputs[0] as Value, held(inputs[0] as Value));
    for (const value of [...inputs, ...outputs]) lastUse.set(held(value), i);
  }
  const ending = order.map((): Value[] => []);
  for (const [value, i] of lastUse) if (value.node.inputs.length > 0) ending[i]?.push(value);
  let alive = 0;
  let most = 0;
  for (const [i, { outputs }] of order.entries()) {
    for (const value of outputs) if (!views.has(value)) alive += bytesOf(value);
    most = Math.max(most, alive);
    for (const value of ending[i] as Value[]) alive -= bytesOf(value);
  }
  return most * ARENA_SURPLUS;
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
