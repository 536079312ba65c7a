/**
 * Memory against time. Saving the residuals of a U-Net call spares recomputing its forward pass; a memory budget for the whole
 * process decides how many calls are saved at the same time.
 */
import { InputError } from "../errors/index.js";
import { needsBaseModel } from "../estimators/index.js";
import { type Graph, topologicalOrder } from "../graph/graph.js";
import { liveBytes } from "../graph/live-bytes.js";
import { bytesOf, type Value } from "../graph/value.js";
import { showBytes } from "../io/bytes.js";
import { returnsMemory } from "../runtime/runtime.js";
import { scorerCalls } from "../scoring/index.js";
import { type CallCounts, countCalls } from "./calls.js";
import type { Division } from "./division.js";
import type { TrainingGraphs } from "./graphs.js";
import type { TrainingSetup } from "./setup.js";
import { recomputesJointly } from "./unet-vjp.js";

export interface MemoryPlan {
  /** Copies of the programs (`replicas.ts`). The other numbers are for one of them, except `expectedBytes`. */
  readonly replicas: number;
  /** Number of U-Net calls whose residuals may be saved at the same time. */
  readonly maxSavedCalls: number;
  /** True if other calls recompute their forward pass. */
  readonly recomputes: boolean;
  /** Bytes of the residuals of one call. */
  readonly residualBytes: number;
  /** Estimated peak of the process. */
  readonly expectedBytes: number;
}

/** Node with ONNX Runtime loaded, and buffers to pass tensors between threads. */
const PROCESS_BYTES = 200e6;

/** Some kernels hold a copy of their weights in another order: this share of all weights. */
const PACKING = 0.2;

/** Peak of a program relative to the values that it needs at one time: scratch space of kernels, and gaps. */
const SURPLUS = 1.5;

/**
 * Per trainable parameter: the master weight, two moments, the gradient and the sums of a call in float64, a copy of the
 * weights on the way to the runtime and one there, and the same for the gradient on its way back.
 */
const BYTES_PER_PARAMETER = 4 + 2 * 4 + 2 * 8 + 4 * 4;

/** Per parameter of the base model: the value, and a copy of it in the runtime. */
const BYTES_PER_BASE_PARAMETER = 2 * 4;

/**
 * Plans the memory of a run within `settings.memory`.
 *
 * @throws InputError `memory-too-small` if the run needs more than `settings.memory` even without saved residuals
 */
export async function planMemory(
  setup: TrainingSetup,
  division: Division,
  graphs: TrainingGraphs,
): Promise<MemoryPlan> {
  const { settings, estimator, layout } = setup;
  const { replicas, localRanks } = division;
  // On a GPU, residuals would cross to the host and back.
  const canSave = settings.device === "cpu" && setup.precision === "float32";
  const wanted = await countCalls(setup, division, canSave ? Number.POSITIVE_INFINITY : 0);
  const { mostSaved } = wanted;
  // Calls of the base model use the same limit but are not counted in it, so they may be recomputed where others are not.
  const savesAll =
    canSave &&
    wanted.backwardRecomputed === 0 &&
    (await countCalls(setup, division, mostSaved)).backwardRecomputed === 0;
  const hasBase = needsBaseModel(settings.kl.weight, estimator);
  const ownBytes =
    trajectoryBytes(setup, division, graphs, wanted) +
    layout.size * (BYTES_PER_PARAMETER + (hasBase ? BYTES_PER_BASE_PARAMETER : 0));
  const { residualBytes } = graphs.split;
  const always = [...programsOf(setup, graphs)].map(sizeOfProgram);
  const vjp = sizeOfProgram(unetGraphs(setup, graphs).vjp);
  const split = [graphs.split.forward, graphs.split.backward].map(sizeOfProgram);
  const expected = (saved: number, recomputes: boolean) =>
    PROCESS_BYTES +
    ownBytes +
    programBytes([
      ...always,
      ...(saved > 0 ? split : []),
      ...(recomputes && recomputesJointly(graphs, saved) ? [vjp] : []),
    ]) +
    // The residuals of one call are among the forward program's values. A call that recomputes by the split programs holds
    // its own for a moment.
    Math.max(0, saved - (recomputes && !recomputesJointly(graphs, saved) ? 0 : 1)) * residualBytes;
  const plan = (maxSavedCalls: number, recomputes: boolean): MemoryPlan => {
    const bytes = PROCESS_BYTES + replicas * (expected(maxSavedCalls, recomputes) - PROCESS_BYTES);
    return { replicas, maxSavedCalls, recomputes, residualBytes, expectedBytes: bytes };
  };

  /** The share of one replica in the memory of the process. */
  const share = (bytes: number) => PROCESS_BYTES + (bytes - PROCESS_BYTES) / replicas;
  const withoutSaving = expected(0, true);
  const least = savesAll ? Math.min(withoutSaving, expected(mostSaved, false)) : withoutSaving;
  if (settings.memory !== null && share(settings.memory) < least) {
    const needed = PROCESS_BYTES + replicas * (least - PROCESS_BYTES);
    throw new InputError(
      "memory-too-small",
      `memory ${showBytes(settings.memory)} is too small: this run needs about ${showBytes(needed)} even if it saves no residuals. ` +
        "Allow that much, or lower batch.per_device or the image size.",
      { setting: "memory", found: settings.memory, expected: Math.ceil(needed) },
    );
  }
  const limit = share(settings.memory ?? process.availableMemory() / 2 / localRanks);
  if (savesAll && mostSaved > 0 && expected(mostSaved, false) <= limit) return plan(mostSaved, false);
  const affordable = 1 + Math.floor((limit - expected(1, true)) / residualBytes);
  return plan(Math.max(0, Math.min(mostSaved, affordable)), true);
}

/** x_t of all samples that a replica holds, and the outputs beside them if the run compares with the base model. */
function trajectoryBytes(
  { settings, estimator }: TrainingSetup,
  { microBatch }: Division,
  { sampler }: TrainingGraphs,
  { mostSamples }: CallCounts,
): number {
  const perSample = bytesOf(sampler.denoise.inputs.latents as Value) / microBatch;
  const arrays = needsBaseModel(settings.kl.weight, estimator) ? 2 : 1;
  return arrays * settings.sampling.steps * mostSamples * perSample;
}

/** The U-Net's graphs in the type that the device computes in. */
function unetGraphs({ settings }: TrainingSetup, { sampler, vjp, evaluation, float32 }: TrainingGraphs) {
  if (settings.device === "cpu") return float32;
  return { denoise: sampler.denoise, evaluationDenoise: evaluation.sampler.denoise, vjp };
}

/** Every program except the U-Net's VJP. */
function programsOf(setup: TrainingSetup, graphs: TrainingGraphs): ReadonlySet<Graph> {
  const { sampler, scorer, evaluation } = graphs;
  const { denoise, evaluationDenoise } = unetGraphs(setup, graphs);
  return new Set([
    sampler.text,
    denoise,
    ...scorerCalls(scorer).map(({ graph }) => graph),
    evaluationDenoise,
    evaluation.sampler.decode,
    ...evaluation.scorer.map(({ graph }) => graph),
    ...evaluation.monitors,
  ]);
}

/** Bytes of one program. */
interface ProgramSize {
  readonly weights: number;
  readonly working: number;
  /** True if the program returns its working memory after each run. */
  readonly returns: boolean;
}

const sizeOfProgram = (graph: Graph): ProgramSize => ({
  weights: weightBytes(graph),
  working: liveBytes(graph) * SURPLUS,
  returns: returnsMemory(graph),
});

/** Bytes of programs that are loaded together and run one at a time. */
function programBytes(programs: readonly ProgramSize[]): number {
  const returning = programs.filter(({ returns }) => returns).map(({ working }) => working);
  const keeping = programs.filter(({ returns }) => !returns).map(({ working }) => working);
  return sum(programs.map(({ weights }) => weights)) + sum(keeping) + Math.max(0, ...returning);
}

/** Weights that the graph reads as the file stores them stay mapped beside the kernels' copy. */
function weightBytes(graph: Graph): number {
  const weights = new Map<string, number>();
  for (const { op, inputs, outputs } of topologicalOrder(Object.values(graph.outputs))) {
    const [output] = outputs as [Value];
    // The runtime holds what a cast makes of a stored weight.
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
