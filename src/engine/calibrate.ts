/** Times the programs of a plan on this machine. */

import type { Graph } from "../graph/graph.js";
import { isLarge, type Runtime } from "../runtime/runtime.js";
import { fromNumbers } from "../tensor/host.js";
import { sizeOf } from "../tensor/shape.js";
import { merge, type WeightSource } from "../weights/source.js";
import { countCalls } from "./calls.js";
import { modelledSeconds } from "./node-times.js";
import type { Plan, PlanEstimate } from "./plan.js";
import type { TrainingSetup } from "./setup.js";
import { type ProgramCalls, programCalls } from "./time.js";
import type { Work } from "./work.js";

/**
 * Estimates the time of a run. Small programs are compiled in all runtimes, and a call is timed; replicas that work side by side
 * take about as long as one of them. The time of large programs is that of their operations (`node-times.ts`).
 */
export async function calibrate(
  runtimes: readonly Runtime[],
  setup: TrainingSetup,
  work: Work,
  plan: Plan,
): Promise<PlanEstimate> {
  const { settings, pipeline, reward } = setup;
  const { graphs, division, memory } = work;
  for (const runtime of runtimes) runtime.packUpTo = memory.packUpTo;
  const training = programCalls(graphs, await countCalls(setup, division, memory.maxSavedCalls), memory);
  const rounds = Math.ceil(plan.imagesPerEvaluation / (division.evaluationBatch * division.replicas));
  const { sampler, scorer } = graphs.evaluation;
  const evaluation: ProgramCalls[] = [
    { graph: sampler.denoise, calls: rounds * settings.sampling.steps },
    { graph: sampler.decode, calls: rounds },
    ...scorer.map(({ graph }) => ({ graph, calls: rounds })),
  ];
  const large = [...training, ...evaluation].filter(({ graph }) => isLargeIn(runtimes[0] as Runtime, graph));
  const modelled = await modelledSeconds(runtimes[0] as Runtime, large);
  const weights = merge(pipeline.weights, reward.weights);
  const timed = new Map<Graph, Promise<number>>();
  const secondsOf = (graph: Graph): Promise<number> | number => {
    if (large.some((program) => program.graph === graph)) return modelled(graph);
    const known = timed.get(graph) ?? secondsPerCall(runtimes, graph, { weights, keep: keptOutputs(work, graph) });
    timed.set(graph, known);
    return known;
  };
  const total = async (programs: readonly ProgramCalls[]) => {
    let seconds = 0;
    for (const { graph, calls } of programs) seconds += calls * (await secondsOf(graph));
    return seconds;
  };
  // Calls are counted over all replicas, which work side by side.
  const secondsPerStep = (await total(training)) / division.replicas;
  const secondsPerEvaluation = await total(evaluation);
  return {
    secondsPerStep,
    secondsPerEvaluation,
    seconds: plan.steps * secondsPerStep + plan.evaluations * secondsPerEvaluation,
  };
}

const isLargeIn = (runtime: Runtime, graph: Graph) => isLarge(graph, runtime.holdingOf(graph));

/** The outputs that stay in the runtime in training. */
function keptOutputs({ graphs: { split } }: Work, graph: Graph): readonly string[] {
  return graph === split.forward ? split.residuals : [];
}

interface TimedProgram {
  readonly weights: WeightSource;
  readonly keep: readonly string[];
}

/** The time of a call when all runtimes make one at the same time. */
async function secondsPerCall(runtimes: readonly Runtime[], graph: Graph, program: TimedProgram): Promise<number> {
  return Math.max(...(await Promise.all(runtimes.map((runtime) => secondsOfSecondCall(runtime, graph, program)))));
}

/** The first call allocates memory. */
async function secondsOfSecondCall(runtime: Runtime, graph: Graph, { weights, keep }: TimedProgram): Promise<number> {
  const program = await runtime.compile(graph, weights);
  const feeds = Object.fromEntries(
    Object.entries(graph.inputs).map(([name, { shape, dtype }]) => [
      name,
      fromNumbers(new Float64Array(sizeOf(shape)), shape, dtype),
    ]),
  );
  const call = async () => (await program.runSaving(feeds, keep)).kept.release();
  await call();
  const began = performance.now();
  await call();
  const seconds = (performance.now() - began) / 1000;
  await program.release();
  return seconds;
}
