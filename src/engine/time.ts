/** A rough time of a run on the CPU, counted without running it. It serves to compare plans. */
import type { Graph } from "../graph/graph.js";
import { programSize } from "../onnx/program-size.js";
import { holdingOf } from "../runtime/holding.js";
import { scorerCalls } from "../scoring/index.js";
import { type CallCounts, countCalls } from "./calls.js";
import type { Division } from "./division.js";
import { flops } from "./flops.js";
import type { TrainingGraphs } from "./graphs.js";
import type { MemoryPlan } from "./memory-plan.js";
import type { TrainingSetup } from "./setup.js";
import { recomputesJointly } from "./unet-vjp.js";

/** Floating-point operations per second, all threads together: two cores with AVX-512. */
const OPERATIONS_PER_SECOND = 250e9;

/** Time of a call with mapped weights, relative to packed ones: 1.05 forward and 1.10 for gradients were measured. */
const MAPPED_SLOWDOWN = 1.08;

/** Time to compile a program, per byte of weights that its kernels copy, and per byte that is computed for them. */
const SECONDS_PER_PACKED_BYTE = 1.2e-9;
const SECONDS_PER_FOLDED_BYTE = 9e-9;

/** A program and how often a training step calls it. */
export interface ProgramCalls {
  readonly graph: Graph;
  readonly calls: number;
}

/** The calls of all programs in a training step. */
export function programCalls(
  graphs: TrainingGraphs,
  { forward, backwardSaved, backwardRecomputed, scored }: CallCounts,
  memory: Pick<MemoryPlan, "maxSavedCalls" | "packUpTo">,
): ProgramCalls[] {
  const jointly = recomputesJointly(graphs, memory) ? backwardRecomputed : 0;
  const split = backwardSaved + backwardRecomputed - jointly;
  return [
    { graph: graphs.sampler.denoise, calls: forward - backwardSaved },
    { graph: graphs.split.forward, calls: split },
    { graph: graphs.split.backward, calls: split },
    { graph: graphs.vjp, calls: jointly },
    ...scorerCalls(graphs.scorer).map(({ graph, calls }) => ({ graph, calls: calls * scored })),
  ].filter(({ calls }) => calls > 0);
}

/** Seconds of a run's training steps, and of compiling their programs. */
export async function roughSeconds(
  setup: TrainingSetup,
  division: Division,
  graphs: TrainingGraphs,
  memory: MemoryPlan,
): Promise<number> {
  const counts = await countCalls(setup, division, memory.maxSavedCalls);
  let seconds = 0;
  for (const { graph, calls } of programCalls(graphs, counts, memory)) {
    const holding = holdingOf(graph, memory.packUpTo);
    const { packed, folded } = programSize(graph, holding);
    const slowdown = holding === "mapped" ? MAPPED_SLOWDOWN : 1;
    seconds += (setup.settings.train.steps * calls * flops(graph) * slowdown) / OPERATIONS_PER_SECOND;
    seconds += packed * SECONDS_PER_PACKED_BYTE + folded * SECONDS_PER_FOLDED_BYTE;
  }
  return seconds;
}
