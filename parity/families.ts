/** One family's folder, as parity/families.py writes it, computed here: how far each result lies from PyTorch's. */

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { gradients } from "../src/autodiff/index.js";
import { type LossSettings, resolvedLoss, type Settings, settingsSchema } from "../src/config/index.js";
import { CompiledEngine, planWork, Replica } from "../src/engine/index.js";
import { type DirectEstimator, openEstimator, type TrainingSample } from "../src/estimators/index.js";
import type { Graph } from "../src/graph/graph.js";
import type { Value } from "../src/graph/value.js";
import { unet, unetInputs } from "../src/models/unet/unet.js";
import { encode } from "../src/models/vae/vae.js";
import { joinFlat } from "../src/nn/flat.js";
import { type LoraLayout, loraAdapter } from "../src/nn/lora.js";
import { frozenScope } from "../src/nn/scope.js";
import { input } from "../src/ops/index.js";
import {
  adapterLayout,
  decodeGraph,
  openPipeline,
  type Pipeline,
  PromptEncoder,
  Sampler,
  textGraph,
} from "../src/pipeline/index.js";
import { openReward, pathsOnly, rewardSettings } from "../src/rewards/index.js";
import type { Feeds, Runtime } from "../src/runtime/runtime.js";
import { float32, fromNumbers, type HostTensor, toFloat32 } from "../src/tensor/host.js";
import { Rng } from "../src/tensor/rng.js";
import { sizeOf } from "../src/tensor/shape.js";
import { openSafetensors } from "../src/weights/safetensors.js";
import { readTensor, type WeightSource } from "../src/weights/source.js";

/** What is compared, and the relative error that is allowed: 1e-4 for one call of a model, 1e-3 for a chain of them. */
export const TOLERANCES = {
  "text embeddings": 1e-4,
  "U-Net call": 1e-4,
  "U-Net gradients": 1e-4,
  "DDIM trajectory": 1e-3,
  "VAE encode": 1e-4,
  "VAE decode": 1e-4,
  "update's gradients": 1e-3,
} as const;

export type Comparison = keyof typeof TOLERANCES;
export type FamilyErrors = Readonly<Record<Comparison, number>>;

interface Reference {
  readonly prompts: readonly string[];
  readonly negative: string;
  readonly timestep: number;
  readonly steps: number;
  readonly guidance_scale: number;
  readonly rank: number;
  readonly loss: LossSettings;
}

/** What all comparisons of one family share. */
interface Family {
  readonly runtime: Runtime;
  readonly pipeline: Pipeline;
  readonly settings: Settings;
  readonly reference: Reference;
  readonly layout: LoraLayout;
  /** The adapter. */
  readonly lora: Float32Array;
  tensor(name: string): Promise<HostTensor>;
  has(name: string): boolean;
  /** Gradients that lie one after another sorted by name, in the adapter's own order. */
  inOrder(sorted: HostTensor): Float32Array;
}

/** `reward`: a folder with clip/ and aesthetic/. */
export async function compareFamily(runtime: Runtime, folder: string, reward: string): Promise<FamilyErrors> {
  const family = await openFamily(runtime, folder);
  const call = await compareUnetCall(family);
  return {
    "text embeddings": await compareText(family),
    "U-Net call": call.output,
    "U-Net gradients": call.gradients,
    "DDIM trajectory": await compareTrajectory(family),
    "VAE encode": await compareEncode(family),
    "VAE decode": await compareDecode(family),
    "update's gradients": await compareUpdate(family, reward),
  };
}

async function openFamily(runtime: Runtime, folder: string): Promise<Family> {
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
  const inOrder = (sorted: HostTensor) => {
    const values = toFloat32(sorted);
    const flat = new Float32Array(layout.size);
    const byName = new Map(layout.entries.map((entry) => [entry.name, entry]));
    let at = 0;
    for (const name of names) {
      const { shape, offset } = byName.get(name) as (typeof layout.entries)[number];
      flat.set(values.subarray(at, at + sizeOf(shape)), offset);
      at += sizeOf(shape);
    }
    if (at !== values.length) throw new Error(`${folder}: ${values.length} numbers for an adapter of ${at}`);
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
    inOrder,
  };
}

async function read(source: WeightSource, name: string): Promise<HostTensor> {
  const stored = source.get(name);
  if (!stored) throw new Error(`${source.describe}: has no ${name}`);
  return readTensor(stored);
}

async function readAdapter(file: WeightSource, layout: LoraLayout): Promise<Float32Array> {
  const flat = new Float32Array(layout.size);
  const unknown = new Set(file.names());
  for (const { name, offset } of layout.entries) {
    flat.set(toFloat32(await read(file, name)), offset);
    unknown.delete(name);
  }
  if (unknown.size > 0) throw new Error(`${file.describe}: layers that are not here: ${[...unknown].join(", ")}`);
  return flat;
}

/** The worst of the prompts' embeddings, the pooled ones and those of the negative prompt. */
async function compareText({ runtime, pipeline, reference, tensor, has }: Family): Promise<number> {
  const encoder = await PromptEncoder.compile(runtime, pipeline, textGraph(pipeline));
  const conditional = await encoder.encode(reference.prompts);
  const unconditional = await encoder.encodeNegative(reference.negative, 1);
  await encoder.release();
  const pairs: [HostTensor | undefined, string][] = [
    [conditional.text, "text.text"],
    [conditional.pooled, "text.pooled"],
    [unconditional.text, "text.unconditional"],
    [unconditional.pooled, "text.unconditional_pooled"],
  ];
  let worst = 0;
  for (const [found, name] of pairs) {
    if ((found !== undefined) !== has(name)) throw new Error(`${name}: given by one side only`);
    if (found) worst = Math.max(worst, relativeError(toFloat32(found), toFloat32(await tensor(name))));
  }
  return worst;
}

/** One call without guidance, with the adapter, on PyTorch's own text embeddings; gradients by latents and adapter. */
async function compareUnetCall({ runtime, pipeline, reference, layout, lora, tensor, inOrder }: Family) {
  const latents = await tensor("unet.latents");
  const text = await tensor("text.text");
  const [batch, , height, width] = latents.shape as [number, number, number, number];
  const inputs = unetInputs(pipeline.unet, { batch, height, width, tokens: text.shape[1] as number, timesteps: 1 });
  const flat = input([layout.size]);
  const { adapter, parts } = loraAdapter(layout, flat);
  const output = unet(frozenScope(pipeline.weights, "unet", { adapter }), pipeline.unet, inputs);
  const upstream = input(output.shape);
  const found = gradients([{ value: output, gradient: upstream }], [...parts, inputs.sample]);
  const dLatents = found.pop() as Value;
  const { textEmbeds, timeIds } = inputs.added ?? {};
  const graph: Graph = {
    name: "U-Net",
    inputs: {
      latents: inputs.sample,
      timestep: inputs.timestep,
      text: inputs.encoderHiddenStates,
      ...(textEmbeds && timeIds && { textEmbeds, timeIds }),
      lora: flat,
      upstream,
    },
    outputs: { output, dLatents, dLora: joinFlat(layout, found) },
  };
  const results = await runOnce(runtime, graph, pipeline.weights, {
    latents,
    timestep: fromNumbers([reference.timestep], [1]),
    text,
    ...(inputs.added && { textEmbeds: await tensor("text.pooled"), timeIds: await tensor("unet.time_ids") }),
    lora: float32(lora, [layout.size]),
    upstream: await tensor("unet.upstream"),
  });
  const error = async (found: string, name: string) =>
    relativeError(toFloat32(results[found] as HostTensor), toFloat32(await tensor(name)));
  const dLora = inOrder(await tensor("unet.gradient.lora"));
  return {
    output: await error("output", "unet.output"),
    gradients: Math.max(
      await error("dLatents", "unet.gradient.latents"),
      relativeError(toFloat32(results.dLora as HostTensor), dLora),
    ),
  };
}

/** All x_t of a chain with guidance and the adapter, from the prompt on. */
async function compareTrajectory({ runtime, pipeline, settings, reference, layout, lora, tensor }: Family) {
  const { prompts, negative: negativePrompt } = reference;
  const batch = prompts.length;
  const sampler = await Sampler.compile(runtime, pipeline, settings.sampling, { batch, layout, negativePrompt });
  const noise = toFloat32(await tensor("ddim.noise"));
  const told = await sampler.condition(prompts, lora);
  const { latents, final } = await sampler.sample(told, noise, () => new Float32Array(noise.length));
  await sampler.release();
  const expected = toFloat32(await tensor("ddim.trajectory"));
  const after = [...latents.slice(1), final];
  return Math.max(
    ...after.map((x, step) => relativeError(x, expected.subarray(step * x.length, (step + 1) * x.length))),
  );
}

async function compareEncode({ runtime, pipeline: { vae, weights }, tensor }: Family): Promise<number> {
  const image = await tensor("vae.image");
  const pixels = input(image.shape);
  const { mean } = encode(frozenScope(weights, "vae"), vae, pixels);
  const graph = { name: "VAE encoder", inputs: { pixels }, outputs: { mean } };
  const found = await runOnce(runtime, graph, weights, { pixels: image });
  return relativeError(toFloat32(found.mean as HostTensor), toFloat32(await tensor("vae.mean")));
}

/** Pictures leave the decoder's program in 0 … 1. */
async function compareDecode({ runtime, pipeline, tensor }: Family): Promise<number> {
  const latents = await tensor("vae.latents");
  const [batch, , height, width] = latents.shape as [number, number, number, number];
  const graph = decodeGraph(pipeline, batch, { height, width });
  const found = await runOnce(runtime, graph, pipeline.weights, { latents });
  const expected = toFloat32(await tensor("vae.decoded")).map((x) => Math.min(1, Math.max(0, x / 2 + 0.5)));
  return relativeError(toFloat32(found.images as HostTensor), expected);
}

/** An update's gradient by every number of the adapter, the gradient of every step kept. */
async function compareUpdate(family: Family, rewardFolder: string): Promise<number> {
  const { runtime, pipeline, settings, reference, layout, lora, tensor, inOrder } = family;
  const chosen = { name: "aesthetic", clip: join(rewardFolder, "clip"), head: join(rewardFolder, "aesthetic") };
  const reward = await openReward(rewardSettings.parse(chosen), pathsOnly);
  const estimator = (await openEstimator(settings.estimator)) as DirectEstimator;
  const setup = { settings, pipeline, reward, estimator, layout, monitors: {}, precision: "float32" } as const;
  const { graphs, memory } = await planWork(setup, { threads: 1 });
  const engine = await CompiledEngine.compile(runtime, setup, graphs, memory);
  const noise = toFloat32(await tensor("update.noise"));
  const { latentElements } = engine;
  const samples = reference.prompts.map((prompt, index): TrainingSample => {
    const initial = noise.subarray(index * latentElements, (index + 1) * latentElements);
    const mask = new Array<boolean>(reference.steps).fill(true);
    return { epoch: 0, index, prompt, mask, noise: () => ({ initial, step: () => initial }), rng: () => new Rng(0) };
  });
  const { gradient, loss } = await new Replica(engine, reward.name).gradient(estimator, samples, {
    parameters: lora,
    globalBatchSize: samples.length,
  });
  await engine.release();
  return Math.max(
    relativeError([loss], toFloat32(await tensor("update.loss"))),
    relativeError(gradient, inOrder(await tensor("update.gradient"))),
  );
}

async function runOnce(runtime: Runtime, graph: Graph, weights: WeightSource, feeds: Feeds) {
  const program = await runtime.compile(graph, weights);
  const results = await program.run(feeds);
  await program.release();
  return results;
}

/** Largest difference over the largest expected value; where all are expected to be 0, the largest difference. */
function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) throw new Error(`${actual.length} numbers, expected ${expected.length}`);
  let difference = 0;
  let largest = 0;
  for (let i = 0; i < expected.length; i++) {
    // Math.max passes NaN on, so that a NaN never counts as agreement.
    difference = Math.max(difference, Math.abs((actual[i] as number) - (expected[i] as number)));
    largest = Math.max(largest, Math.abs(expected[i] as number));
  }
  return largest === 0 ? difference : difference / largest;
}
