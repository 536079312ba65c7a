/** Where a run begins: which parameters learn, and their first values. */

import type { Settings } from "../config/settings.js";
import { STREAMS } from "../engine/samples.js";
import { InputError } from "../errors/index.js";
import { locate } from "../io/package.js";
import { initialLora, targetsIn } from "../nn/lora.js";
import { frozenScope, survey } from "../nn/scope.js";
import { adapterLayout, smallestUnet, toFlat } from "../pipeline/adapter.js";
import type { LearnedLayout, UnetLayout } from "../pipeline/parameters.js";
import type { Pipeline } from "../pipeline/pipeline.js";
import { toFloat32 } from "../tensor/host.js";
import { Rng } from "../tensor/rng.js";
import { type LoraAdapter, loraRank, loraScale, readLora } from "../weights/lora-files.js";
import { readTensor, type StoredTensor, type WeightSource } from "../weights/source.js";
import { savedLayout } from "./checkpoint.js";

export interface Learned {
  readonly layout: LearnedLayout;
  /** Where a new run begins. */
  start(): Promise<Float32Array>;
}

export interface OpenLearnedOptions {
  /** The checkpoint's folder that a run goes on from: its adapter has the layout of the one that it once started from. */
  readonly resume?: string | undefined;
  /** Told what of a starting adapter is left out. */
  readonly warn?: ((message: string) => void) | undefined;
}

/** What these settings let learn of the model. */
export async function openLearned(
  settings: Pick<Settings, "trainable" | "lora" | "seed">,
  pipeline: Pipeline,
  { resume, warn = () => {} }: OpenLearnedOptions = {},
): Promise<Learned> {
  const { trainable, lora, seed } = settings;
  switch (trainable) {
    case "unet": {
      if (lora.start !== null) {
        throw new InputError(
          "not-finite",
          "lora.start: an adapter is no start for trainable: unet, which has none; leave one of both out",
        );
      }
      const { parameters } = survey("unet", smallestUnet(pipeline));
      const layout: UnetLayout = { kind: "unet", ...parameters };
      return { layout, start: () => readAll(layout, pipeline.weights) };
    }
    case "lora": {
      if (lora.start !== null) {
        if (resume !== undefined) {
          // The checkpoint holds the weights; that first adapter may be gone by now.
          const layout = await savedLayout(resume, pipeline);
          return { layout, start: async () => new Float32Array(layout.size) };
        }
        const adapter = await readLora(locate(lora.start), { warn });
        requireAsSet(adapter, lora, pipeline);
        const { layout, weights } = toFlat(pipeline, adapter);
        return { layout, start: async () => weights };
      }
      const { rank, alpha, targets } = lora;
      if (rank === null || targets === null) {
        throw new InputError(
          "not-finite",
          `lora.${rank === null ? "rank" : "targets"}: null stands for what lora.start has; give a value, or an adapter to start from`,
        );
      }
      const layout = adapterLayout(pipeline, { rank, alpha, targets });
      return { layout, start: async () => initialLora(layout, new Rng(seed, STREAMS.adapter)) };
    }
  }
}

/** The parameters with which the model is what it was when the run began. */
export async function baseOf(
  { trainable, lora }: Settings,
  size: number,
  initial: () => Promise<Float32Array>,
): Promise<Float32Array> {
  // An adapter of zeros changes nothing, as a fresh one with B = 0 does.
  return trainable === "lora" && lora.start === null ? new Float32Array(size) : (await initial()).slice();
}

/** The settings that are given beside a starting adapter must be what it has. */
function requireAsSet(adapter: LoraAdapter, { start, rank, alpha, targets }: Settings["lora"], pipeline: Pipeline) {
  const refuse = (key: string, wanted: unknown, module: string, has: string) => {
    throw new InputError(
      "not-finite",
      `lora.${key} is ${JSON.stringify(wanted)}, but in the adapter to start from, ${start}, ${module} ${has}; leave lora.${key} out, or make it null, to go on as it is`,
    );
  };
  for (const [module, factors] of adapter) {
    const own = loraRank(factors);
    if (rank !== null && own !== rank) refuse("rank", rank, module, `has rank ${own}`);
    const ownAlpha = loraScale(factors) * own;
    if (alpha !== null && Math.abs(ownAlpha / alpha - 1) > 1e-6)
      refuse("alpha", alpha, module, `has alpha ${ownAlpha}`);
  }
  if (targets === null) return;
  const named = new Set(targetsIn(survey("unet", smallestUnet(pipeline)).adaptable, targets, "unet"));
  for (const module of named) if (!adapter.has(module)) refuse("targets", targets, module, "is not adapted");
  for (const module of adapter.keys()) if (!named.has(module)) refuse("targets", targets, module, "is adapted as well");
}

/** The model's own weights as one vector, in float32 whatever their files hold. */
async function readAll(layout: UnetLayout, weights: WeightSource): Promise<Float32Array> {
  // A frozen scope checks that each weight is there, with its type and shape.
  const scope = frozenScope(weights, "unet");
  const all = new Float32Array(layout.size);
  for (const { name, shape, offset } of layout.entries) {
    scope.parameter(name.slice("unet.".length), shape);
    all.set(toFloat32(await readTensor(weights.get(name) as StoredTensor)), offset);
  }
  return all;
}
