/** Opens the trainable parameters of a run and their initial values. */

import type { SettingsPart } from "../config/index.js";
import { STREAMS } from "../engine/index.js";
import { type ErrorFact, InputError } from "../errors/index.js";
import { initialLora, targetsIn } from "../nn/lora.js";
import { frozenScope, survey } from "../nn/scope.js";
import {
  adapterLayout,
  findAdapter,
  type OpenListener,
  type Pipeline,
  smallestUnet,
  type TrainableLayout,
  toFlat,
  type UnetLayout,
} from "../pipeline/index.js";
import { toFloat32 } from "../tensor/host.js";
import { Rng } from "../tensor/rng.js";
import { type LoraAdapter, loraRank, loraScale } from "../weights/lora-files.js";
import { readLora } from "../weights/read-adapter.js";
import { readTensor, type StoredTensor, type WeightSource } from "../weights/source.js";
import { savedLayout } from "./checkpoint.js";

export interface Trainable {
  readonly layout: TrainableLayout;
  /** The values that a new run starts from. */
  initial(): Promise<Float32Array>;
}

export interface OpenTrainableOptions extends OpenListener {
  /** The folder of a checkpoint to resume from. If the run started from an adapter, the checkpoint has its layout. */
  readonly resume?: string | undefined;
}

/**
 * @throws InputError `settings-conflict` or `adapter-mismatch` if `lora.start` does not fit the other settings or the model
 */
export async function openTrainable(
  settings: SettingsPart<"trainable" | "lora" | "seed"> & Partial<SettingsPart<"loading">>,
  pipeline: Pipeline,
  { resume, ...listener }: OpenTrainableOptions = {},
): Promise<Trainable> {
  const { trainable, lora, seed } = settings;
  switch (trainable) {
    case "unet": {
      if (lora.start !== null) {
        throw new InputError(
          "settings-conflict",
          "lora.start names an adapter, but trainable is unet, which trains no adapter. Leave one of the two out.",
          { setting: "lora.start", with: "trainable", path: lora.start },
        );
      }
      const { parameters } = survey("unet", smallestUnet(pipeline));
      const layout: UnetLayout = { kind: "unet", ...parameters };
      return { layout, initial: () => readAll(layout, pipeline.weights) };
    }
    case "lora": {
      if (lora.start !== null) {
        if (resume !== undefined) {
          // The checkpoint stores the weights. The adapter that the run started from may be gone by now.
          const layout = await savedLayout(resume, pipeline);
          return { layout, initial: async () => new Float32Array(layout.size) };
        }
        const { warn = () => {} } = listener;
        const path = await findAdapter(lora.start, { setting: "lora.start", loading: settings.loading, listener });
        const adapter = await readLora(path, { warn });
        requireAgreementWith(adapter, lora, pipeline);
        const { layout, weights } = toFlat(pipeline, adapter);
        return { layout, initial: async () => weights };
      }
      const { rank, alpha, targets } = lora;
      if (rank === null || targets === null) {
        const setting = rank === null ? "lora.rank" : "lora.targets";
        throw new InputError(
          "settings-conflict",
          `${setting} is null, which means that of the adapter in lora.start, but there is none. Give a value, or set lora.start.`,
          { setting, with: "lora.start", found: null },
        );
      }
      const layout = adapterLayout(pipeline, { rank, alpha, targets });
      return { layout, initial: async () => initialLora(layout, new Rng(seed, STREAMS.adapter)) };
    }
  }
}

/** The parameters with which the model is the base model. */
export async function baseParameters(
  { trainable, lora }: SettingsPart<"trainable" | "lora">,
  { layout, initial }: Trainable,
): Promise<Float32Array> {
  // An adapter of zeros changes nothing, like a new one, whose B is 0.
  return trainable === "lora" && lora.start === null ? new Float32Array(layout.size) : (await initial()).slice();
}

/** Settings that are given besides a starting adapter must agree with it. */
function requireAgreementWith(
  adapter: LoraAdapter,
  { start, rank, alpha, targets }: SettingsPart<"lora">["lora"],
  pipeline: Pipeline,
) {
  const refuse = (
    [key, given]: readonly [key: string, given: ErrorFact],
    module: string,
    has: string,
    expected?: number,
  ) => {
    throw new InputError(
      "settings-conflict",
      `lora.${key} is ${JSON.stringify(given)}, but in the starting adapter ${start}, ${module} ${has}. Leave lora.${key} out, or set it to null, to keep the adapter's value.`,
      { setting: `lora.${key}`, found: given, expected, path: start, layer: module },
    );
  };
  for (const [module, factors] of adapter) {
    const own = loraRank(factors);
    if (rank !== null && own !== rank) refuse(["rank", rank], module, `has rank ${own}`, own);
    const ownAlpha = loraScale(factors) * own;
    if (alpha !== null && Math.abs(ownAlpha / alpha - 1) > 1e-6)
      refuse(["alpha", alpha], module, `has alpha ${ownAlpha}`, ownAlpha);
  }
  if (targets === null) return;
  const named = new Set(targetsIn(survey("unet", smallestUnet(pipeline)).adaptable, targets, "unet"));
  for (const module of named) if (!adapter.has(module)) refuse(["targets", targets], module, "has no factors");
  for (const module of adapter.keys())
    if (!named.has(module)) refuse(["targets", targets], module, "has factors as well");
}

/** All weights of the model's U-Net as one vector, converted to float32. */
async function readAll(layout: UnetLayout, weights: WeightSource): Promise<Float32Array> {
  // A frozen scope checks that each weight exists and has the right type and shape.
  const scope = frozenScope(weights, "unet");
  const all = new Float32Array(layout.size);
  for (const { name, shape, offset } of layout.entries) {
    scope.parameter(name.slice("unet.".length), shape);
    all.set(toFloat32(await readTensor(weights.get(name) as StoredTensor)), offset);
  }
  return all;
}
