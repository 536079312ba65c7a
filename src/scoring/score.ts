/** The reward of pictures that are there already, by the same programs that judge an evaluation's. */

import type { Settings } from "../config/settings.js";
import { runtimeOptions } from "../config/settings.js";
import { InputError } from "../errors/index.js";
import { imageTensor, type RgbImage } from "../images/rgb.js";
import type { OpenListener } from "../pipeline/open-model.js";
import type { Reward } from "../rewards/index.js";
import { joinParts, type PartRewards } from "../rewards/scores.js";
import { Runtime } from "../runtime/runtime.js";
import { openSettingsReward } from "./open-reward.js";
import { ImageJudge } from "./scorer.js";
import { meanAndStd } from "./statistics.js";

export interface ScoredPicture {
  /** As messages call it, such as its file. */
  readonly name: string;
  /** What it was made from; rewards that read prompts need one. */
  readonly prompt?: string | undefined;
  read(): Promise<RgbImage>;
}

export interface ScoreOptions extends OpenListener {
  /** A reward made in code (`defineReward`), in the place of the settings' own. */
  readonly reward?: Reward | undefined;
}

export interface Scores {
  /** Of each picture. */
  readonly rewards: readonly number[];
  readonly mean: number;
  readonly std: number;
  /** Where the reward is a combination. */
  readonly parts?: PartRewards | undefined;
}

export async function score(
  pictures: readonly ScoredPicture[],
  settings: Pick<Settings, "reward" | "device" | "threads" | "loading">,
  { reward: given, ...listener }: ScoreOptions = {},
): Promise<Scores> {
  if (pictures.length === 0) throw new InputError("reward-invalid", "score: no pictures");
  const { signal, warn = () => {} } = listener;
  const reward = given ?? (await openSettingsReward(settings, listener));
  requirePrompts(reward, pictures);
  const prompts = pictures.map(({ prompt }) => prompt ?? "");
  for (const message of reward.warnings(prompts)) warn(message);
  const runtime = await Runtime.start(runtimeOptions(settings));
  try {
    const judge = new ImageJudge(runtime, reward);
    const rewards: number[] = [];
    const parts: (PartRewards | undefined)[] = [];
    let size = "";
    for (const [i, picture] of pictures.entries()) {
      signal?.throwIfAborted();
      // One at a time: pictures differ in size, and each size is a program of its own.
      const image = await picture.read();
      if (`${image.width}x${image.height}` !== size) await judge.release();
      size = `${image.width}x${image.height}`;
      const judged = await judge.judge(imageTensor(image), [prompts[i] as string]);
      const value = judged.rewards[0] as number;
      if (!Number.isFinite(value))
        throw new InputError("reward-invalid", `${picture.name}: the reward ${reward.name} is ${value}`);
      rewards.push(value);
      parts.push(judged.parts);
    }
    return { rewards, ...meanAndStd(rewards), ...(reward.parts && { parts: joinParts(parts) }) };
  } finally {
    await runtime.close();
  }
}

/** What reads prompts has inputs for them. */
function requirePrompts(reward: Reward, pictures: readonly ScoredPicture[]): void {
  const without = pictures.find(({ prompt }) => prompt === undefined);
  if (without === undefined || Object.keys(reward.feeds([""])).length === 0) return;
  throw new InputError(
    "reward-invalid",
    `${without.name}: the reward ${reward.name} judges a picture by its prompt, and none is known; give it with --prompt, or score a folder with an index.json as this program writes it`,
  );
}
