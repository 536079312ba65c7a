/**
 * Times whole training steps of AlignProp in this trainer and prints one line of JSON. `bench/main.ts` runs it as a process
 * of its own. Compilation is not timed, just as loading is not timed in the peer.
 */
import { join } from "node:path";
import { parseArgs } from "node:util";
import { loadSettings, parseSet } from "../src/config/index.js";
import {
  type CompiledReplica,
  compileReplicas,
  countPlan,
  drawSamples,
  planWork,
  Replicas,
  startRuntimes,
} from "../src/engine/index.js";
import { type DirectEstimator, openEstimator } from "../src/estimators/index.js";
import { input, matmul } from "../src/ops/index.js";
import { openPipeline } from "../src/pipeline/index.js";
import { openReward, pathsOnly, rewardSettings } from "../src/rewards/index.js";
import { Runtime } from "../src/runtime/runtime.js";
import { float32 } from "../src/tensor/host.js";
import { Rng } from "../src/tensor/rng.js";
import { adamw, adamwState, clipGradNorm, openTrainable } from "../src/train/index.js";

const { values } = parseArgs({
  options: {
    model: { type: "string", default: "models/emoji-64" },
    rewards: { type: "string", default: "models/rewards" },
    batch: { type: "string", default: "8" },
    steps: { type: "string", default: "10" },
    k: { type: "string", default: "1" },
    threads: { type: "string", default: "2" },
    memory: { type: "string", default: "null" },
    size: { type: "string" },
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
const settings = await loadSettings({
  overrides: [
    `model=${values.model}`,
    `threads=${threads}`,
    `memory=${values.memory}`,
    `sampling={ steps: ${steps}${values.size ? `, height: ${values.size}, width: ${values.size}` : ""} }`,
    `estimator={ truncation: { mode: fixed, k: ${k} } }`,
    `batch={ samples_per_epoch: ${batch}, total: ${batch}, per_device: ${batch} }`,
    "train={ steps: 1 }",
  ].map(parseSet),
});

const matmulRuntime = await Runtime.start({ threads });
const matmulGflops = await matmulPeak(matmulRuntime);
await matmulRuntime.close();
const pipeline = await openPipeline(settings.model);
const chosen = { name: "aesthetic", clip: join(values.rewards, "clip"), head: join(values.rewards, "aesthetic") };
const reward = await openReward(rewardSettings.parse(chosen), pathsOnly);
const estimator = (await openEstimator(settings.estimator)) as DirectEstimator;
const { layout, initial } = await openTrainable(settings, pipeline);
const setup = { settings, pipeline, reward, estimator, layout, monitors: {}, precision: "float32" } as const;
const work = await planWork(setup);
const plan = await countPlan(setup, work);
const machine = { device: settings.device, threads, gpu: 0 };
const runtimes = await startRuntimes(machine, work.memory.replicas);
const compiled = await compileReplicas(runtimes, setup, work.graphs, work.memory);
const { latentElements } = (compiled[0] as CompiledReplica).engine;
const replicas = new Replicas(
  compiled.map(({ workers }) => workers),
  layout,
);
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
    seconds_median: median(seconds),
    seconds,
    peak_rss_bytes: process.resourceUsage().maxRSS * 1024,
    loaded_rss_bytes: loadedRssBytes,
    matmul_gflops: matmulGflops,
    flops: plan.flopsPerStep,
  }),
);

/** GFLOP/s of the fastest of a few products of 2048 x 2048 matrices. */
async function matmulPeak(runtime: Runtime): Promise<number> {
  const n = 2048;
  const [a, b] = [input([n, n]), input([n, n])];
  const program = await runtime.compile({ name: "matmul", inputs: { a, b }, outputs: { y: matmul(a, b) } });
  const feeds = { a: float32(new Rng(0).normals(n * n), [n, n]), b: float32(new Rng(1).normals(n * n), [n, n]) };
  let best = Number.POSITIVE_INFINITY;
  for (let i = 0; i < 6; i++) {
    const began = performance.now();
    await program.run(feeds);
    best = Math.min(best, performance.now() - began);
  }
  await program.release();
  return (2 * n ** 3) / best / 1e6;
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((x, y) => x - y);
  return (
    ((sorted[Math.floor((sorted.length - 1) / 2)] as number) + (sorted[Math.ceil((sorted.length - 1) / 2)] as number)) /
    2
  );
}
