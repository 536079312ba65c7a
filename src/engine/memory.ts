/**
 * Memory against time. Saving the residuals of a U-Net call spares recomputing its forward pass; a memory budget for the whole
 * process decides how many calls are saved at the same time.
 */
import { needsBaseModel } from "../estimators/index.js";
import type { Graph } from "../graph/graph.js";
import { bytesOf, type Value } from "../graph/value.js";
import { programSize } from "../onnx/program-size.js";
import { holdingOf, isLarge, PACKED_UP_TO, returnsMemory } from "../runtime/holding.js";
import { scorerCalls } from "../scoring/index.js";
import { type CallCounts, countCalls } from "./calls.js";
import type { Division } from "./division.js";
import type { TrainingGraphs } from "./graphs.js";
import type { MemoryPlan } from "./memory-plan.js";
import type { TrainingSetup } from "./setup.js";
import { roughSeconds } from "./time.js";
import { recomputesJointly } from "./unet-vjp.js";

/** Node with ONNX Runtime loaded, and buffers to pass tensors between threads. */
const PROCESS_BYTES = 240e6;

/** Peak of a program relative to its values: scratch space of kernels, and gaps. Packed kernels reorder images besides. */
const SURPLUS = { mapped: 1.05, packed: 1.15 };

/** The share of a budget that a run may fill with memory that the system cannot drop, if its mapped files do not fit beside. */
const SHARE_WITHOUT_FILES = 0.9;

/**
 * Per trainable parameter: the master weight, two moments, the gradient and the sums of a call in float64, a copy of the
 * weights on the way to the runtime and one there, and the same for the gradient on its way back.
 */
const BYTES_PER_PARAMETER = 4 + 2 * 4 + 2 * 8 + 4 * 4;

/** Per parameter of the base model: the value, and a copy of it in the runtime. */
const BYTES_PER_BASE_PARAMETER = 2 * 4;

/**
 * Plans the memory of a run. Returns the fastest plan within `limit` bytes, or the least number of bytes that one needs.
 */
export async function planMemory(
  setup: TrainingSetup,
  division: Division,
  graphs: TrainingGraphs,
  limit: number,
): Promise<MemoryPlan | { readonly least: number }> {
  const { settings, estimator, layout } = setup;
  const { replicas } = division;
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
  const always = [...programsOf(setup, graphs)];
  const { vjp } = unetGraphs(setup, graphs);

  const plan = (packUpTo: number, maxSavedCalls: number, recomputes: boolean): MemoryPlan => {
    const jointly = recomputesJointly(graphs, { maxSavedCalls, packUpTo });
    // A text encoder that maps its weights is released after each use.
    const present = always.filter((graph) => graph !== graphs.sampler.text || holdingOf(graph, packUpTo) === "packed");
    const saved = maxSavedCalls * residualBytes;
    /** The residuals of a call that recomputes by the split programs, beside the saved ones. */
    const recomputed = recomputes && !jointly ? residualBytes : 0;
    const loaded = programBytes(
      [
        ...present.map((graph) => ({ graph, held: saved })),
        ...(maxSavedCalls === 0
          ? []
          : [
              // The residuals of its own call are among the forward program's outputs.
              { graph: graphs.split.forward, held: saved + recomputed - residualBytes },
              { graph: graphs.split.backward, held: saved + recomputed },
            ]),
        ...(recomputes && jointly ? [{ graph: vjp, held: saved }] : []),
      ],
      packUpTo,
    );
    return {
      replicas,
      maxSavedCalls,
      recomputes,
      residualBytes,
      packUpTo,
      expectedBytes: PROCESS_BYTES + replicas * (ownBytes + loaded.total),
      mappedBytes: replicas * (loaded.total - loaded.unmapped),
    };
  };
  /** The plan that saves as many calls as fit, or undefined if not even a plan without saved calls does. */
  const within = (fits: (plan: MemoryPlan) => boolean, packUpTo: number): MemoryPlan | undefined => {
    const withoutRecomputing = savesAll && mostSaved > 0 ? plan(packUpTo, mostSaved, false) : undefined;
    if (withoutRecomputing && fits(withoutRecomputing)) return withoutRecomputing;
    for (let saved = mostSaved; saved >= 0; saved--) {
      const found = plan(packUpTo, saved, true);
      if (fits(found)) return found;
    }
    return undefined;
  };

  const inBudget = ({ expectedBytes }: MemoryPlan) => expectedBytes <= limit;
  // A GPU holds its own copy of all weights.
  const [packing, leastPacked] = settings.device === "cpu" ? [PACKING_LIMITS, 0] : [[PACK_ALL], PACK_ALL];
  const packed = packing.flatMap((packUpTo) => within(inBudget, packUpTo) ?? []);
  const fastest = await fastestOf(setup, division, graphs, packed);
  const found =
    fastest ??
    within(inBudget, leastPacked) ??
    within((plan) => unmappedBytes(plan) <= SHARE_WITHOUT_FILES * limit, leastPacked);
  if (found) return found;
  const smallest = [...packing, leastPacked]
    .flatMap((packUpTo) => [plan(packUpTo, 0, true), ...(savesAll ? [plan(packUpTo, mostSaved, false)] : [])])
    .flatMap((plan) => [plan.expectedBytes, unmappedBytes(plan) / SHARE_WITHOUT_FILES]);
  return { least: Math.min(...smallest) };
}

const PACK_ALL = Number.POSITIVE_INFINITY;

/** Values of `MemoryPlan.packUpTo` that are compared where memory allows: all programs, or all but large networks. */
const PACKING_LIMITS = [PACK_ALL, PACKED_UP_TO];

/**
 * The plan that takes the least time over the whole run, or undefined if there is none. Small networks have one plan only, so
 * that their numbers do not depend on the number of steps.
 */
async function fastestOf(
  setup: TrainingSetup,
  division: Division,
  graphs: TrainingGraphs,
  plans: readonly MemoryPlan[],
): Promise<MemoryPlan | undefined> {
  const [first, ...others] = plans;
  if (others.every(({ expectedBytes }) => expectedBytes === first?.expectedBytes)) return first;
  const timed = await Promise.all(
    plans.map(async (plan) => ({ plan, seconds: await roughSeconds(setup, division, graphs, plan) })),
  );
  return timed.toSorted((a, b) => a.seconds - b.seconds)[0]?.plan;
}

/** Memory that the system cannot drop. */
const unmappedBytes = ({ expectedBytes, mappedBytes }: MemoryPlan) => expectedBytes - mappedBytes;

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

/** A program, and the bytes of saved residuals that stay in memory while it runs. */
interface LoadedProgram {
  readonly graph: Graph;
  readonly held: number;
}

/**
 * Peak bytes of programs that are compiled together and run one at a time. Of those that map their weights, one is loaded at a
 * time. `unmapped` is what the system cannot drop.
 */
function programBytes(programs: readonly LoadedProgram[], packUpTo: number): { total: number; unmapped: number } {
  let [always, mappedFile] = [0, 0];
  /** Peaks of single programs, beside what is always in memory. */
  const peaks: { file: number; unmapped: number; small: boolean }[] = [];
  for (const { graph, held } of programs) {
    const holding = holdingOf(graph, packUpTo);
    const size = programSize(graph, holding);
    const working = size.working * SURPLUS[holding];
    const file = holding === "mapped" ? sum([...size.parameters.values()]) : 0;
    mappedFile = Math.max(mappedFile, file);
    always += size.packed;
    const small = !isLarge(graph, holding);
    // An arena keeps its memory.
    const keeps = small && !returnsMemory(graph, holding);
    if (keeps) always += working;
    peaks.push({ file, small, unmapped: Math.max(held + (keeps ? 0 : working), size.folded) });
  }
  return {
    // The mapped program that ran last stays loaded while a small program runs.
    total: always + Math.max(...peaks.map(({ file, unmapped, small }) => unmapped + (small ? mappedFile : file))),
    unmapped: always + Math.max(...peaks.map(({ unmapped }) => unmapped)),
  };
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
