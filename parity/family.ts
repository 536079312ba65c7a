/** The folder of a model family, as parity/families.py writes it. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { type LossSettings, resolvedLoss, type Settings, settingsSchema } from "../src/config/index.js";
import type { LoraLayout } from "../src/nn/lora.js";
import { adapterLayout, openPipeline, type Pipeline } from "../src/pipeline/index.js";
import type { Runtime } from "../src/runtime/runtime.js";
import { type HostTensor, toFloat32 } from "../src/tensor/host.js";
import { sizeOf } from "../src/tensor/shape.js";
import { openSafetensors } from "../src/weights/safetensors.js";
import { readTensor, type WeightSource } from "../src/weights/source.js";

interface Reference {
  readonly prompts: readonly string[];
  readonly negative: string;
  readonly timestep: number;
  readonly steps: number;
  readonly guidance_scale: number;
  readonly rank: number;
  readonly loss: LossSettings;
}

/** A model family, and its expected results. */
export interface Family {
  readonly runtime: Runtime;
  readonly pipeline: Pipeline;
  readonly settings: Settings;
  readonly reference: Reference;
  readonly layout: LoraLayout;
  /** Parameters of the adapter, in the order of `layout`. */
  readonly lora: Float32Array;
  tensor(name: string): Promise<HostTensor>;
  has(name: string): boolean;
  /** Reorders the gradients of all factors, which are sorted by name, to the order of `layout`. */
  inLayoutOrder(sorted: HostTensor): Float32Array;
}

export async function openFamily(runtime: Runtime, folder: string): Promise<Family> {
  const reference = JSON.parse(await readFile(join(folder, "reference.json"), "utf8")) as Reference;
  const results = await openSafetensors(join(folder, "reference.safetensors"));
  const pipeline = await openPipeline(join(folder, "model"));
  const { prompts, negative, steps, guidance_scale, rank, loss } = reference;
  const { train: _, ...parsed } = settingsSchema.parse({
    lora: { rank },
    sampling: { steps, guidance_scale },
    loss,
    batch: { samples_per_epoch: prompts.length, total: prompts.length, per_device: prompts.length },
    estimator: { truncation: { mode: "fixed", k: null } },
  });
  const settings: Settings = {
    ...parsed,
    name: "parity",
    loss: resolvedLoss(parsed),
    prompts: { train: [...prompts], eval: [...prompts], template: "{}", negative },
    train: { steps: 1 },
  };
  const layout = adapterLayout(pipeline, { rank, alpha: null, targets: ["attention"] });
  const names = layout.entries.map(({ name }) => name).sort();
  const inLayoutOrder = (sorted: HostTensor) => {
    const values = toFloat32(sorted);
    const flat = new Float32Array(layout.size);
    const byName = new Map(layout.entries.map((entry) => [entry.name, entry]));
    let at = 0;
    for (const name of names) {
      const { shape, offset } = byName.get(name) as (typeof layout.entries)[number];
      flat.set(values.subarray(at, at + sizeOf(shape)), offset);
      at += sizeOf(shape);
    }
    if (at !== values.length)
      throw new Error(`${folder}: the gradient has ${values.length} numbers, but the adapter has ${at}`);
    return flat;
  };
  return {
    runtime,
    pipeline,
    settings,
    reference,
    layout,
    lora: await readAdapter(await openSafetensors(join(folder, "adapter.safetensors")), layout),
    tensor: (name) => read(results, name),
    has: (name) => results.get(name) !== undefined,
    inLayoutOrder,
  };
}

async function read(source: WeightSource, name: string): Promise<HostTensor> {
  const stored = source.get(name);
  if (!stored) throw new Error(`${source.describe}: the tensor ${name} is missing`);
  return readTensor(stored);
}

async function readAdapter(file: WeightSource, layout: LoraLayout): Promise<Float32Array> {
  const flat = new Float32Array(layout.size);
  const unknown = new Set(file.names());
  for (const { name, offset } of layout.entries) {
    flat.set(toFloat32(await read(file, name)), offset);
    unknown.delete(name);
  }
  if (unknown.size > 0) throw new Error(`${file.describe}: unknown layers: ${[...unknown].join(", ")}`);
  return flat;
}
