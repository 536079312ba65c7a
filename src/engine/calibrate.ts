/** Times the programs of a plan on this machine. */

import type { Graph } from "../graph/graph.js";
import { isLarge } from "../runtime/holding.js";
import type { Runtime } from "../runtime/runtime.js";
import { fromNumbers } from "../tensor/host.js";
import { sizeOf } from "../tensor/shape.js";
import { merge, type WeightSource } from "../weights/source.js";
import { countCalls } from "./calls.js";
import { modelledSeconds } from "./node-times.js";
import type { Plan, PlanEstimate, PlanOption } from "./plan.js";
import type { TrainingSetup } from "./setup.js";
import { type ProgramCalls, programCalls } from "./time.js";
import type { Work } from "./work.js";

/**
 * Estimates the time of a run, and of the same run with other memory budgets. Small programs are compiled in all runtimes, and a
 * call is timed; replicas that work side by side take about as long as one of them. The time of large programs is that of their
 * operations (`node-times.ts`).
 *
 * @param others work of the same run for other budgets
 */
export async function calibrate(
  runtimes: readonly Runtime[],
  setup: TrainingSetup,
  { work, others }: { readonly work: Work; readonly others: readonly Work[] },
  plan: Plan,
): Promise<PlanEstimate> {
  const [runtime] = runtimes as [Runtime];
  const training = await callsPerStep(setup, work);
  const evaluation = callsPerEvaluation(setup, work, plan);
  const alternatives = await Promise.all(
    others.map(async (other) => ({ other, calls: await callsPerStep(setup, other) })),
  );
  const weights = merge(setup.pipeline.weights, setup.reward.weights);
  const all = [...training, ...evaluation, ...alternatives.flatMap(({ calls }) => calls)];
  const isModelled = ({ graph, packUpTo }: PlannedCalls) => isLarge(graph, runtime.holdingOf(graph, packUpTo));
  const modelled = await modelledSeconds(runtime, all.filter(isModelled));
  const timed = new Map<Graph, Promise<number>>();
  const secondsOf = async (program: PlannedCalls): Promise<number> => {
    const { graph, packUpTo } = program;
    if (isModelled(program)) return modelled(graph, packUpTo);
    const known = timed.get(graph) ?? secondsPerCall(runtimes, program, weights);
    timed.set(graph, known);
    return known;
  };
  const total = async (programs: readonly PlannedCalls[]) => {
    let seconds = 0;
    for (const program of programs) seconds += program.calls * (await secondsOf(program));
    return seconds;
  };
  // Calls are counted over all replicas, which work side by side.
  const secondsPerStep = (await total(training)) / work.division.replicas;
  const secondsPerEvaluation = await total(evaluation);
  const options: PlanOption[] = [];
  for (const { other, calls } of alternatives) {
    const { division, memory } = other;
    const seconds = (await total(calls)) / division.replicas;
    // More memory must be worth it.
    if (options.every((option) => seconds < 0.99 * option.secondsPerStep)) {
      const unetWeights = runtime.holdingOf(other.graphs.sampler.denoise, memory.packUpTo);
      options.push({ microBatch: division.microBatch, memory, unetWeights, secondsPerStep: seconds });
    }
  }
  return {
    secondsPerStep,
    secondsPerEvaluation,
    seconds: plan.steps * secondsPerStep + plan.evaluations * secondsPerEvaluation,
    options,
  };
}

/** Calls of a program that a plan compiles. */
interface PlannedCalls extends ProgramCalls {
  readonly packUpTo: number;
  /** Outputs that stay in the runtime in training. */
  readonly keep?: readonly string[];
}

async function callsPerStep(setup: TrainingSetup, { graphs, division, memory }: Work): Promise<PlannedCalls[]> {
  const counts = await countCalls(setup, division, memory.maxSavedCalls);
  const { split } = graphs;
  return programCalls(graphs, counts, memory).map((calls) => ({
    ...calls,
    packUpTo: memory.packUpTo,
    ...(calls.graph === split.forward && { keep: split.residuals }),
  }));
}

function callsPerEvaluation(
  { settings }: TrainingSetup,
  { graphs, division, memory }: Work,
  plan: Plan,
): PlannedCalls[] {
  const rounds = Math.ceil(plan.imagesPerEvaluation / (division.evaluationBatch * division.replicas));
  const { sampler, scorer } = graphs.evaluation;
  const { packUpTo } = memory;
  return [
    { graph: sampler.denoise, calls: rounds * settings.sampling.steps, packUpTo },
    { graph: sampler.decode, calls: rounds, packUpTo },
    ...scorer.map(({ graph }) => ({ graph, calls: rounds, packUpTo })),
  ];
}

/** The time of a call when all runtimes make one at the same time. */
async function secondsPerCall(
  runtimes: readonly Runtime[],
  program: PlannedCalls,
  weights: WeightSource,
): Promise<number> {
  return Math.max(...(await Promise.all(runtimes.map((runtime) => secondsOfSecondCall(runtime, program, weights)))));
}

/** The first call allocates memory. */
async function secondsOfSecondCall(
  runtime: Runtime,
  { graph, packUpTo, keep = [] }: PlannedCalls,
  weights: WeightSource,
): Promise<number> {
  runtime.packUpTo = packUpTo;
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
