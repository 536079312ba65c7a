/**
 * The final evaluation of a finished run: images of all animals that it was trained on and of the held-out ones, from noise that
 * the curves do not use, and with the same deterministic sampler for all methods.
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

/** The keys are those of the files `final.json` and docs/paper.json. */
const part = z.object({ pictures: z.int(), reward: z.number(), std: z.number(), agreement: z.number() });
const final = z.object({ update: z.int(), seen: part, unseen: part });
export type Final = z.output<typeof final>;

const FINAL_FILE = "final.json";
const FIRST_SEED = 1000;

/** Images per animal. */
const COUNTS = { seen: 1, unseen: 6 };

/** Evaluates the checkpoint of `step` in `folder`, or the base model if `step` is 0. A stored result is reused. */
export async function readFinal(
  folder: string,
  step: number,
  settings: Settings,
  signal?: AbortSignal,
): Promise<Final> {
  const path = join(folder, FINAL_FILE);
  const known = (await exists(path)) ? await readJson(path, final) : undefined;
  if (known?.update === step) return known;
  const tuned = step === 0 ? {} : await openTuned(checkpointFolder(folder, step));
  const unseen = HELD_OUT_ANIMALS.flatMap((animal) => Array.from({ length: COUNTS.unseen }, () => animal));
  const prompts = [...ANIMALS, ...unseen];
  const evaluation = await evaluate(
    {
      ...settings,
      sampling: { ...settings.sampling, eta: 0 },
      prompts: { ...settings.prompts, eval: prompts },
      evaluation: { ...settings.evaluation, seeds_per_prompt: COUNTS.seen, seed: FIRST_SEED },
    },
    { ...tuned, ...(signal && { signal }) },
  );
  const images = evaluation.images.map((image, i) => ({
    name: `image ${i}`,
    prompt: evaluation.prompts[i] as string,
    read: async () => image,
  }));
  const { threads } = settings;
  const agreement = await score(images, await loadSettings({ recipe: "clip", overrides: overridesOf({ threads }) }));
  const partOf = (from: number, to: number) => {
    const { mean: reward, std } = meanAndStd(evaluation.rewards.slice(from, to));
    return { pictures: to - from, reward, std, agreement: meanAndStd(agreement.rewards.slice(from, to)).mean };
  };
  const result = { update: step, seen: partOf(0, ANIMALS.length), unseen: partOf(ANIMALS.length, prompts.length) };
  await writeFileAtomic(path, `${JSON.stringify(result, null, 2)}\n`);
  return result;
}

export async function knownFinal(folder: string): Promise<Final | undefined> {
  const path = join(folder, FINAL_FILE);
  return (await exists(path)) ? await readJson(path, final) : undefined;
}
