/**
 * Memory against time. Keeping a U-Net call's residuals spares computing its forward pass again on the way back; how many
 * calls are kept follows from a budget for the whole process.
 */

import { laneSettings, type Settings, threadsOf } from "../config/settings.js";
import { InputError } from "../errors/index.js";
import type { Estimator } from "../estimators/estimator.js";
import { needsBase } from "../estimators/estimator.js";
import { type Graph, topologicalOrder } from "../graph/graph.js";
import { liveBytes } from "../graph/live-bytes.js";
import { bytesOf, type Value } from "../graph/value.js";
import { showBytes } from "../io/bytes.js";
import type { LearnedLayout } from "../pipeline/parameters.js";
import type { Pipeline } from "../pipeline/pipeline.js";
import type { Precision } from "../pipeline/precision.js";
import type { Reward } from "../rewards/index.js";
import { returnsMemory } from "../runtime/runtime.js";
import type { ImageShape } from "../scoring/diversity.js";
import { judgeCalls } from "../scoring/graphs.js";
import { type Watch, watchGraphs } from "../scoring/monitors.js";
import { sizeOf } from "../tensor/shape.js";
import { type TrainingGraphs, trainingGraphs } from "./graphs.js";
import { backwardCalls, drawnWalks } from "./groups.js";

export interface MemoryPlan {
  /** Copies of the programs that work side by side (`lanes.ts`); what follows is of one of them, but for `expectedBytes`. */
  readonly lanes: number;
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
  /** The peak to stay within; null: `free`, and where that is too little nothing is kept. */
  readonly budget: number | null;
  /** Half of the memory that is free now. */
  readonly free: number;
  /** Calls that could be kept at once; `all`: there are no others. */
  readonly keepable: number;
  readonly all: boolean;
  /** Programs that look at the evaluation's pictures beside the reward. */
  readonly watching?: readonly Graph[];
  /** x_t of all pictures that walk back together. */
  readonly trajectoryBytes: number;
  /** Whether the base model's parameters are there as well. */
  readonly compares: boolean;
}

/**
 * For a run with these settings: what its draws ask for, within `settings.memory`. On the processor small nets take a lane for
 * each thread, where the budget allows. `processes` share this machine's memory.
 */
export function memoryOf(
  settings: Settings,
  pipeline: Pipeline,
  reward: Reward,
  layout: LearnedLayout,
  estimator: Estimator,
  precision: Precision = "float32",
  watch: Watch = {},
  processes = 1,
): MemoryPlan {
  const lanes = lanesOf(settings, pipeline);
  const plan = (count: number) =>
    laneMemory(settings, count, pipeline, reward, layout, estimator, precision, watch, processes);
  if (lanes === 1) return plan(1);
  try {
    return plan(lanes);
  } catch (error) {
    // A budget that is too little for several may do for one.
    if (error instanceof InputError) return plan(1);
    throw error;
  }
}

/** Weights of the U-Net, of all lanes together, up to which there are several. */
const MOST_LANE_WEIGHTS = 2 ** 28;

/** The most that divide a micro-batch, with a thread each at least. */
function lanesOf(settings: Settings, { weights }: Pipeline): number {
  const { device, batch } = settings;
  if (device !== "cpu") return 1;
  let bytes = 0;
  for (const name of weights.names()) {
    if (name.startsWith("unet.")) bytes += 4 * sizeOf(weights.get(name)?.shape ?? []);
  }
  const most = Math.min(threadsOf(settings), Math.floor(MOST_LANE_WEIGHTS / Math.max(bytes, 1)));
  for (let lanes = most; lanes > 1; lanes--) if (batch.per_device % lanes === 0) return lanes;
  return 1;
}

function laneMemory(
  all: Settings,
  lanes: number,
  pipeline: Pipeline,
  reward: Reward,
  layout: LearnedLayout,
  estimator: Estimator,
  precision: Precision,
  watch: Watch,
  processes: number,
): MemoryPlan {
  const settings = laneSettings(all, lanes);
  const onCpu = settings.device === "cpu";
  // Of halves the CPU makes float32 before it computes with them.
  const graphs = trainingGraphs(settings, pipeline, reward, layout, estimator, onCpu ? "float32" : precision);
  const walks = drawnWalks(settings, estimator).flat();
  const { per_device: batch } = settings.batch;
  const calls = walks.map((walk) => backwardCalls(walk, batch, Number.POSITIVE_INFINITY));
  // An estimator that learns from the pictures later keeps the chains of them all, and a call's residuals at a time.
  const isRound = estimator.kind === "round";
  const pictures = isRound ? settings.batch.total / lanes : Math.max(...walks.map((walk) => walk.flat().length));
  // Elsewhere residuals would cross between host and device and back.
  const keeps = onCpu && precision === "float32";
  const compares = needsBase(settings, estimator);
  const plan = planMemory(graphs, {
    // Each lane has its part of what the process itself does not take.
    budget: settings.memory === null ? null : PROCESS_BYTES + (settings.memory - PROCESS_BYTES) / lanes,
    free: PROCESS_BYTES + (process.availableMemory() / 2 / processes - PROCESS_BYTES) / lanes,
    keepable: keeps ? Math.max(isRound ? 1 : 0, ...calls.map(({ kept }) => kept)) : 0,
    watching: watchGraphs(watch, (graphs.evaluation.decode.outputs.images as Value).shape as unknown as ImageShape),
    // Calls of the base model come on top of the walk's.
    all: keeps && !estimator.usesBase && calls.every(({ recomputed }) => recomputed === 0),
    trajectoryBytes:
      // Beside the base model's outputs there must be those of the chain.
      ((compares ? 2 : 1) * settings.sampling.steps * pictures * bytesOf(graphs.forward.inputs.latents as Value)) /
      batch,
    compares,
  });
  return { ...plan, lanes, expectedBytes: PROCESS_BYTES + lanes * (plan.expectedBytes - PROCESS_BYTES) };
}

/** Node with ONNX Runtime loaded, and what it takes to pass tensors around. */
const PROCESS_BYTES = 200e6;

/** Kernels like their weights in an order of their own; some hold them a second time. */
const PACKING = 0.2;

/** What a program takes above what its values need at one time: scratch space of kernels, and gaps. */
const SURPLUS = 1.5;

/**
 * Of each element that learns: the master, two moments, the gradient and a call's sums in float64, a call's copy of the
 * master on its way to the runtime and there, and of the gradient back.
 */
const BYTES_PER_LEARNED = 4 + 2 * 4 + 2 * 8 + 4 * 4;

/** The base model's, and a call's copy of it. */
const BYTES_PER_BASE = 2 * 4;

export function planMemory(graphs: TrainingGraphs, options: MemoryOptions): Omit<MemoryPlan, "lanes"> {
  const { keepable, all, watching = [], trajectoryBytes, compares } = options;
  const { text, forward, vjp, split, judge, evaluation } = graphs;
  const { residualBytes } = split;
  // The evaluation samples with the training's own program where its batch is as large.
  const always = new Set([
    text,
    forward,
    ...judgeCalls(judge).map(({ graph }) => graph),
    evaluation.forward,
    evaluation.decode,
    ...evaluation.judge.map(({ graph }) => graph),
    ...watching,
  ]);
  const learned = sizeOf((forward.inputs.parameters as Value).shape);
  const perLearned = BYTES_PER_LEARNED + (compares ? BYTES_PER_BASE : 0);
  const base = PROCESS_BYTES + trajectoryBytes + learned * perLearned;
  const expected = (kept: number, recomputes: boolean) =>
    base +
    programBytes([...always, ...(recomputes ? [vjp] : []), ...(kept > 0 ? [split.forward, split.backward] : [])]) +
    // A call's own residuals are among the forward program's values.
    Math.max(0, kept - 1) * residualBytes;
  const recomputing = expected(0, true);

  const { budget } = options;
  const least = all ? Math.min(recomputing, expected(keepable, false)) : recomputing;
  if (budget !== null && budget < least) {
    throw new InputError(
      "not-finite",
      `memory ${showBytes(budget)} is too little: this run needs about ${showBytes(least)} even where it keeps the least. ` +
        "Allow that much, or lower batch.per_device or the size of the pictures",
    );
  }
  const limit = budget ?? options.free;
  if (all && keepable > 0 && expected(keepable, false) <= limit) {
    return { keptAtOnce: keepable, recomputes: false, residualBytes, expectedBytes: expected(keepable, false) };
  }
  const affordable = 1 + Math.floor((limit - expected(1, true)) / residualBytes);
  const keptAtOnce = Math.max(0, Math.min(keepable, affordable));
  return { keptAtOnce, recomputes: true, residualBytes, expectedBytes: expected(keptAtOnce, true) };
}

/** Of programs that live side by side, each used in its turn. */
function programBytes(graphs: readonly Graph[]): number {
  const returning = graphs.filter(returnsMemory).map(workingBytes);
  const keeping = graphs.filter((graph) => !returnsMemory(graph)).map(workingBytes);
  return sum(graphs.map(weightBytes)) + sum(keeping) + Math.max(0, ...returning);
}

const workingBytes = (graph: Graph) => liveBytes(graph) * SURPLUS;

/** Weights that the file holds as the graph reads them stay mapped beside the kernels' copy. */
function weightBytes(graph: Graph): number {
  const weights = new Map<string, number>();
  for (const { op, inputs, outputs } of topologicalOrder(Object.values(graph.outputs))) {
    const [output] = outputs as [Value];
    // Whatever the file holds, the runtime has what the graph casts it to.
    const stored = op.name === "cast" ? (inputs[0] as Value) : output;
    if (stored.node.op.name !== "parameter") continue;
    const copies = stored === output ? 2 : 1 + PACKING;
    weights.set((stored.node.attrs as { name: string }).name, bytesOf(output) * copies);
  }
  return sum([...weights.values()]);
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
