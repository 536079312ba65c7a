/** All results as JSON. */
import { crossings, crossingsOfAnyRate } from "./crossings.js";
import { type Point, TUNED_AGREEMENT } from "./curves.js";
import { METHODS, settingsOf } from "./methods.js";
import type { Results } from "./results.js";

/** The content of docs/paper.json. Its keys are a file format: do not rename them. */
export async function summary(results: Results) {
  const { methods, seconds } = results;
  const [first] = METHODS;
  const { sampling, prompts, evaluation } = await settingsOf({
    method: first as (typeof METHODS)[0],
    rate: 1,
    seed: 0,
  });
  return {
    about:
      "npm run paper: the comparison of docs/paper.md. Rewards are those of the embedded aesthetic reward; agreement is that of the embedded CLIP.",
    model: "models/emoji-64",
    reward: "aesthetic",
    sampling: { steps: sampling.steps, guidance_scale: sampling.guidance_scale },
    evaluation: { prompts: prompts.eval, seeds_per_prompt: evaluation.seeds_per_prompt, seed: evaluation.seed },
    tuning_rule: `the highest reward after the tuning steps, among learning rates that keep ${TUNED_AGREEMENT} of the base model's agreement`,
    base: results.base,
    crossings: crossings(results),
    crossings_of_any_rate: crossingsOfAnyRate(results),
    methods: methods
      .filter(({ mean }) => mean.length > 0)
      .map(({ method, tuning, seeds, mean, tried }) => ({
        name: method.name,
        label: method.label,
        pictures: method.samples,
        updates: mean.at(-1)?.update,
        updates_asked: method.steps,
        tuning: { updates: method.tuningSteps, ...tuning },
        processor_seconds_per_update: seconds[method.name] ?? null,
        columns: ["update", "queries", "unet_calls", "reward", "agreement"],
        seeds: seeds.map(({ seed, curve, final }) => ({
          seed,
          curve: curve.map(row),
          final,
        })),
        spread: mean.map(({ spread }) => spread),
        tried: tried.map(({ rate, curve }) => ({ rate, curve: curve.map(row) })),
      })),
    mix: results.mix,
  };
}

/** In the order of `columns`. */
function row({ update, queries, unet_calls, reward, agreement }: Point): number[] {
  return [update, queries, unet_calls, reward, agreement];
}

/** A replacer for `JSON.stringify`. Four digits are more than the precision of the results. */
export function rounded(_: string, value: unknown): unknown {
  return typeof value === "number" && !Number.isInteger(value) ? Number(value.toPrecision(4)) : value;
}
