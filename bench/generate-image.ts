/**
 * Times the generation of an image from a prompt, and prints one line of JSON. Loading and compiling are timed on their own.
 */
import { parseArgs } from "node:util";
import { loadSettings, parseSet } from "../src/config/index.js";
import { openPipeline, Sampler, sampleImages } from "../src/pipeline/index.js";
import { Runtime } from "../src/runtime/runtime.js";

const { values } = parseArgs({
  options: {
    model: { type: "string", default: "models/emoji-64" },
    steps: { type: "string", default: "4" },
    size: { type: "string", default: "null" },
    threads: { type: "string", default: "2" },
    repeat: { type: "string", default: "2" },
  },
});
const { sampling } = await loadSettings({
  overrides: [`sampling={ steps: ${values.steps}, height: ${values.size}, width: ${values.size} }`].map(parseSet),
});
const pipeline = await openPipeline(values.model);
const runtime = await Runtime.start({ threads: Number(values.threads) });
const sampler = await Sampler.compile(runtime, pipeline, sampling, { batch: 1 });
const loadSeconds = performance.now() / 1000;
const loadedRssBytes = process.memoryUsage.rss();
const seconds: number[] = [];
let shape: readonly number[] = [];
// The first image also compiles the decoder.
for (let i = 0; i < 1 + Number(values.repeat); i++) {
  const began = performance.now();
  for await (const { images } of sampleImages(sampler, [{ prompt: "a photo of a cat", seed: i }], undefined)) {
    shape = images.shape;
  }
  seconds.push((performance.now() - began) / 1000);
}
await runtime.close();
console.log(
  JSON.stringify({
    seconds: seconds.slice(1),
    first_seconds: seconds[0],
    load_seconds: loadSeconds,
    loaded_rss_bytes: loadedRssBytes,
    peak_rss_bytes: process.resourceUsage().maxRSS * 1024,
    image: shape,
  }),
);
