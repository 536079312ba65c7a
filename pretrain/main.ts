/**
 * `npm run pretrain`: trains the embedded model and the embedded rewards on rendered images, stage by stage, with this project's
 * own engine. Each stage saves its state in a folder, from which a killed run resumes.
 */
import { cp } from "node:fs/promises";
import path from "node:path";
import { parseArgs } from "node:util";
import { HELD_OUT_ANIMALS } from "../src/config/index.js";
import { parseClipConfig } from "../src/models/clip/config.js";
import { openClipTokenizer } from "../src/models/clip/tokenizer.js";
import { parseVaeConfig } from "../src/models/vae/config.js";
import { Runtime } from "../src/runtime/runtime.js";
import type { HostTensor } from "../src/tensor/host.js";
import { fromTensors, merge } from "../src/weights/source.js";
import { trainAesthetic } from "./aesthetic.js";
import { trainClassifier } from "./classifier.js";
import { clipModelConfig, PREPROCESSOR_CONFIG, trainClip } from "./clip.js";
import { COUNT_CONFIG, countAccuracy, trainCount } from "./count.js";
import { ANIMALS } from "./data/animals.js";
import { writeTokenizer } from "./data/bpe.js";
import { CAPTION_WORDS } from "./data/captions.js";
import { loadIcons } from "./data/icons.js";
import { writeGrid } from "./grid.js";
import { writeClipFolder, writeCountFolder, writeModelFolder, writeWeights } from "./model-folder.js";
import { generateImages } from "./preview.js";
import { quality } from "./quality.js";
import { encodeLatents, SCHEDULER_CONFIG, scalingFactor, trainUnet, UNET_CONFIG } from "./unet.js";
import { trainVae, VAE_CONFIG } from "./vae.js";

/** Steps of each stage. */
const STEPS = { vae: 1600, clip: 800, aesthetic: 2000, count: 600, unet: 8000, classifier: 3000 };
const SEED = 1;

const { values: options } = parseArgs({
  options: {
    state: { type: "string", default: ".pretrain" },
    models: { type: "string", default: "models" },
    /** `count` trains only that stage, which depends on no other. */
    only: { type: "string" },
  },
});
const stateOf = (stage: string) => path.join(options.state, stage);
const stage = (name: string, steps: number) => ({ folder: stateOf(name), steps, seed: SEED });
const modelFolder = path.join(options.models, "emoji-64");
const rewards = path.join(options.models, "rewards");
const tokenizerFolder = path.join(modelFolder, "tokenizer");

const runtime = await Runtime.start();
const icons = await loadIcons();

const count = await trainCount(runtime, icons, stage("count", STEPS.count));
await writeCountFolder(path.join(rewards, "count"), COUNT_CONFIG, count);
console.log(
  `the count reward is right on ${(100 * (await countAccuracy(runtime, icons, count, SEED))).toFixed(1)} % of renderings`,
);
if (options.only === "count") {
  await runtime.close();
  process.exit(0);
}

await writeTokenizer(tokenizerFolder, CAPTION_WORDS, 32);
const tokenizer = await openClipTokenizer(tokenizerFolder);

const vae = await trainVae(runtime, icons, stage("vae", STEPS.vae));

const clipConfig = clipModelConfig(tokenizer);
const clip = await trainClip(runtime, icons, tokenizer, stage("clip", STEPS.clip));
await writeClipFolder(path.join(rewards, "clip"), clipConfig, PREPROCESSOR_CONFIG, clip);
await cp(tokenizerFolder, path.join(rewards, "clip"), { recursive: true });

const head = await trainAesthetic(
  runtime,
  icons,
  { config: clipConfig, weights: clip },
  stage("aesthetic", STEPS.aesthetic),
);
await writeWeights(path.join(rewards, "aesthetic", "model.safetensors"), head);

// As in Stable Diffusion, the text encoder is the text tower of a CLIP.
const textEncoder = new Map(
  [...clip]
    .filter(([name]) => name.startsWith("clip.text_model."))
    .map(([name, tensor]) => [name.replace("clip.", "text_encoder."), tensor]),
);
const textConfig = { ...clipConfig.text_config, architectures: ["CLIPTextModel"], model_type: "clip_text_model" };
const frozen = {
  tokenizer,
  textEncoder: parseClipConfig(clipConfig).text,
  vae: parseVaeConfig(VAE_CONFIG),
  weights: merge(fromTensors(vae), fromTensors(textEncoder)),
};
const data = await encodeLatents(runtime, icons, frozen, SEED);
const scale = scalingFactor(data.latents);
console.log(`latents: ${data.captions.length} images, scaling_factor ${scale}`);

const previews = [
  ...HELD_OUT_ANIMALS,
  ...ANIMALS.filter((_, i) => i % 4 === 0).slice(0, 10),
  "three foxes on a blue background",
];
const writeModel = (unet: ReadonlyMap<string, HostTensor>) =>
  writeModelFolder(modelFolder, {
    unet: { config: UNET_CONFIG, weights: unet },
    vae: { config: { ...VAE_CONFIG, scaling_factor: scale }, weights: vae },
    textEncoder: { config: textConfig, weights: textEncoder },
    scheduler: SCHEDULER_CONFIG,
    tokenizer: tokenizerFolder,
  });
const unet = await trainUnet(runtime, {
  pipeline: frozen,
  data,
  scale,
  folder: stateOf("unet"),
  steps: STEPS.unet,
  seed: SEED,
  onSave: async (step, weights) => {
    await writeModel(weights);
    const requests = [0, 1, 2, 3].flatMap((seed) => previews.map((prompt) => ({ prompt, seed })));
    const images = await generateImages(runtime, modelFolder, requests, previews.length);
    await writeGrid(path.join(stateOf("unet"), `step-${step}.png`), [images], {
      columns: previews.length,
      labels: requests.map(({ prompt }) => prompt),
      scale: 1,
    });
  },
});
await writeModel(unet);

const classifier = await trainClassifier(runtime, icons, stage("judge", STEPS.classifier));
const { renderings, drawn } = await quality(runtime, icons, classifier, {
  folder: modelFolder,
  out: options.state,
  seed: SEED,
});
console.log(
  `the classifier recognizes ${(100 * renderings).toFixed(1)} % of renderings and ${(100 * drawn).toFixed(1)} % of generated images`,
);
await runtime.close();
