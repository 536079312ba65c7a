import { join } from "node:path";
import { InputError, nearest } from "../tensor/errors.js";
import { aestheticReward } from "./aesthetic.js";
import { clipReward } from "./clip.js";
import { compressibility, incompressibility } from "./compressibility.js";
import type { Reward } from "./reward.js";

export type { Reward, RewardGraph } from "./reward.js";

/** Every reward by its name. `folder` holds the weights of those that have any: `clip/` and `aesthetic/`. */
const REWARDS: Readonly<Record<string, (folder: string) => Promise<Reward> | Reward>> = {
  aesthetic: (folder) => aestheticReward(join(folder, "clip"), join(folder, "aesthetic")),
  clip: (folder) => clipReward(join(folder, "clip")),
  compressibility,
  incompressibility,
};

export async function openReward(name: string, folder: string): Promise<Reward> {
  const open = Object.hasOwn(REWARDS, name) ? REWARDS[name] : undefined;
  if (!open) {
    const near = nearest(name, Object.keys(REWARDS));
    throw new InputError(
      `reward: "${name}" is unknown; ${near ? `did you mean ${near}? ` : ""}There are ${Object.keys(REWARDS).join(", ")}`,
    );
  }
  return open(folder);
}
