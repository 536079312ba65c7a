/** The held-out prompts on fixed noise, so that pictures and rewards compare from step to step. */
import type { Reward } from "../rewards/index.js";
import { Runtime } from "../runtime/runtime.js";
import { InputError } from "../tensor/errors.js";
import type { LoraAdapter } from "../weights/lora-files.js";
import type { WeightSource } from "../weights/source.js";
import { toFlat } from "./adapter.js";
import type { EvaluationResult, RgbImage } from "./events.js";
import { ImageJudge, joinParts, type PartRewards } from "./judge.js";
import { type OpenListener, openModel } from "./open-model.js";
import { type Picture, samplePictures, toRgb } from "./pictures.js";
import { promptWarnings, withUnet } from "./pipeline.js";
import { choosePrecision } from "./precision.js";
import { openSettingsReward } from "./reward.js";
import { Sampler } from "./sampler.js";
import { inTemplate } from "./samples.js";
import type { Settings } from "./settings.js";

export interface EvaluateOptions extends OpenListener {
  readonly adapter?: LoraAdapter | undefined;
  /** A reward made in code (`defineReward`), in the place of the settings' own. */
  readonly reward?: Reward | undefined;
  /** Weights in the place of the model's U-Net. */
  readonly unet?: WeightSource | undefined;
}

/** Samples the evaluation's pictures with the model, or with an adapter on it, and rewards them. */
export async function evaluate(
  settings: Settings,
  { adapter, unet, reward: given, ...listener }: EvaluateOptions = {},
): Promise<EvaluationResult> {
  const { signal, warn = () => {} } = listener;
  const pipeline = withUnet(await openModel(settings, listener), unet);
  const reward = given ?? (await openSettingsReward(settings, listener));
  const lora = adapter && toFlat(pipeline, adapter);
  const prompts = evaluationPrompts(settings);
  for (const message of [...promptWarnings(pipeline, prompts), ...reward.warnings(prompts)]) warn(message);
  const runtime = await Runtime.start(runtimeOptions(settings));
  try {
    const sampler = await Sampler.compile(runtime, pipeline, settings.sampling, {
      batch: Math.min(settings.evaluation.batch, prompts.length * settings.evaluation.seeds_per_prompt),
      layout: lora?.layout,
      negativePrompt: settings.prompts.negative,
      precision: await choosePrecision(settings, runtime, warn),
    });
    const evaluator = new Evaluator([{ runtime, sampler }], reward, settings);
    return await evaluator.evaluate(lora?.weights, signal);
  } finally {
    await runtime.close();
  }
}

export function runtimeOptions({ device, threads }: Pick<Settings, "device" | "threads">) {
  return { device, ...(threads !== null && { threads }) };
}

/** Where pictures are drawn; several draw side by side (`lanes.ts`), each in batches of the same size. */
export interface EvaluatorLane {
  readonly runtime: Runtime;
  readonly sampler: Sampler;
}

export class Evaluator {
  private readonly judges: ReadonlyMap<EvaluatorLane, ImageJudge>;

  constructor(
    private readonly lanes: readonly EvaluatorLane[],
    private readonly reward: Reward,
    private readonly settings: Settings,
  ) {
    this.judges = new Map(lanes.map((lane) => [lane, new ImageJudge(lane.runtime, reward)]));
  }

  async evaluate(lora?: Float32Array, signal?: AbortSignal): Promise<EvaluationResult> {
    // Every picture has a seed of its own, so that `generate` makes it again from its prompt and seed.
    const { seed, seeds_per_prompt } = this.settings.evaluation;
    const pictures = evaluationPrompts(this.settings)
      .flatMap((prompt) => new Array<string>(seeds_per_prompt).fill(prompt))
      .map((prompt, i) => ({ prompt, seed: (seed + i) % 2 ** 32 }));
    // Whole batches, as many for each lane as go around.
    const size = (this.lanes[0] as EvaluatorLane).sampler.batch;
    const share = Math.ceil(pictures.length / size / this.lanes.length) * size;
    const shares = await Promise.all(
      this.lanes.map((lane, i) => this.draw(lane, pictures.slice(i * share, (i + 1) * share), lora, signal)),
    );
    const rewards = shares.flatMap((drawn) => drawn.rewards);
    return {
      prompts: pictures.map(({ prompt }) => prompt),
      seeds: pictures.map(({ seed }) => seed),
      rewards,
      images: shares.flatMap((drawn) => drawn.images),
      ...meanAndStd(rewards),
      ...(this.reward.parts && { parts: joinParts(shares.map((drawn) => drawn.parts)) }),
    };
  }

  private async draw(
    lane: EvaluatorLane,
    pictures: readonly Picture[],
    lora: Float32Array | undefined,
    signal: AbortSignal | undefined,
  ): Promise<{ rewards: number[]; images: RgbImage[]; parts: PartRewards | undefined }> {
    const rewards: number[] = [];
    const parts: (PartRewards | undefined)[] = [];
    const images: RgbImage[] = [];
    for await (const batch of samplePictures(lane.sampler, pictures, lora, signal)) {
      const judged = await (this.judges.get(lane) as ImageJudge).judge(batch.images, batch.prompts);
      parts.push(judged.parts && firstOf(judged.parts, batch.pictures.length));
      for (const [i, { prompt, seed }] of batch.pictures.entries()) {
        const value = judged.rewards[i] as number;
        if (!Number.isFinite(value)) {
          throw new InputError(
            `the reward ${this.reward.name} is ${value} for the evaluation's "${prompt}" (seed ${seed})`,
          );
        }
        rewards.push(value);
      }
      images.push(...toRgb(batch.images).slice(0, batch.pictures.length));
    }
    return { rewards, images, parts: joinParts(parts) };
  }
}

/** The rest are repetitions that fill a batch up. */
function firstOf(parts: PartRewards, count: number): PartRewards {
  return Object.fromEntries(Object.entries(parts).map(([label, values]) => [label, values.slice(0, count)]));
}

export function evaluationPrompts({ prompts }: Settings): string[] {
  return prompts.eval.map((prompt) => inTemplate(prompt, prompts.template));
}

/** The population's standard deviation, as NumPy's default. */
export function meanAndStd(values: readonly number[]): { mean: number; std: number } {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const variance = values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length;
  return { mean, std: Math.sqrt(variance) };
}
