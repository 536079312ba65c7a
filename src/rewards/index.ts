import { join } from "node:path";
import { InputError, nearest } from "../tensor/errors.js";
import { aestheticReward } from "./aesthetic.js";
import { clipReward } from "./clip.js";
import { compressibility, incompressibility } from "./compressibility.js";
import type { Reward } from "./reward.js";

export type { Reward, RewardGraph } from "./reward.js";

/** Every reward by its name. `folder` holds the weights of those that have any: `clip/` and `aesthetic/`. */
const REWARDS = {
  aesthetic: (folder) => aestheticReward(join(folder, "clip"), join(folder, "aesthetic")),
  clip: (folder) => clipReward(join(folder, "clip")),
  hps: (folder) => clipReward(join(folder, "clip"), "hps"),
  compressibility,
  incompressibility,
} satisfies Record<string, (folder: string) => Promise<Reward> | Reward>;

export type RewardName = keyof typeof REWARDS;

export const rewardNames = Object.keys(REWARDS) as RewardName[];

/**
 * Where a reward's weights lie if a recipe does not say: this package's own, or the place where the published ones are
 * expected. Undefined for a reward without weights.
 */
export function defaultRewardFolder(name: RewardName): string | undefined {
  switch (name) {
    case "aesthetic":
    case "clip":
      return "models/rewards";
    case "hps":
      return "models/rewards/hps-v2";
    case "compressibility":
    case "incompressibility":
      return undefined;
  }
}

export async function openReward(name: string, folder: string): Promise<Reward> {
  if (!Object.hasOwn(REWARDS, name)) {
    const near = nearest(name, rewardNames);
    throw new InputError(
      `reward: "${name}" is unknown; ${near ? `did you mean ${near}? ` : ""}There are ${rewardNames.join(", ")}`,
    );
  }
  return REWARDS[name as RewardName](folder);
}
