/**
 * Scene → caption. A caption always names the animal, and the number if there are several, so that a bare name means one
 * animal. About a third of all captions are bare names, because the paper's prompts are bare names.
 */
import type { Rng } from "../../src/tensor/rng.js";
import { ANIMALS, plural, withArticle } from "./animals.js";
import { STYLES } from "./icons.js";
import { BACKGROUND_NAMES, type Scene, TREATMENTS } from "./scene.js";

const NUMBERS: Readonly<Record<Scene["count"], string>> = { 1: "one", 2: "two", 3: "three", 4: "four" };

/** The attributes that a caption mentions besides the animal and a number above one. */
export interface Telling {
  /** Only the name, if there is one animal. */
  readonly bare: boolean;
  readonly style: boolean;
  readonly background: boolean;
  readonly treatment: boolean;
  /** "one fox" instead of "a fox". */
  readonly one: boolean;
}

/** 44 % are bare. These are 35 % of all captions, because four in five images show one animal. */
export function sampleTelling(rng: Rng): Telling {
  return {
    bare: rng.uniform() < 0.44,
    style: rng.uniform() < 0.5,
    background: rng.uniform() < 0.5,
    treatment: rng.uniform() < 0.8,
    one: rng.uniform() < 0.2,
  };
}

/** "fox", "a fox on a blue background", "three flat mice", "one pale shaded ant". */
export function describe(scene: Scene, telling: Telling): string {
  if (telling.bare && scene.count === 1) return scene.animal;
  const words: string[] = [];
  if (telling.treatment && scene.treatment !== undefined) words.push(scene.treatment);
  if (telling.style) words.push(scene.style);
  words.push(scene.count === 1 ? scene.animal : plural(scene.animal));
  const phrase = words.join(" ");
  const subject = scene.count === 1 && !telling.one ? withArticle(phrase) : `${NUMBERS[scene.count]} ${phrase}`;
  return telling.background ? `${subject} on ${withArticle(scene.background)} background` : subject;
}

/** Every word that a caption can contain, each once: the corpus of the tokenizer. */
export const CAPTION_WORDS: readonly string[] = [
  ...new Set([
    ...ANIMALS,
    ...ANIMALS.map(plural),
    ...BACKGROUND_NAMES,
    ...STYLES,
    ...TREATMENTS,
    ...Object.values(NUMBERS),
    ..."a an on background".split(" "),
  ]),
];
