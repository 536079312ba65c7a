/** Computes the results of a folder of parity/families.py here, and compares them with those of PyTorch. */
import { join } from "node:path";
import { gradients } from "../src/autodiff/index.js";
import { CompiledEngine, planWork, Replica } from "../src/engine/index.js";
import { type DirectEstimator, openEstimator, type TrainingSample } from "../src/estimators/index.js";
import type { Graph } from "../src/graph/graph.js";
import type { Value } from "../src/graph/value.js";
import { unet, unetInputs } from "../src/models/unet/unet.js";
import { encode } from "../src/models/vae/vae.js";
import { joinFlat } from "../src/nn/flat.js";
import { loraAdapter } from "../src/nn/lora.js";
import { frozenScope } from "../src/nn/scope.js";
import { input } from "../src/ops/index.js";
import { decodeGraph, PromptEncoder, Sampler, textGraph } from "../src/pipeline/index.js";
import { openReward, pathsOnly, rewardSettings } from "../src/rewards/index.js";
import type { Feeds, Runtime } from "../src/runtime/runtime.js";
import { float32, fromNumbers, type HostTensor, toFloat32 } from "../src/tensor/host.js";
import { Rng } from "../src/tensor/rng.js";
import type { WeightSource } from "../src/weights/source.js";
import { type Family, openFamily } from "./family.js";

/** The largest relative error of each comparison: 1e-4 for one call of a model, 1e-3 for a chain of calls. */
export const TOLERANCES = {
  "text embeddings": 1e-4,
  "U-Net call": 1e-4,
  "U-Net gradients": 1e-4,
  "DDIM trajectory": 1e-3,
  "VAE encode": 1e-4,
  "VAE decode": 1e-4,
  "training step": 1e-3,
} as const;

export type Comparison = keyof typeof TOLERANCES;
export type FamilyErrors = Readonly<Record<Comparison, number>>;

/** `reward` is a folder with clip/ and aesthetic/. */
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
    "training step": await compareTrainingStep(family, reward),
  };
}

/** The largest error of the text embeddings and pooled embeddings, of the prompts and of the negative prompt. */
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
    if ((found !== undefined) !== has(name)) throw new Error(`${name}: only one side has this tensor`);
    if (found) worst = Math.max(worst, relativeError(toFloat32(found), toFloat32(await tensor(name))));
  }
  return worst;
}

/** One call with the adapter and without guidance, on the text embeddings of PyTorch; gradients of latents and adapter. */
async function compareUnetCall({ runtime, pipeline, reference, layout, lora, tensor, inLayoutOrder }: Family) {
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
  const dLora = inLayoutOrder(await tensor("unet.gradient.lora"));
  return {
    output: await error("output", "unet.output"),
    gradients: Math.max(
      await error("dLatents", "unet.gradient.latents"),
      relativeError(toFloat32(results.dLora as HostTensor), dLora),
    ),
  };
}

/** All x_t of a denoising chain with guidance and the adapter. Includes the text encoder. */
async function compareTrajectory({ runtime, pipeline, settings, reference, layout, lora, tensor }: Family) {
  const { prompts, negative: negativePrompt } = reference;
  const batch = prompts.length;
  const sampler = await Sampler.compile(runtime, pipeline, settings.sampling, { batch, layout, negativePrompt });
  const noise = toFloat32(await tensor("ddim.noise"));
  const conditioning = await sampler.condition(prompts, lora);
  const { latents, final } = await sampler.sample(conditioning, noise, () => new Float32Array(noise.length));
  await sampler.release();
  const expected = toFloat32(await tensor("ddim.trajectory"));
  const denoised = [...latents.slice(1), final];
  return Math.max(
    ...denoised.map((x, step) => relativeError(x, expected.subarray(step * x.length, (step + 1) * x.length))),
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

/** The decoder of this project returns images in 0 … 1, clamped. */
async function compareDecode({ runtime, pipeline, tensor }: Family): Promise<number> {
  const latents = await tensor("vae.latents");
  const [batch, , height, width] = latents.shape as [number, number, number, number];
  const graph = decodeGraph(pipeline, batch, { height, width });
  const found = await runOnce(runtime, graph, pipeline.weights, { latents });
  const expected = toFloat32(await tensor("vae.decoded")).map((x) => Math.min(1, Math.max(0, x / 2 + 0.5)));
  return relativeError(toFloat32(found.images as HostTensor), expected);
}

/** The loss and the gradient of a training step that differentiates all denoising steps. */
async function compareTrainingStep(family: Family, rewardFolder: string): Promise<number> {
  const { runtime, pipeline, settings, reference, layout, lora, tensor, inLayoutOrder } = family;
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
    relativeError(gradient, inLayoutOrder(await tensor("update.gradient"))),
  );
}

async function runOnce(runtime: Runtime, graph: Graph, weights: WeightSource, feeds: Feeds) {
  const program = await runtime.compile(graph, weights);
  const results = await program.run(feeds);
  await program.release();
  return results;
}

/** Largest difference, divided by the largest expected value. If all expected values are 0, the largest difference. */
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
