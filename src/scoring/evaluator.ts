/** Evaluates a model: images of the evaluation prompts on fixed noise, so that images and rewards compare from step to step. */

import { type Cluster, shareOf, singleProcess } from "../cluster/index.js";
import { evaluationPrompts, type SettingsPart } from "../config/index.js";
import { InputError } from "../errors/index.js";
import { type RgbImage, toRgb } from "../images/rgb.js";
import { type ImageRequest, type SampleImagesOptions, type Sampler, sampleImages } from "../pipeline/index.js";
import { joinParts, type PartRewards, type Reward } from "../rewards/index.js";
import type { Runtime } from "../runtime/runtime.js";
import { distances, ImageEmbedder } from "./diversity.js";
import type { EvaluationResult } from "./evaluation.js";
import type { Monitors } from "./monitors.js";
import { ImageScorer } from "./scorer.js";
import { meanAndStd } from "./statistics.js";

/** A sampler and its runtime. Several generate images side by side, each in batches of the same size. */
export interface EvaluationReplica {
  readonly runtime: Runtime;
  readonly sampler: Sampler;
}

export interface EvaluatorOptions {
  readonly replicas: readonly EvaluationReplica[];
  readonly reward: Reward;
  readonly settings: SettingsPart<"evaluation" | "prompts">;
  readonly monitors?: Monitors;
  readonly cluster?: Cluster;
}

export class Evaluator {
  private readonly scorers: readonly ReplicaScorers[];

  constructor(private readonly options: EvaluatorOptions) {
    const { replicas, reward, monitors = {} } = options;
    this.scorers = replicas.map((replica) => scorersOf(replica, reward, monitors));
  }

  /** `parameters` are those of an adapter or a U-Net, as one vector. On ranks other than 0 the result has no images. */
  async evaluate(parameters?: Float32Array, sampling: SampleImagesOptions = {}): Promise<EvaluationResult> {
    const { settings, reward, monitors = {}, cluster = singleProcess() } = this.options;
    // Every image has a seed of its own, so that `generate` reproduces it from its prompt and seed.
    const { seed, seeds_per_prompt } = settings.evaluation;
    const requests = evaluationPrompts(settings)
      .flatMap((prompt) => new Array<string>(seeds_per_prompt).fill(prompt))
      .map((prompt, i) => ({ prompt, seed: (seed + i) % 2 ** 32 }));
    // Each replica takes whole batches.
    const own = shareOf(requests, cluster);
    const batch = (this.scorers[0] as ReplicaScorers).replica.sampler.batch;
    const share = Math.ceil(own.length / batch / this.scorers.length) * batch;
    const generated = await Promise.all(
      this.scorers.map((scorers, i) =>
        this.generate(scorers, own.slice(i * share, (i + 1) * share), parameters, sampling),
      ),
    );
    const images = await cluster.gather(generated.map((each) => each.images));
    const scores = (await cluster.allGather(generated.map(({ images: _, ...scores }) => scores))).flat();
    const rewards = scores.flatMap((each) => each.rewards);
    const heldOut = scores.flatMap((each) => each.heldOut);
    const embeddings = scores.flatMap((each) => each.embeddings);
    const prompts = requests.map(({ prompt }) => prompt);
    const apart = monitors.clip && distances(prompts, embeddings);
    return {
      prompts,
      seeds: requests.map(({ seed }) => seed),
      rewards,
      images: images.flat(2),
      ...meanAndStd(rewards),
      ...(reward.parts && { parts: joinParts(scores.map((each) => each.parts)) }),
      ...(monitors.heldOut && { heldOut: { rewards: heldOut, ...meanAndStd(heldOut) } }),
      ...(apart && { diversity: { distances: apart, mean: meanAndStd(apart).mean } }),
    };
  }

  private async generate(
    { replica, reward, heldOut, embedder }: ReplicaScorers,
    requests: readonly ImageRequest[],
    parameters: Float32Array | undefined,
    sampling: SampleImagesOptions,
  ): Promise<Generated> {
    const { monitors = {} } = this.options;
    const rewards: number[] = [];
    const held: number[] = [];
    const embeddings: Float32Array[] = [];
    const parts: (PartRewards | undefined)[] = [];
    const images: RgbImage[] = [];
    for await (const batch of sampleImages(replica.sampler, requests, parameters, sampling)) {
      const count = batch.requests.length;
      const scores = await reward.score(batch.images, batch.prompts);
      parts.push(scores.parts && firstOf(scores.parts, count));
      rewards.push(...finiteRewards(scores.rewards, this.options.reward, batch.requests));
      if (heldOut && monitors.heldOut) {
        const found = await heldOut.score(batch.images, batch.prompts);
        held.push(...finiteRewards(found.rewards, monitors.heldOut, batch.requests));
      }
      const embedded = (await embedder?.embed(batch.images)) ?? [];
      embeddings.push(...embedded.slice(0, count));
      images.push(...toRgb(batch.images).slice(0, count));
    }
    return { rewards, heldOut: held, embeddings, images, parts: joinParts(parts) };
  }
}

/** The programs that score the images of one replica. */
interface ReplicaScorers {
  readonly replica: EvaluationReplica;
  readonly reward: ImageScorer;
  readonly heldOut: ImageScorer | undefined;
  readonly embedder: ImageEmbedder | undefined;
}

function scorersOf(replica: EvaluationReplica, reward: Reward, { heldOut, clip }: Monitors): ReplicaScorers {
  const { runtime } = replica;
  return {
    replica,
    reward: new ImageScorer(runtime, reward),
    heldOut: heldOut && new ImageScorer(runtime, heldOut),
    embedder: clip && new ImageEmbedder(runtime, clip),
  };
}

/** The images of one replica and their scores. Lists of absent monitors are empty. */
interface Generated {
  readonly rewards: readonly number[];
  readonly heldOut: readonly number[];
  readonly embeddings: readonly Float32Array[];
  readonly images: readonly RgbImage[];
  readonly parts: PartRewards | undefined;
}

/** The rewards of the requested images, without the copies that fill up the batch. */
function finiteRewards(rewards: Float32Array, { name }: Reward, requests: readonly ImageRequest[]): number[] {
  return requests.map(({ prompt, seed }, i) => {
    const value = rewards[i] as number;
    if (Number.isFinite(value)) return value;
    throw new InputError(
      "not-finite",
      `the reward ${name} is ${value} for the evaluation prompt "${prompt}" (seed ${seed})`,
      { reward: name, prompt, seed },
    );
  });
}

/** Without the copies that fill up the batch. */
function firstOf(parts: PartRewards, count: number): PartRewards {
  return Object.fromEntries(Object.entries(parts).map(([label, values]) => [label, values.slice(0, count)]));
}
