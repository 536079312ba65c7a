/**
 * What a finished run draws: every animal that it was trained on and those that it never saw, on noise that no curve was made
 * with, and for all methods by the same deterministic sampler.
 */

import { join } from "node:path";
import { z } from "zod";
import { ANIMALS, HELD_OUT_ANIMALS, loadSettings, type Settings } from "../src/config/index.js";
import { writeFileAtomic } from "../src/io/atomic.js";
import { exists } from "../src/io/files.js";
import { readJson } from "../src/io/json.js";
import { checkpointFolder, openTuned } from "../src/runs/record/index.js";
import { evaluate, meanAndStd, score } from "../src/scoring/index.js";
import { overridesOf } from "./methods.js";

const part = z.object({ pictures: z.int(), reward: z.number(), std: z.number(), agreement: z.number() });
const final = z.object({ update: z.int(), seen: part, unseen: part });
export type Final = z.output<typeof final>;

const FINAL_FILE = "final.json";
const FIRST_SEED = 1000;

/** Pictures of each animal. */
const COUNTS = { seen: 1, unseen: 6 };

/** Of the checkpoint at `update` in `folder`, or with `update: 0` of the model as it is; made once. */
export async function readFinal(
  folder: string,
  update: number,
  settings: Settings,
  signal?: AbortSignal,
): Promise<Final> {
  const path = join(folder, FINAL_FILE);
  const known = (await exists(path)) ? await readJson(path, final) : undefined;
  if (known?.update === update) return known;
  const tuned = update === 0 ? {} : await openTuned(checkpointFolder(folder, update));
  const unseen = HELD_OUT_ANIMALS.flatMap((animal) => Array.from({ length: COUNTS.unseen }, () => animal));
  const prompts = [...ANIMALS, ...unseen];
  const drawn = await evaluate(
    {
      ...settings,
      sampling: { ...settings.sampling, eta: 0 },
      prompts: { ...settings.prompts, eval: prompts },
      evaluation: { ...settings.evaluation, seeds_per_prompt: COUNTS.seen, seed: FIRST_SEED },
    },
    { ...tuned, ...(signal && { signal }) },
  );
  const pictures = drawn.images.map((image, i) => ({
    name: `picture ${i}`,
    prompt: drawn.prompts[i] as string,
    read: async () => image,
  }));
  const { threads } = settings;
  const agreed = await score(pictures, await loadSettings({ recipe: "clip", overrides: overridesOf({ threads }) }));
  const partOf = (from: number, to: number) => {
    const { mean: reward, std } = meanAndStd(drawn.rewards.slice(from, to));
    return { pictures: to - from, reward, std, agreement: meanAndStd(agreed.rewards.slice(from, to)).mean };
  };
  const result = { update, seen: partOf(0, ANIMALS.length), unseen: partOf(ANIMALS.length, prompts.length) };
  await writeFileAtomic(path, `${JSON.stringify(result, null, 2)}\n`);
  return result;
}

export async function knownFinal(folder: string): Promise<Final | undefined> {
  const path = join(folder, FINAL_FILE);
  return (await exists(path)) ? await readJson(path, final) : undefined;
}
