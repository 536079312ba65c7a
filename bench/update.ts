/**
 * Times whole training steps of AlignProp in this trainer and prints one line of JSON. `npm run bench` runs it as a process of
 * its own. Compilation is not timed, just as loading is not timed in the peer.
 *
 * `--memory` is the trainer's memory budget: a size, `null` for none, or `least` for the smallest budget that the plan accepts.
 */
import { join } from "node:path";
import { parseArgs } from "node:util";
import { loadSettings, parseSet, type Settings } from "../src/config/index.js";
import {
  type CompiledReplica,
  compileReplicas,
  countPlan,
  drawSamples,
  planWork,
  Replicas,
  startRuntimes,
  type TrainingSetup,
  type Work,
} from "../src/engine/index.js";
import { InputError } from "../src/errors/index.js";
import { type DirectEstimator, openEstimator } from "../src/estimators/index.js";
import { openPipeline } from "../src/pipeline/index.js";
import { openReward, pathsOnly, rewardSettings } from "../src/rewards/index.js";
import { adamw, adamwState, clipGradNorm, openTrainable } from "../src/train/index.js";

const { values } = parseArgs({
  options: {
    model: { type: "string", default: "models/emoji-64" },
    rewards: { type: "string", default: "models/rewards" },
    batch: { type: "string", default: "8" },
    steps: { type: "string", default: "10" },
    k: { type: "string", default: "1" },
    threads: { type: "string", default: "2" },
    /** Pixels along each side; left out, those that the model was trained at. */
    size: { type: "string" },
    memory: { type: "string", default: "null" },
    warmup: { type: "string", default: "1" },
    repeat: { type: "string", default: "5" },
  },
});
const [batch, steps, k, threads] = [
  Number(values.batch),
  Number(values.steps),
  Number(values.k),
  Number(values.threads),
];
const size = values.size ?? "null";
const wanted = await loadSettings({
  overrides: [
    `model=${values.model}`,
    `threads=${threads}`,
    `memory=${values.memory === "least" ? 1 : values.memory}`,
    `sampling={ steps: ${steps}, height: ${size}, width: ${size} }`,
    `estimator={ truncation: { mode: fixed, k: ${k} } }`,
    `batch={ samples_per_epoch: ${batch}, total: ${batch}, per_device: ${batch} }`,
    // An evaluation would need no other programs. The plan counts its memory, but none is run here.
    `evaluation={ batch: ${batch} }`,
    "train={ steps: 1 }",
  ].map(parseSet),
});

const pipeline = await openPipeline(wanted.model);
const chosen = { name: "aesthetic", clip: join(values.rewards, "clip"), head: join(values.rewards, "aesthetic") };
const reward = await openReward(rewardSettings.parse(chosen), pathsOnly);
const estimator = (await openEstimator(wanted.estimator)) as DirectEstimator;
const { layout, initial } = await openTrainable(wanted, pipeline);
const parts = { pipeline, reward, estimator, layout, monitors: {}, precision: "float32" } as const;
const { setup, work } = await plannedWork({ settings: wanted, ...parts });
const { settings } = setup;
const plan = await countPlan(setup, work);
const machine = { device: settings.device, threads, gpu: 0 };
const runtimes = await startRuntimes(machine, work.memory.replicas);
const compiled = await compileReplicas(runtimes, setup, work.graphs, work.memory);
const { latentElements } = (compiled[0] as CompiledReplica).engine;
const replicas = new Replicas(
  compiled.map(({ workers }) => workers),
  layout,
);
const loadSeconds = performance.now() / 1000;
const loadedRssBytes = process.memoryUsage.rss();

const weights = await initial();
const state = adamwState(layout.size);
const seconds: number[] = [];
for (let step = 0; step < Number(values.warmup) + Number(values.repeat); step++) {
  const began = performance.now();
  const samples = drawSamples(step + 1, settings, estimator, latentElements);
  const request = { parameters: weights, globalBatchSize: samples.length };
  const { gradient } = await replicas.gradient(estimator, samples, request);
  clipGradNorm(gradient, settings.optimizer.max_grad_norm);
  adamw(weights, gradient, state, { learningRate: settings.optimizer.learning_rate });
  if (step >= Number(values.warmup)) seconds.push((performance.now() - began) / 1000);
}
await Promise.all(runtimes.map((runtime) => runtime.close()));
console.log(
  JSON.stringify({
    seconds,
    load_seconds: loadSeconds,
    peak_rss_bytes: process.resourceUsage().maxRSS * 1024,
    loaded_rss_bytes: loadedRssBytes,
    flops: plan.flopsPerStep,
    budget: settings.memory,
    plan: work.memory,
  }),
);

/** Plans the work; with `--memory least`, within the smallest budget that the planner names when it refuses. */
async function plannedWork(setup: TrainingSetup): Promise<{ setup: TrainingSetup; work: Work }> {
  try {
    return { setup, work: await planWork(setup) };
  } catch (error) {
    if (values.memory !== "least" || !(error instanceof InputError) || error.code !== "memory-too-small") throw error;
    const settings: Settings = { ...setup.settings, memory: Number(error.facts.expected) };
    return { setup: { ...setup, settings }, work: await planWork({ ...setup, settings }) };
  }
}
