/** The compiled programs of a run. */
import type { Cluster } from "../cluster/index.js";
import {
  type CompiledReplica,
  compileReplicas,
  Ranks,
  Replicas,
  type TrainingSetup,
  type Work,
  type Workers,
} from "../engine/index.js";
import { Sampler } from "../pipeline/index.js";
import type { Runtime } from "../runtime/runtime.js";
import { Evaluator } from "../scoring/index.js";

export interface RunPrograms {
  /** All ranks and replicas of the run. */
  readonly workers: Workers;
  readonly evaluator: Evaluator;
  /** Numbers in the latents of one sample. */
  readonly latentElements: number;
}

export async function compileRun(
  runtimes: readonly Runtime[],
  setup: TrainingSetup,
  { graphs, memory }: Work,
  cluster: Cluster,
): Promise<RunPrograms> {
  const { settings, pipeline, reward, monitors, layout } = setup;
  const compiled = await compileReplicas(runtimes, setup, graphs, memory);
  const own = new Replicas(
    compiled.map(({ workers }) => workers),
    layout,
  );
  const { sampler: evaluationGraphs } = graphs.evaluation;
  /** The training sampler if its batch is as large, or another one with the same text encoder. */
  const samplerOf = async ({ runtime, engine: { sampler } }: CompiledReplica): Promise<Sampler> =>
    evaluationGraphs === graphs.sampler
      ? sampler
      : Sampler.compile(runtime, pipeline, settings.sampling, {
          graphs: evaluationGraphs,
          negativePrompt: settings.prompts.negative,
          prompts: sampler.prompts,
        });
  const replicas = await Promise.all(
    compiled.map(async (replica) => ({ runtime: replica.runtime, sampler: await samplerOf(replica) })),
  );
  return {
    workers: cluster.size === 1 ? own : new Ranks(cluster, own),
    evaluator: new Evaluator({ replicas, reward, settings, monitors, cluster }),
    latentElements: (compiled[0] as CompiledReplica).engine.latentElements,
  };
}
