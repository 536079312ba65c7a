/** Value and image gradient of the large towers that published rewards use. */
import { mkdir } from "node:fs/promises";
import path from "node:path";
import { peerScript, script } from "../scripts.js";
import { agreement, comparison, shareOfProducts } from "../summary.js";
import { type Case, type Job, PEER_ENV, productsJob } from "./case.js";

/** Pixels along each side: the image size of Stable Diffusion. */
const SIDE = 512;
const REPEAT = 3;

const TOWERS = {
  "vit-l-14":
    "Value and image gradient of four images of 512x512 pixels by the reward `aesthetic` at its published size: CLIP ViT-L/14 and its head, float32 file.",
  "vit-h-14":
    "Value and image gradient of four images of 512x512 pixels by the reward `hps` at its published size: CLIP ViT-H/14 with its text tower, float16 file. Both sides compute in float32.",
} as const;

const VARIANTS = [
  { name: "fused attention", options: ["--attention", "sdpa"] },
  { name: "attention as products", options: ["--attention", "eager"] },
  { name: "fused attention, checkpointing", options: ["--attention", "sdpa", "--checkpointing"] },
];

const towerCase = (tower: keyof typeof TOWERS): Case => ({
  name: tower,
  about: TOWERS[tower],
  models: [tower],
  maxRounds: 2,
  jobs: async (context) => {
    const { folder, threads, python } = context;
    const exchange = path.join(folder, "exchange");
    await mkdir(exchange, { recursive: true });
    const common = [
      ...["--folder", path.join(folder, tower), "--tower", tower, "--threads", String(threads)],
      ...["--repeat", String(REPEAT), "--results", path.join(exchange, `${tower}.safetensors`)],
    ];
    const ours: Job = {
      side: "alignprop",
      variant: "one program",
      command: [process.execPath, script("tower.js"), "--side", String(SIDE), ...common],
    };
    const peers = VARIANTS.map(
      ({ name, options }): Job => ({
        side: "PyTorch",
        variant: name,
        env: PEER_ENV,
        command: [python ?? "", peerScript("tower_peer.py"), ...common, ...options],
      }),
    );
    return [productsJob(context), ours, ...(python ? peers : [])];
  },
  show: (measured) => [
    ...comparison(measured, "a call"),
    "",
    ...shareOfProducts(measured),
    ...agreement(
      measured,
      {
        value_error: "values, largest difference relative to the largest",
        gradient_error: "image gradient, largest difference relative to the largest element",
      },
      { value_error: 1e-3, gradient_error: 1e-3 },
    ),
  ],
});

export const towerCases: readonly Case[] = [towerCase("vit-l-14"), towerCase("vit-h-14")];
