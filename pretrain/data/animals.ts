/**
 * The animals that the embedded model knows: the 45 of the paper's training prompts and 6 that its evaluation holds out
 * (Prabhudesai et al. 2023, section 5; the list is DDPO's, Black et al. 2023). All 51 are in the pretraining data, as
 * Stable Diffusion has seen every animal too; held out means unseen by the reward fine-tuning.
 */
import { HELD_OUT_ANIMALS, ANIMALS as TRAINING } from "../../src/config/index.js";

/** Every animal, in the order of the classifier's outputs. */
export const ANIMALS: readonly string[] = [...TRAINING, ...HELD_OUT_ANIMALS];

export function animalIndex(animal: string): number {
  const index = ANIMALS.indexOf(animal);
  if (index < 0) throw new RangeError(`animals: "${animal}" is not one of the ${ANIMALS.length}`);
  return index;
}

const IRREGULAR_PLURALS: Readonly<Record<string, string>> = {
  sheep: "sheep",
  deer: "deer",
  fish: "fish",
  mouse: "mice",
  goose: "geese",
  wolf: "wolves",
};

/** fox → foxes, butterfly → butterflies, monkey → monkeys, mouse → mice. */
export function plural(animal: string): string {
  const irregular = IRREGULAR_PLURALS[animal];
  if (irregular !== undefined) return irregular;
  if (/(?:s|x|z|ch|sh)$/.test(animal)) return `${animal}es`;
  if (/[^aeiou]y$/.test(animal)) return `${animal.slice(0, -1)}ies`;
  return `${animal}s`;
}

/** "a fox", "an ant": every noun and adjective of the captions is pronounced as it is spelt. */
export function withArticle(phrase: string): string {
  return /^[aeiou]/.test(phrase) ? `an ${phrase}` : `a ${phrase}`;
}
