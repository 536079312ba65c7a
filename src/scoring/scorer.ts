/** Compiled rewards: the values of images and, in training, the gradient of the loss at their latents. */
import type { LossSettings } from "../config/index.js";
import type { Pipeline } from "../pipeline/index.js";
import type { BatchGradients, BatchLosses, BatchRewards, Reward } from "../rewards/index.js";
import type { Program, Runtime } from "../runtime/runtime.js";
import { float32, type HostTensor, toFloat32 } from "../tensor/host.js";
import { type ImageShape, imageScorerGraphs, lossAndSlope, partOutput, type TrainingScorerGraphs } from "./graphs.js";
import { byLabel, compileParts, type PartProgram, type PartScores, runParts } from "./part-programs.js";

export interface LatentScorerOptions {
  readonly graphs: TrainingScorerGraphs;
  readonly loss: LossSettings;
  /** Global batch size: the loss is the mean over these samples. */
  readonly samples: number;
}

/** Decodes and scores latents, with the gradient of the loss. */
export class LatentScorer {
  private constructor(
    private readonly source: Reward,
    private readonly programs: Programs,
    private readonly loss: LossSettings,
    private readonly samples: number,
  ) {}

  static async compile(
    runtime: Runtime,
    pipeline: Pipeline,
    reward: Reward,
    { graphs, loss, samples }: LatentScorerOptions,
  ): Promise<LatentScorer> {
    return new LatentScorer(reward, await compilePrograms(runtime, pipeline, reward, graphs), loss, samples);
  }

  /** latents [b, c, h, w] and b prompts → rewards, losses and gradients */
  async scoreWithGradient(latents: HostTensor, prompts: readonly string[]): Promise<BatchGradients> {
    const { programs } = this;
    switch (programs.kind) {
      case "joint":
        return await this.jointly(programs.program, latents, prompts);
      case "separate":
        return await this.separately(programs, latents, prompts);
      case "rewards":
        throw new TypeError("an estimator that calls scoreWithGradient must set usesRewardGradient: true");
    }
  }

  /** latents [b, c, h, w] and b prompts → rewards and losses */
  async score(latents: HostTensor, prompts: readonly string[]): Promise<BatchLosses> {
    const { programs } = this;
    if (programs.kind !== "rewards") return await this.scoreWithGradient(latents, prompts);
    const { images } = (await programs.decode.run({ latents })) as { images: HostTensor };
    const scores = await runParts(programs.parts, images, prompts);
    const losses = scores.rewards.map((reward) => lossAndSlope(reward, this.loss)[0]);
    return { rewards: scores.rewards, losses, ...this.partsOf(scores, prompts) };
  }

  async release(): Promise<void> {
    for (const program of allPrograms(this.programs)) await program.release();
  }

  private async jointly(program: Program, latents: HostTensor, prompts: readonly string[]): Promise<BatchGradients> {
    const found = await program.run({ ...this.source.feeds(prompts), latents });
    const row = (name: string) => toFloat32(found[name] as HostTensor);
    const { parts } = this.source;
    return {
      rewards: row("rewards"),
      losses: row("losses"),
      dLatents: row("dLatents"),
      ...(parts && { parts: byLabel(parts, (i) => row(partOutput(i)), prompts) }),
    };
  }

  private async separately(
    { decode, parts, backward }: SeparatePrograms,
    latents: HostTensor,
    prompts: readonly string[],
  ): Promise<BatchGradients> {
    const { images } = (await decode.run({ latents })) as { images: HostTensor };
    const scores = await runParts(parts, images, prompts);
    const losses = new Float32Array(prompts.length);
    // dL/dImages = dL/dReward · Σ over the parts of their gradients.
    const each = scores.dImages.length / prompts.length;
    for (const [i, reward] of scores.rewards.entries()) {
      const [loss, slope] = lossAndSlope(reward, this.loss);
      losses[i] = loss;
      const own = scores.dImages.subarray(i * each, (i + 1) * each);
      for (let at = 0; at < each; at++) own[at] = ((own[at] as number) * slope) / this.samples;
    }
    const { dLatents } = await backward.run({ latents, dImages: float32(scores.dImages, images.shape) });
    return {
      rewards: scores.rewards,
      losses,
      dLatents: toFloat32(dLatents as HostTensor),
      ...this.partsOf(scores, prompts),
    };
  }

  private partsOf({ values }: PartScores, prompts: readonly string[]): Pick<BatchRewards, "parts"> {
    const { parts } = this.source;
    return parts ? { parts: byLabel(parts, (i) => values[i] as Float32Array, prompts) } : {};
  }
}

/** Scores images. It compiles a program for each new shape of a batch. */
export class ImageScorer {
  private readonly compiled = new Map<string, Promise<PartProgram[]>>();

  constructor(
    private readonly runtime: Runtime,
    private readonly reward: Reward,
  ) {}

  /** images [b, 3, h, w] in 0 … 1 and b prompts → rewards */
  async score(images: HostTensor, prompts: readonly string[]): Promise<BatchRewards> {
    const { rewards, values } = await runParts(
      await this.programsFor(images.shape as unknown as ImageShape),
      images,
      prompts,
    );
    const { parts } = this.reward;
    return { rewards, ...(parts && { parts: byLabel(parts, (i) => values[i] as Float32Array, prompts) }) };
  }

  async release(): Promise<void> {
    for (const compiling of this.compiled.values()) for (const { program } of await compiling) await program.release();
    this.compiled.clear();
  }

  private programsFor(shape: ImageShape): Promise<PartProgram[]> {
    const key = shape.join("x");
    const compiling = this.compiled.get(key) ?? compileParts(this.runtime, imageScorerGraphs(this.reward, shape));
    this.compiled.set(key, compiling);
    return compiling;
  }
}

interface SeparatePrograms {
  readonly kind: "separate";
  readonly decode: Program;
  readonly parts: readonly PartProgram[];
  readonly backward: Program;
}

type Programs =
  | { readonly kind: "joint"; readonly program: Program }
  | SeparatePrograms
  | { readonly kind: "rewards"; readonly decode: Program; readonly parts: readonly PartProgram[] };

async function compilePrograms(
  runtime: Runtime,
  pipeline: Pipeline,
  _reward: Reward,
  graphs: TrainingScorerGraphs,
): Promise<Programs> {
  if (graphs.kind === "joint") {
    return { kind: "joint", program: await runtime.compile(graphs.graph, graphs.weights) };
  }
  const [decode, parts] = await Promise.all([
    runtime.compile(graphs.decode, pipeline.weights),
    compileParts(runtime, graphs.parts),
  ]);
  if (graphs.kind === "rewards") return { kind: "rewards", decode, parts };
  return { kind: "separate", decode, parts, backward: await runtime.compile(graphs.backward, pipeline.weights) };
}

function allPrograms(programs: Programs): Program[] {
  if (programs.kind === "joint") return [programs.program];
  const parts = programs.parts.map(({ program }) => program);
  return [programs.decode, ...parts, ...(programs.kind === "separate" ? [programs.backward] : [])];
}
