/**
 * Times the two large towers that published rewards use, at their real size and with random weights: value and image gradient
 * of four images of 512x512, here and in PyTorch + transformers, alternately, from the same files and with as many threads.
 *
 *     npm run build
 *     node dist/bench/towers.js [--python PYTHON] [--tower vit-l-14] [--tower vit-h-14] [--rounds 1] [--folder FOLDER]
 *
 * - `vit-l-14`: `aesthetic`, CLIP ViT-L/14 and the published head's layers; 0.3 billion float32 parameters, as in
 *   `openai/clip-vit-large-patch14`.
 * - `vit-h-14`: `hps`, CLIP ViT-H/14 with its text tower; 1 billion float16 parameters, as in `HPS_v2_compressed.pt`. Both
 *   sides compute in float32.
 *
 * Each measurement runs in a process of its own, because the peak memory is measured per process. The peer runs with fused
 * attention, with plain attention, and with gradient checkpointing; its best time and its smallest memory count, even if they
 * come from different runs. It also prints how far our value and gradient are from its own. Needs 2 GB of disk, and 9 GB of
 * memory for the larger tower.
 */
import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { parseArgs, promisify } from "node:util";
import { writeTokenizer } from "../pretrain/data/bpe.js";
import { imageEmbedding, textEmbedding } from "../src/models/clip/clip.js";
import { parseClipConfig } from "../src/models/clip/config.js";
import { aestheticConfig, aestheticScore } from "../src/models/heads/aesthetic.js";
import type { Scope } from "../src/nn/scope.js";
import { input } from "../src/ops/index.js";
import { writeRandomWeights } from "./random-weights.js";
import type { Tower } from "./tower.js";

/** Pixels along each side: the image size of Stable Diffusion. */
const SIDE = 512;

/** The keys of the published config files that the towers depend on. */
const CLIPS = {
  "vit-l-14": {
    projection_dim: 768,
    vision_config: {
      projection_dim: 768,
      hidden_size: 1024,
      intermediate_size: 4096,
      num_attention_heads: 16,
      num_hidden_layers: 24,
      image_size: 224,
      patch_size: 14,
      hidden_act: "quick_gelu",
    },
    text_config: {
      hidden_size: 768,
      intermediate_size: 3072,
      num_attention_heads: 12,
      num_hidden_layers: 12,
      vocab_size: 49408,
      max_position_embeddings: 77,
      hidden_act: "quick_gelu",
    },
  },
  "vit-h-14": {
    projection_dim: 1024,
    vision_config: {
      projection_dim: 1024,
      hidden_size: 1280,
      intermediate_size: 5120,
      num_attention_heads: 16,
      num_hidden_layers: 32,
      image_size: 224,
      patch_size: 14,
      hidden_act: "gelu",
    },
    text_config: {
      hidden_size: 1024,
      intermediate_size: 4096,
      num_attention_heads: 16,
      num_hidden_layers: 24,
      vocab_size: 49408,
      max_position_embeddings: 77,
      hidden_act: "gelu",
    },
  },
} as const;

const CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073];
const CLIP_STD = [0.26862954, 0.26130258, 0.27577711];

/** Writes only what the reward reads: of ViT-L/14, that is the vision tower and the head. */
async function writeTower(folder: string, tower: Tower): Promise<void> {
  const json = { architectures: ["CLIPModel"], model_type: "clip", ...CLIPS[tower] };
  const config = parseClipConfig(json);
  const clip = path.join(folder, "clip");
  await mkdir(clip, { recursive: true });
  await writeFile(path.join(clip, "config.json"), JSON.stringify(json));
  await writeFile(
    path.join(clip, "preprocessor_config.json"),
    JSON.stringify({ image_mean: CLIP_MEAN, image_std: CLIP_STD }),
  );
  const { imageSize, channels } = config.vision;
  const pixels = input([1, channels, imageSize, imageSize]);
  const ids = input([1, config.text.maxPositions], "int64");
  const end = input([1, config.text.maxPositions]);
  const weights = path.join(clip, "model.safetensors");
  switch (tower) {
    case "vit-l-14": {
      await writeRandomWeights(weights, "float32", (scope) => imageEmbedding(scope, config, pixels));
      const head = aestheticConfig([768, 1024, 128, 64, 16, 1]);
      const build = (scope: Scope) => aestheticScore(scope, head, input([1, 768]));
      await mkdir(path.join(folder, "head"), { recursive: true });
      await writeRandomWeights(path.join(folder, "head", "model.safetensors"), "float32", build);
      break;
    }
    case "vit-h-14":
      await writeTokenizer(clip, ["a", "cat", "dog", "photo", "of"], config.text.maxPositions);
      await writeRandomWeights(weights, "float16", (scope) => [
        imageEmbedding(scope, config, pixels),
        textEmbedding(scope, config, ids, end),
      ]);
  }
}

interface Measurement {
  readonly seconds: readonly number[];
  readonly loaded_rss_bytes: number;
  readonly peak_rss_bytes: number;
}
type Ours = Measurement & { readonly compile_seconds: number; readonly flops: number };
type Theirs = Measurement & { readonly value_error: number; readonly gradient_error: number };

const run = promisify(execFile);

async function measure<M>(command: string, args: readonly string[]): Promise<M> {
  const { stdout } = await run(command, args, { maxBuffer: 1 << 24 });
  return JSON.parse(stdout.slice(stdout.indexOf("{"))) as M;
}

const median = (numbers: readonly number[]) =>
  numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)] as number;
const gb = (bytes: number) => `${(bytes / 1e9).toFixed(2)} GB`;
const show = ({ seconds, loaded_rss_bytes, peak_rss_bytes }: Measurement) =>
  `${median(seconds).toFixed(2)} s, peak ${gb(peak_rss_bytes)} (${gb(loaded_rss_bytes)} after loading)`;

const { values } = parseArgs({
  options: {
    python: { type: "string" },
    tower: { type: "string", multiple: true, default: Object.keys(CLIPS) },
    variant: { type: "string", multiple: true, default: ["sdpa", "eager", "sdpa-checkpointing"] },
    rounds: { type: "string", default: "1" },
    repeat: { type: "string", default: "3" },
    threads: { type: "string", default: "2" },
    folder: { type: "string" },
  },
});
const folder = values.folder ?? (await mkdtemp(path.join(tmpdir(), "alignprop-towers-")));
try {
  for (const tower of Object.keys(CLIPS).filter((name) => values.tower.includes(name)) as Tower[]) {
    const at = path.join(folder, tower);
    // A folder that the user names may hold the weights from an earlier call.
    if (!existsSync(path.join(at, "clip", "model.safetensors"))) await writeTower(at, tower);
    console.log(`\n${tower}, 4 images of ${SIDE}x${SIDE}, ${values.threads} threads, medians of ${values.repeat}`);
    const common = ["--folder", at, "--tower", tower, "--threads", values.threads, "--repeat", values.repeat];
    for (let round = 0; round < Number(values.rounds); round++) {
      const ours = await measure<Ours>(process.execPath, [
        path.join(import.meta.dirname, "tower.js"),
        ...common,
        "--side",
        String(SIDE),
      ]);
      const rate = (ours.flops / median(ours.seconds) / 1e9).toFixed(0);
      console.log(`  alignprop   ${show(ours)}, ${rate} GFLOP/s; compiled in ${ours.compile_seconds.toFixed(1)} s`);
      if (!values.python) continue;
      const theirs: Theirs[] = [];
      for (const variant of values.variant) {
        const [attention, checkpointing] = variant.split("-") as [string, string?];
        const options = ["--attention", attention, ...(checkpointing ? ["--checkpointing"] : [])];
        const measured = await measure<Theirs>(values.python, ["bench/tower_peer.py", ...common, ...options]);
        theirs.push(measured);
        console.log(
          `  PyTorch     ${show(measured)}, ${variant}; ours differs by ${measured.value_error.toExponential(1)} in value, ${measured.gradient_error.toExponential(1)} in gradient`,
        );
      }
      const fastest = Math.min(...theirs.map(({ seconds }) => median(seconds)));
      const smallest = Math.min(...theirs.map(({ peak_rss_bytes }) => peak_rss_bytes));
      console.log(
        `  time ${(median(ours.seconds) / fastest).toFixed(2)}x PyTorch's best, peak memory ${(ours.peak_rss_bytes / smallest).toFixed(2)}x its smallest`,
      );
    }
  }
} finally {
  if (!values.folder) await rm(folder, { recursive: true });
}
