/** What a run will cost, without running it: counted from its graphs and its draws, timed on a few calls. */
import type { Graph } from "../graph/graph.js";
import type { LoraLayout } from "../nn/lora.js";
import { openReward, type Reward } from "../rewards/index.js";
import { Runtime } from "../runtime/runtime.js";
import { fromNumbers } from "../tensor/host.js";
import { sizeOf } from "../tensor/shape.js";
import { merge, type WeightSource } from "../weights/source.js";
import { adapterLayout } from "./adapter.js";
import { alignprop } from "./estimators/alignprop.js";
import type { Estimator } from "./estimators/estimator.js";
import { REWARDS_FOLDER, runtimeOptions } from "./evaluate.js";
import type { Plan, PlanEstimate } from "./events.js";
import { flops } from "./flops.js";
import { decodeGraph, denoiseGraph, denoiseVjpGraph, rewardGraph } from "./graphs.js";
import { locate } from "./locate.js";
import { latentSize, openPipeline, type Pipeline } from "./pipeline.js";
import { samplesOf } from "./samples.js";
import { accumulationSteps, type Settings } from "./settings.js";

/** `calibrate` compiles the run's programs and times a call of each. */
export async function plan(settings: Settings, { calibrate = true }: { calibrate?: boolean } = {}): Promise<Plan> {
  const pipeline = await openPipeline(locate(settings.model));
  const reward = await openReward(settings.reward.name, locate(REWARDS_FOLDER));
  const estimator = alignprop(settings.estimator.truncation);
  const layout = adapterLayout(pipeline, settings.lora);
  const counted = countPlan(settings, pipeline, reward, layout, estimator);
  if (!calibrate) return counted;

  const runtime = await Runtime.start(runtimeOptions(settings));
  try {
    const graphs = programs(settings, pipeline, reward, layout, estimator);
    return {
      ...counted,
      estimate: await timed(runtime, counted, graphs, settings, merge(pipeline.weights, reward.weights)),
    };
  } finally {
    await runtime.close();
  }
}

interface Programs {
  readonly forward: Graph;
  readonly backward: Graph;
  readonly reward: Graph;
  readonly decode: Graph;
}

function programs(
  { sampling, batch: { per_device: batch, total }, loss }: Settings,
  pipeline: Pipeline,
  reward: Reward,
  layout: LoraLayout,
  estimator: Estimator,
): Programs {
  const size = latentSize(pipeline, sampling.height, sampling.width);
  const shape = { batch, size, guidanceScale: sampling.guidance_scale };
  return {
    forward: denoiseGraph(pipeline, layout, shape),
    backward: denoiseVjpGraph(pipeline, layout, shape, estimator.needsDx(sampling.steps)),
    reward: rewardGraph(pipeline, reward, loss, { batch, size, samples: total }),
    decode: decodeGraph(pipeline, batch, size),
  };
}

export function countPlan(
  settings: Settings,
  pipeline: Pipeline,
  reward: Reward,
  layout: LoraLayout,
  estimator: Estimator,
): Plan {
  const { sampling, batch, prompts, evaluation, train } = settings;
  const accumulation = accumulationSteps(batch);
  const forwardCalls = accumulation * sampling.steps;
  const backwardCalls = backwardCallsPerUpdate(settings, estimator);
  const graphs = programs(settings, pipeline, reward, layout, estimator);
  return {
    model: settings.model,
    reward: reward.name,
    backboneParameters: elementsUnder(pipeline.weights, "unet."),
    trainableParameters: layout.size,
    updates: train.updates,
    samplesPerUpdate: batch.total,
    accumulation,
    unetForwardCallsPerUpdate: forwardCalls,
    unetBackwardCallsPerUpdate: backwardCalls,
    flopsPerUpdate:
      forwardCalls * flops(graphs.forward) +
      backwardCalls * flops(graphs.backward) +
      accumulation * flops(graphs.reward),
    // Before the first update, after every so many and after the last.
    evaluations: 1 + Math.ceil(train.updates / evaluation.every),
    imagesPerEvaluation: prompts.eval.length * evaluation.seeds_per_prompt,
  };
}

/** Counted on the run's own draws; on its first updates where they are many. */
function backwardCallsPerUpdate(settings: Settings, estimator: Estimator): number {
  const updates = Math.min(settings.train.updates, 20);
  let calls = 0;
  for (let update = 1; update <= updates; update++) {
    const samples = samplesOf(update, settings, estimator, 0);
    for (let i = 0; i < settings.sampling.steps; i++) {
      calls += Math.ceil(samples.filter(({ mask }) => mask[i]).length / settings.batch.per_device);
    }
  }
  return calls / updates;
}

function elementsUnder(source: WeightSource, prefix: string): number {
  let total = 0;
  for (const name of source.names()) if (name.startsWith(prefix)) total += sizeOf(source.get(name)?.shape ?? []);
  return total;
}

async function timed(
  runtime: Runtime,
  plan: Plan,
  graphs: Programs,
  { sampling, batch }: Settings,
  weights: WeightSource,
): Promise<PlanEstimate> {
  const seconds = {
    forward: await secondsPerCall(runtime, graphs.forward, weights),
    backward: await secondsPerCall(runtime, graphs.backward, weights),
    reward: await secondsPerCall(runtime, graphs.reward, weights),
    decode: await secondsPerCall(runtime, graphs.decode, weights),
  };
  const secondsPerUpdate =
    plan.unetForwardCallsPerUpdate * seconds.forward +
    plan.unetBackwardCallsPerUpdate * seconds.backward +
    plan.accumulation * seconds.reward;
  const secondsPerPicture = (sampling.steps * seconds.forward + seconds.decode) / batch.per_device;
  const secondsPerEvaluation = plan.imagesPerEvaluation * secondsPerPicture;
  return {
    secondsPerUpdate,
    secondsPerEvaluation,
    seconds: plan.updates * secondsPerUpdate + plan.evaluations * secondsPerEvaluation,
    peakRssBytes: process.resourceUsage().maxRSS * 1024,
  };
}

/** The second call's time; the first one still allocates. */
async function secondsPerCall(runtime: Runtime, graph: Graph, weights: WeightSource): Promise<number> {
  const program = await runtime.compile(graph, weights);
  const feeds = Object.fromEntries(
    Object.entries(graph.inputs).map(([name, { shape, dtype }]) => [
      name,
      fromNumbers(new Float64Array(sizeOf(shape)), shape, dtype),
    ]),
  );
  await program.run(feeds);
  const began = performance.now();
  await program.run(feeds);
  const seconds = (performance.now() - began) / 1000;
  await program.release();
  return seconds;
}
