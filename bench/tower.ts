/**
 * Times the value and the image gradient of a reward and prints one line of JSON. `npm run bench` runs it as a process of
 * its own. Inputs and results are written to `--results`, where the peer compares them with its own.
 */
import { join } from "node:path";
import { parseArgs } from "node:util";
import { gradients } from "../src/autodiff/index.js";
import { flops } from "../src/engine/index.js";
import type { Value } from "../src/graph/value.js";
import { filled, input } from "../src/ops/index.js";
import { openReward, pathsOnly, rewardSettings } from "../src/rewards/index.js";
import { Runtime } from "../src/runtime/runtime.js";
import { float32 } from "../src/tensor/host.js";
import { Rng } from "../src/tensor/rng.js";
import { writeSafetensors } from "../src/weights/safetensors.js";

type Tower = "vit-l-14" | "vit-h-14";

const PROMPTS = ["a photo of a cat", "a photo of a dog", "a cat", "a dog of a photo"];

const { values } = parseArgs({
  options: {
    folder: { type: "string", default: "." },
    tower: { type: "string", default: "vit-l-14" },
    batch: { type: "string", default: "4" },
    side: { type: "string", default: "512" },
    threads: { type: "string", default: "2" },
    repeat: { type: "string", default: "3" },
    results: { type: "string", default: "tower.safetensors" },
  },
});
const { folder } = values;
const [batch, side] = [Number(values.batch), Number(values.side)];
const settings: Record<Tower, object> = {
  "vit-l-14": { name: "aesthetic", clip: join(folder, "clip"), head: join(folder, "head") },
  "vit-h-14": { name: "hps", weights: join(folder, "clip") },
};

const reward = await openReward(rewardSettings.parse(settings[values.tower as Tower]), pathsOnly);
const images = input([batch, 3, side, side]);
const { rewards, inputs } = reward.build(images);
const [gradient] = gradients([{ value: rewards, gradient: filled([batch], 1) }], [images]) as [Value];
const graph = { name: reward.name, inputs: { images, ...inputs }, outputs: { rewards, gradient } };
const runtime = await Runtime.start({ threads: Number(values.threads) });
const started = performance.now();
const program = await runtime.compile(graph, reward.weights);
const compileSeconds = (performance.now() - started) / 1000;
const loadSeconds = performance.now() / 1000;
const loadedRssBytes = process.memoryUsage.rss();

const pixels = float32(Float32Array.from({ length: batch * 3 * side * side }, uniform(new Rng(1))), [
  batch,
  3,
  side,
  side,
]);
const promptFeeds = reward.feeds(Array.from({ length: batch }, (_, i) => PROMPTS[i % PROMPTS.length] as string));
const seconds: number[] = [];
let results = await program.run({ images: pixels, ...promptFeeds });
for (let i = 0; i < Number(values.repeat); i++) {
  const began = performance.now();
  results = await program.run({ images: pixels, ...promptFeeds });
  seconds.push((performance.now() - began) / 1000);
}
await runtime.close();
const ids = promptFeeds.reward_ids;
await writeSafetensors(
  values.results,
  new Map([["images", pixels], ...Object.entries(results), ...(ids ? ([["ids", ids]] as const) : [])]),
);
console.log(
  JSON.stringify({
    seconds,
    compile_seconds: compileSeconds,
    load_seconds: loadSeconds,
    loaded_rss_bytes: loadedRssBytes,
    peak_rss_bytes: process.resourceUsage().maxRSS * 1024,
    flops: flops(graph),
  }),
);

function uniform(rng: Rng): () => number {
  return () => rng.uniform();
}
