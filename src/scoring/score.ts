/** Scores existing images, with the same programs as an evaluation. */

import { runtimeOptions, type SettingsPart } from "../config/index.js";
import { InputError } from "../errors/index.js";
import { readImage } from "../images/read.js";
import { imageTensor, type RgbImage } from "../images/rgb.js";
import type { OpenListener } from "../pipeline/index.js";
import { joinParts, type PartRewards, type Reward } from "../rewards/index.js";
import { Runtime } from "../runtime/runtime.js";
import { openSettingsReward } from "./open-reward.js";
import { ImageScorer } from "./scorer.js";
import { meanAndStd } from "./statistics.js";

/** An image to score. A reward that reads prompts requires the prompt. */
export type ImageToScore =
  /** The path of an image file. */
  | string
  | { readonly file: string; readonly prompt?: string | undefined }
  | { readonly image: RgbImage; readonly prompt?: string | undefined }
  /** An image that is read when its turn comes. `name` is shown in messages. */
  | { readonly name: string; readonly prompt?: string | undefined; read(): Promise<RgbImage> };

export interface ScoreOptions extends OpenListener {
  /** A reward made in code (`defineReward`), which replaces that of the settings. */
  readonly reward?: Reward | undefined;
}

export interface Scores {
  /** One per image. */
  readonly rewards: readonly number[];
  readonly mean: number;
  /** Population standard deviation of `rewards`. */
  readonly std: number;
  /** Only for a combination of rewards. */
  readonly parts?: PartRewards | undefined;
}

/**
 * Scores images with a reward. They may differ in size.
 *
 * @throws InputError `usage` without images; `reward-needs-prompt` if the reward reads prompts and an image has none
 * @example
 * const settings = await loadSettings({ recipe: "compressibility" });
 * const { rewards } = await score(["photo.png"], settings);
 * @example
 * // The images of a folder, with the prompts of its index.json.
 * const { mean } = await score(await findImages(["images"]), settings);
 */
export async function score(
  toScore: readonly ImageToScore[],
  settings: SettingsPart<"reward" | "device" | "threads" | "loading">,
  { reward: given, ...listener }: ScoreOptions = {},
): Promise<Scores> {
  const { signal, warn = () => {} } = listener;
  const images = toScore.map((image, index) => opened(image, { index, note: warn }));
  if (images.length === 0) throw new InputError("usage", "score: there are no images");
  const reward = given ?? (await openSettingsReward(settings, listener));
  requirePrompts(reward, images);
  const prompts = images.map(({ prompt }) => prompt ?? "");
  for (const message of reward.warnings(prompts)) warn(message);
  const runtime = await Runtime.start(runtimeOptions(settings));
  try {
    const scorer = new ImageScorer(runtime, reward);
    const rewards: number[] = [];
    const parts: (PartRewards | undefined)[] = [];
    let size = "";
    for (const [i, { name, read }] of images.entries()) {
      signal?.throwIfAborted();
      // One at a time, because images differ in size and each size needs programs of its own.
      const image = await read();
      if (`${image.width}x${image.height}` !== size) await scorer.release();
      size = `${image.width}x${image.height}`;
      const scores = await scorer.score(imageTensor(image), [prompts[i] as string]);
      const value = scores.rewards[0] as number;
      if (!Number.isFinite(value)) {
        throw new InputError(
          "not-finite",
          `${name}: the reward ${reward.name} is ${value}, which is not a finite number`,
          {
            path: name,
            reward: reward.name,
          },
        );
      }
      rewards.push(value);
      parts.push(scores.parts);
    }
    return { rewards, ...meanAndStd(rewards), ...(reward.parts && { parts: joinParts(parts) }) };
  } finally {
    await runtime.close();
  }
}

type OpenedImage = Extract<ImageToScore, { readonly name: string }>;

interface OpenImageOptions {
  readonly index: number;
  readonly note: (message: string) => void;
}

function opened(image: ImageToScore, { index, note }: OpenImageOptions): OpenedImage {
  if (typeof image === "string") return { name: image, read: () => readImage(image, { note }) };
  if ("read" in image) return image;
  const { prompt } = image;
  if ("file" in image) return { name: image.file, prompt, read: () => readImage(image.file, { note }) };
  return { name: `image ${index}`, prompt, read: async () => image.image };
}

/** A reward that reads prompts has inputs for them. */
function requirePrompts(reward: Reward, images: readonly OpenedImage[]): void {
  const without = images.find(({ prompt }) => prompt === undefined);
  if (without === undefined || Object.keys(reward.feeds([""])).length === 0) return;
  throw new InputError(
    "reward-needs-prompt",
    `${without.name}: the reward ${reward.name} scores an image by its prompt, and the prompt is not known. Give it with --prompt, or score a folder with an index.json as \`alignprop generate\` writes it.`,
    { path: without.name, reward: reward.name },
  );
}
