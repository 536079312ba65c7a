/** The compiled side of rewards: what pictures are worth and, in training, which way their latents should go. */

import type { Settings } from "../config/settings.js";
import type { Pipeline } from "../pipeline/pipeline.js";
import type { Reward, RewardPart } from "../rewards/index.js";
import type { Judged, JudgedLatents, JudgedPictures, PartRewards } from "../rewards/scores.js";
import type { Program, Runtime } from "../runtime/runtime.js";
import { float32, type HostTensor, toFloat32 } from "../tensor/host.js";
import { merge } from "../weights/source.js";
import { imageJudge, lossAndSlope, type PartGraph, partOutput, type TrainingJudge } from "./graphs.js";

/** Rewards latents and gives the gradient of the loss. */
export class LatentJudge {
  private constructor(
    private readonly source: Reward,
    private readonly programs: Programs,
    private readonly loss: Settings["loss"],
    private readonly samples: number,
  ) {}

  static async compile(
    runtime: Runtime,
    pipeline: Pipeline,
    reward: Reward,
    graphs: TrainingJudge,
    { loss, batch }: Pick<Settings, "loss" | "batch">,
  ): Promise<LatentJudge> {
    const programs = await compileJudge(runtime, pipeline, reward, graphs);
    return new LatentJudge(reward, programs, loss, batch.total);
  }

  /** latents [b, c, h, w], and the prompt of each */
  async judge(latents: HostTensor, prompts: readonly string[]): Promise<JudgedLatents> {
    const { programs } = this;
    switch (programs.kind) {
      case "joint":
        return await this.jointly(programs.program, latents, prompts);
      case "apart":
        return await this.apart(programs, latents, prompts);
      case "rewards":
        throw new TypeError(
          `the estimator has no use for the gradient of the reward ${this.source.name}, and there is none`,
        );
    }
  }

  /** The same without the gradient. */
  async reward(latents: HostTensor, prompts: readonly string[]): Promise<JudgedPictures> {
    const { programs } = this;
    if (programs.kind !== "rewards") return await this.judge(latents, prompts);
    const { images } = (await programs.decode.run({ latents })) as { images: HostTensor };
    const seen = await runParts(programs.parts, images, prompts);
    const losses = seen.rewards.map((reward) => lossAndSlope(reward, this.loss)[0]);
    return { rewards: seen.rewards, losses, ...this.partsOf(seen, prompts) };
  }

  async release(): Promise<void> {
    const { programs } = this;
    const all =
      programs.kind === "joint"
        ? [programs.program]
        : [
            programs.decode,
            ...(programs.kind === "apart" ? [programs.back] : []),
            ...programs.parts.map(({ program }) => program),
          ];
    for (const program of all) await program.release();
  }

  private async jointly(program: Program, latents: HostTensor, prompts: readonly string[]): Promise<JudgedLatents> {
    const found = await program.run({ ...this.source.feeds(prompts), latents });
    const row = (name: string) => toFloat32(found[name] as HostTensor);
    const { parts } = this.source;
    return {
      rewards: row("rewards"),
      losses: row("losses"),
      dLatents: row("dLatents"),
      ...(parts && { parts: byLabel(parts, (_, i) => row(partOutput(i)), prompts) }),
    };
  }

  private async apart({ decode, parts, back }: Apart, latents: HostTensor, prompts: readonly string[]) {
    const { images } = (await decode.run({ latents })) as { images: HostTensor };
    const seen = await runParts(parts, images, prompts);
    const losses = new Float32Array(prompts.length);
    // dL/dImages of a picture is the loss's slope there times the sum of its parts' gradients.
    const each = seen.dImages.length / prompts.length;
    for (const [i, reward] of seen.rewards.entries()) {
      const [loss, slope] = lossAndSlope(reward, this.loss);
      losses[i] = loss;
      const own = seen.dImages.subarray(i * each, (i + 1) * each);
      for (let at = 0; at < each; at++) own[at] = ((own[at] as number) * slope) / this.samples;
    }
    const { dLatents } = await back.run({ latents, dImages: float32(seen.dImages, images.shape) });
    return {
      rewards: seen.rewards,
      losses,
      dLatents: toFloat32(dLatents as HostTensor),
      ...this.partsOf(seen, prompts),
    };
  }

  private partsOf({ values }: Seen, prompts: readonly string[]): Pick<Judged, "parts"> {
    const { parts } = this.source;
    return parts ? { parts: byLabel(parts, (_, i) => values[i] as Float32Array, prompts) } : {};
  }
}

/** Rewards pictures; compiles its programs for each new size and number of them. */
export class ImageJudge {
  private readonly compiled = new Map<string, Promise<PartProgram[]>>();

  constructor(
    private readonly runtime: Runtime,
    private readonly reward: Reward,
  ) {}

  /** images [b, 3, h, w] in 0 … 1, and the prompt of each */
  async judge(images: HostTensor, prompts: readonly string[]): Promise<Judged> {
    const key = images.shape.join("x");
    const compiling = this.compiled.get(key) ?? this.compile(images.shape as [number, number, number, number]);
    this.compiled.set(key, compiling);
    const { rewards, values } = await runParts(await compiling, images, prompts);
    const { parts } = this.reward;
    return { rewards, ...(parts && { parts: byLabel(parts, (_, i) => values[i] as Float32Array, prompts) }) };
  }

  async release(): Promise<void> {
    for (const compiling of this.compiled.values()) for (const { program } of await compiling) await program.release();
    this.compiled.clear();
  }

  private async compile(shape: readonly [number, number, number, number]): Promise<PartProgram[]> {
    return await compileParts(this.runtime, imageJudge(this.reward, shape));
  }
}

interface PartProgram extends PartGraph {
  readonly program: Program;
}

interface Apart {
  readonly kind: "apart";
  readonly decode: Program;
  readonly parts: readonly PartProgram[];
  readonly back: Program;
}

type Programs =
  | { readonly kind: "joint"; readonly program: Program }
  | Apart
  | { readonly kind: "rewards"; readonly decode: Program; readonly parts: readonly PartProgram[] };

async function compileJudge(
  runtime: Runtime,
  pipeline: Pipeline,
  reward: Reward,
  graphs: TrainingJudge,
): Promise<Programs> {
  if (graphs.kind === "joint") {
    return { kind: "joint", program: await runtime.compile(graphs.graph, merge(pipeline.weights, reward.weights)) };
  }
  const decode = await runtime.compile(graphs.decode, pipeline.weights);
  const parts = await compileParts(runtime, graphs.parts);
  if (graphs.kind === "rewards") return { kind: "rewards", decode, parts };
  return {
    kind: "apart",
    decode,
    parts,
    back: await runtime.compile(graphs.back, pipeline.weights),
  };
}

async function compileParts(runtime: Runtime, parts: readonly PartGraph[]): Promise<PartProgram[]> {
  const programs: PartProgram[] = [];
  for (const part of parts) {
    programs.push({ ...part, program: await runtime.compile(part.graph, part.part.reward.weights) });
  }
  return programs;
}

interface Seen {
  /** The sum over the parts, of each picture. */
  readonly rewards: Float32Array;
  /** Of each part what it makes of each picture; 0 where it does not judge. */
  readonly values: readonly Float32Array[];
  /** Of the sum, like the images; of length 0 where the parts' graphs give no gradients. */
  readonly dImages: Float32Array;
}

/** Each part on the pictures that it judges, as many at once as it takes. */
async function runParts(parts: readonly PartProgram[], images: HostTensor, prompts: readonly string[]): Promise<Seen> {
  const pixels = toFloat32(images);
  const each = pixels.length / prompts.length;
  const withGradient = parts.some(({ graph }) => graph.outputs.dImages !== undefined);
  const rewards = new Float32Array(prompts.length);
  const dImages = new Float32Array(withGradient ? pixels.length : 0);
  const values: Float32Array[] = [];
  for (const { part, batch, program } of parts) {
    const kept = new Float32Array(prompts.length);
    const judged = [...prompts.keys()].filter((i) => part.judges(prompts[i] as string));
    for (let start = 0; start < judged.length; start += batch) {
      const some = judged.slice(start, start + batch);
      // Filled up with repetitions of the last one.
      const full = Array.from({ length: batch }, (_, i) => some[Math.min(i, some.length - 1)] as number);
      const rows = new Float32Array(batch * each);
      for (const [at, i] of full.entries()) rows.set(pixels.subarray(i * each, (i + 1) * each), at * each);
      const given = float32(rows, [batch, ...images.shape.slice(1)]);
      const own = full.map((i) => prompts[i] as string);
      const { reward } = part;
      const found = await program.run(
        reward.outside
          ? { given: await outsideValues(reward.outside, given, own, some.length) }
          : { ...reward.feeds(own), images: given },
      );
      const [value, worth] = [toFloat32(found.values as HostTensor), toFloat32(found.worth as HostTensor)];
      const slopes = withGradient ? toFloat32(found.dImages as HostTensor) : undefined;
      for (const [at, i] of some.entries()) {
        kept[i] = value[at] as number;
        rewards[i] = (rewards[i] as number) + (worth[at] as number);
        for (let p = 0; slopes && p < each; p++) {
          dImages[i * each + p] = (dImages[i * each + p] as number) + (slopes[at * each + p] as number);
        }
      }
    }
    values.push(kept);
  }
  return { rewards, values, dImages };
}

/** Of the first `count` pictures; the others repeat the last of them. */
async function outsideValues(
  judge: NonNullable<Reward["outside"]>,
  images: HostTensor,
  prompts: readonly string[],
  count: number,
): Promise<HostTensor> {
  const [batch, ...rest] = images.shape as [number, ...number[]];
  const some = float32(toFloat32(images).subarray(0, (images.data.length / batch) * count), [count, ...rest]);
  const found = await judge(some, prompts.slice(0, count));
  return float32(
    Float32Array.from({ length: batch }, (_, i) => found[Math.min(i, count - 1)] as number),
    [batch],
  );
}

function byLabel(
  parts: readonly RewardPart[],
  valuesOf: (part: RewardPart, i: number) => Float32Array,
  prompts: readonly string[],
): PartRewards {
  return Object.fromEntries(
    parts.map((part, i) => {
      const values = valuesOf(part, i);
      return [part.label, prompts.map((prompt, at) => (part.judges(prompt) ? (values[at] as number) : null))];
    }),
  );
}
