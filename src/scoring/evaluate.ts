/** The held-out prompts on fixed noise, so that pictures and rewards compare from step to step. */

import { type Cluster, singleProcess } from "../cluster/cluster.js";
import { shareOf } from "../cluster/share.js";
import { evaluationPrompts } from "../config/prompts.js";
import type { Settings } from "../config/settings.js";
import { runtimeOptions } from "../config/settings.js";
import { InputError } from "../errors/index.js";
import { type RgbImage, toRgb } from "../images/rgb.js";
import { toFlat } from "../pipeline/adapter.js";
import { annealingOf, type Picture, samplePictures } from "../pipeline/draw.js";
import { type OpenListener, openModel } from "../pipeline/open-model.js";
import { promptWarnings, withUnet } from "../pipeline/pipeline.js";
import { choosePrecision } from "../pipeline/precision.js";
import { type Annealing, Sampler } from "../pipeline/sampler.js";
import type { Reward } from "../rewards/index.js";
import { joinParts, type PartRewards } from "../rewards/scores.js";
import { Runtime } from "../runtime/runtime.js";
import type { LoraAdapter } from "../weights/lora-files.js";
import type { WeightSource } from "../weights/source.js";
import { distances, ImageEmbedder } from "./diversity.js";
import type { EvaluationResult } from "./evaluation.js";
import { openWatch, type Watch } from "./monitors.js";
import { openSettingsReward } from "./open-reward.js";
import { ImageJudge } from "./scorer.js";
import { meanAndStd } from "./statistics.js";

export interface EvaluateOptions extends OpenListener {
  readonly adapter?: LoraAdapter | undefined;
  /** A reward made in code (`defineReward`), in the place of the settings' own. */
  readonly reward?: Reward | undefined;
  /** Weights in the place of the model's U-Net. */
  readonly unet?: WeightSource | undefined;
  /** The power of annealed guidance from the model to what was tuned (`annealing.ts`). */
  readonly anneal?: number | undefined;
}

/** Samples the evaluation's pictures with the model, or with an adapter on it, and rewards them. */
export async function evaluate(
  settings: Settings,
  { adapter, unet, reward: given, anneal, ...listener }: EvaluateOptions = {},
): Promise<EvaluationResult> {
  const { signal, warn = () => {} } = listener;
  const model = await openModel(settings, listener);
  const pipeline = withUnet(model, unet);
  const reward = given ?? (await openSettingsReward(settings, listener));
  const watch = await openWatch(settings, listener);
  const lora = adapter && toFlat(pipeline, adapter);
  const prompts = evaluationPrompts(settings);
  const judges = [reward, ...(watch.heldOut ? [watch.heldOut] : [])];
  for (const message of promptWarnings(pipeline, prompts)) warn(message);
  for (const message of judges.flatMap((judge) => judge.warnings(prompts))) warn(message);
  const runtime = await Runtime.start(runtimeOptions(settings));
  try {
    const options = {
      batch: Math.min(settings.evaluation.batch, prompts.length * settings.evaluation.seeds_per_prompt),
      negativePrompt: settings.prompts.negative,
      precision: await choosePrecision(settings, runtime, warn),
    };
    const sampler = await Sampler.compile(runtime, pipeline, settings.sampling, { ...options, layout: lora?.layout });
    const from = unet && anneal !== undefined && (await Sampler.compile(runtime, model, settings.sampling, options));
    const annealing = annealingOf(anneal, sampler, from || undefined, lora?.weights);
    const evaluator = new Evaluator([{ runtime, sampler }], reward, settings, watch);
    return await evaluator.evaluate(lora?.weights, { signal, annealing });
  } finally {
    await runtime.close();
  }
}

/** Where pictures are drawn; several draw side by side (`lanes.ts`), each in batches of the same size. */
export interface EvaluatorLane {
  readonly runtime: Runtime;
  readonly sampler: Sampler;
}

export class Evaluator {
  private readonly judges: ReadonlyMap<EvaluatorLane, LaneJudges>;

  constructor(
    private readonly lanes: readonly EvaluatorLane[],
    private readonly reward: Reward,
    private readonly settings: Settings,
    private readonly watch: Watch = {},
    private readonly cluster: Cluster = singleProcess(),
  ) {
    this.judges = new Map(lanes.map((lane) => [lane, judgesOf(lane, reward, watch)]));
  }

  /** On ranks other than 0 the result has no images. */
  async evaluate(
    lora?: Float32Array,
    { signal, annealing }: { signal?: AbortSignal | undefined; annealing?: Annealing | undefined } = {},
  ): Promise<EvaluationResult> {
    // Every picture has a seed of its own, so that `generate` makes it again from its prompt and seed.
    const { seed, seeds_per_prompt } = this.settings.evaluation;
    const pictures = evaluationPrompts(this.settings)
      .flatMap((prompt) => new Array<string>(seeds_per_prompt).fill(prompt))
      .map((prompt, i) => ({ prompt, seed: (seed + i) % 2 ** 32 }));
    // Whole batches, as many for each lane as go around.
    const own = shareOf(pictures, this.cluster);
    const size = (this.lanes[0] as EvaluatorLane).sampler.batch;
    const share = Math.ceil(own.length / size / this.lanes.length) * size;
    const drawn = await Promise.all(
      this.lanes.map((lane, i) => this.draw(lane, own.slice(i * share, (i + 1) * share), lora, { signal, annealing })),
    );
    const images = await this.cluster.gather(drawn.map((each) => each.images));
    const shares = (await this.cluster.allGather(drawn.map(({ images: _, ...judged }) => judged))).flat();
    const rewards = shares.flatMap((drawn) => drawn.rewards);
    const heldOut = shares.flatMap((drawn) => drawn.heldOut);
    const prompts = pictures.map(({ prompt }) => prompt);
    const apart =
      this.watch.clip &&
      distances(
        prompts,
        shares.flatMap((drawn) => drawn.embeddings),
      );
    return {
      prompts,
      seeds: pictures.map(({ seed }) => seed),
      rewards,
      images: images.flat(2),
      ...meanAndStd(rewards),
      ...(this.reward.parts && { parts: joinParts(shares.map((drawn) => drawn.parts)) }),
      ...(this.watch.heldOut && { heldOut: { rewards: heldOut, ...meanAndStd(heldOut) } }),
      ...(apart && { diversity: { distances: apart, mean: meanAndStd(apart).mean } }),
    };
  }

  private async draw(
    lane: EvaluatorLane,
    pictures: readonly Picture[],
    lora: Float32Array | undefined,
    how: { readonly signal: AbortSignal | undefined; readonly annealing: Annealing | undefined },
  ): Promise<Drawn> {
    const judges = this.judges.get(lane) as LaneJudges;
    const rewards: number[] = [];
    const heldOut: number[] = [];
    const embeddings: Float32Array[] = [];
    const parts: (PartRewards | undefined)[] = [];
    const images: RgbImage[] = [];
    for await (const batch of samplePictures(lane.sampler, pictures, lora, how)) {
      const judged = await judges.reward.judge(batch.images, batch.prompts);
      parts.push(judged.parts && firstOf(judged.parts, batch.pictures.length));
      rewards.push(...finite(judged.rewards, this.reward, batch.pictures));
      if (judges.heldOut && this.watch.heldOut) {
        const seen = await judges.heldOut.judge(batch.images, batch.prompts);
        heldOut.push(...finite(seen.rewards, this.watch.heldOut, batch.pictures));
      }
      const embedded = (await judges.embedder?.embed(batch.images)) ?? [];
      embeddings.push(...embedded.slice(0, batch.pictures.length));
      images.push(...toRgb(batch.images).slice(0, batch.pictures.length));
    }
    return { rewards, heldOut, embeddings, images, parts: joinParts(parts) };
  }
}

/** What looks at the pictures of one lane. */
interface LaneJudges {
  readonly reward: ImageJudge;
  readonly heldOut: ImageJudge | undefined;
  readonly embedder: ImageEmbedder | undefined;
}

function judgesOf({ runtime }: EvaluatorLane, reward: Reward, { heldOut, clip }: Watch): LaneJudges {
  return {
    reward: new ImageJudge(runtime, reward),
    heldOut: heldOut && new ImageJudge(runtime, heldOut),
    embedder: clip && new ImageEmbedder(runtime, clip),
  };
}

/** The pictures of one lane, and what was made of them; empty lists where nobody looked. */
interface Drawn {
  readonly rewards: readonly number[];
  readonly heldOut: readonly number[];
  readonly embeddings: readonly Float32Array[];
  readonly images: readonly RgbImage[];
  readonly parts: PartRewards | undefined;
}

/** The rewards of these pictures, without those of repetitions that fill the batch up. */
function finite(rewards: Float32Array, { name }: Reward, pictures: readonly Picture[]): number[] {
  return pictures.map(({ prompt, seed }, i) => {
    const value = rewards[i] as number;
    if (Number.isFinite(value)) return value;
    throw new InputError(
      "reward-invalid",
      `the reward ${name} is ${value} for the evaluation's "${prompt}" (seed ${seed})`,
    );
  });
}

/** The rest are repetitions that fill a batch up. */
function firstOf(parts: PartRewards, count: number): PartRewards {
  return Object.fromEntries(Object.entries(parts).map(([label, values]) => [label, values.slice(0, count)]));
}
