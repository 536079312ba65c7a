import { fileURLToPath } from "node:url";
import { resolvedLoss, type Settings, type SettingsInput, settingsSchema } from "../src/config/settings.js";
import { openReward, pathsOnly, type Reward, rewardSettings } from "../src/rewards/index.js";

/** The Stable Diffusion folder with random weights: 8x8 latents, 32x32 pixels. */
export const TINY_SD = fileURLToPath(new URL("./goldens/tiny-sd", import.meta.url));

/** A pipeline of another family with random weights: sd2, sdxl, sdxl-distilled or odd (parity/families.py). */
export const tinyFamily = (name: string) => fileURLToPath(new URL(`./goldens/families/${name}/model`, import.meta.url));

/** A recipe for a run that takes seconds. */
export const TINY_RECIPE = {
  model: TINY_SD,
  reward: "compressibility",
  threads: 1,
  lora: { rank: 2 },
  sampling: { steps: 3 },
  loss: { form: "maximize", scale: 1 },
  batch: { samples_per_epoch: 8, total: 4, per_device: 2 },
} as const;

/** A CLIP and an aesthetic head with random weights. */
export const TINY_REWARD = fileURLToPath(new URL("./goldens/tiny-reward", import.meta.url));

const WITH_CLIP: readonly string[] = ["aesthetic", "clip"];

/** Opens a reward on the tiny weights, by its name or with settings. */
export function tinyReward(
  chosen: string | ({ name: string; root?: string } & Record<string, unknown>),
): Promise<Reward> {
  const { name, root = "reward", ...changes } = typeof chosen === "string" ? { name: chosen } : chosen;
  const settings = {
    name,
    ...(WITH_CLIP.includes(name) && { clip: `${TINY_REWARD}/clip` }),
    ...(["hps", "pickscore"].includes(name) && { weights: `${TINY_REWARD}/clip` }),
    ...(name === "aesthetic" && { head: `${TINY_REWARD}/aesthetic` }),
    ...changes,
  };
  return openReward(rewardSettings.parse(settings), { ...pathsOnly, root });
}

/** Resolved settings of a run that takes seconds. `changes` are as in a recipe; `steps` is the number of training steps. */
export function tinySettings(changes: SettingsInput & { steps?: number } = {}): Settings {
  const { steps = 4, ...recipe } = changes;
  const {
    prompts,
    train: _,
    ...parsed
  } = settingsSchema.parse({
    ...TINY_RECIPE,
    evaluation: { every: 2, batch: 2 },
    checkpoint: { every: 2 },
    ...recipe,
  });
  return {
    ...parsed,
    name: "tiny",
    loss: resolvedLoss(parsed),
    prompts: { template: "a {}", negative: "", train: ["cat", "dog", "horse"], eval: ["two cats"] },
    train: { steps },
  };
}
