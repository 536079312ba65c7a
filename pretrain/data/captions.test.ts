import { describe, expect, test } from "vitest";
import { Rng } from "../../src/tensor/rng.js";
import { ANIMALS, animalIndex, plural, withArticle } from "./animals.js";
import { CAPTION_WORDS, describe as caption, sampleTelling, type Telling } from "./captions.js";
import { sampleAt } from "./dataset.js";
import type { Scene } from "./scene.js";

const fox: Scene = {
  animal: "fox",
  style: "flat",
  background: "blue",
  count: 1,
  tilt: 0,
  flip: false,
  scale: 1,
  shift: [0, 0],
};
const nothing: Telling = { bare: false, style: false, background: false, treatment: false, one: false };

describe("plurals", () => {
  test.each([
    ["cat", "cats"],
    ["fox", "foxes"],
    ["ostrich", "ostriches"],
    ["hippopotamus", "hippopotamuses"],
    ["butterfly", "butterflies"],
    ["fly", "flies"],
    ["monkey", "monkeys"],
    ["turkey", "turkeys"],
    ["wolf", "wolves"],
    ["mouse", "mice"],
    ["goose", "geese"],
    ["sheep", "sheep"],
    ["deer", "deer"],
    ["fish", "fish"],
  ])("of %s is %s", (animal, expected) => {
    expect(plural(animal)).toBe(expected);
  });

  test("of two animals are never the same word, nor another animal's name", () => {
    const plurals = ANIMALS.map(plural);
    expect(new Set(plurals).size).toBe(51);
    for (const [i, word] of plurals.entries()) expect([-1, i]).toContain(ANIMALS.indexOf(word));
  });
});

test("articles follow the first letter", () => {
  expect(withArticle("ant")).toBe("an ant");
  expect(withArticle("octopus")).toBe("an octopus");
  expect(withArticle("flat ant")).toBe("a flat ant");
});

test("an unknown animal has no class", () => {
  expect(animalIndex("octopus")).toBe(50);
  expect(() => animalIndex("unicorn")).toThrow('"unicorn" is not one of the 51');
});

describe("a caption", () => {
  test("mentions the chosen attributes", () => {
    expect(caption(fox, { ...nothing, bare: true })).toBe("fox");
    expect(caption(fox, nothing)).toBe("a fox");
    expect(caption(fox, { ...nothing, one: true })).toBe("one fox");
    expect(caption({ ...fox, animal: "ant" }, { ...nothing, background: true })).toBe("an ant on a blue background");
    expect(caption({ ...fox, animal: "mouse", count: 3 }, { ...nothing, style: true })).toBe("three flat mice");
    expect(caption({ ...fox, treatment: "pale" }, { ...nothing, style: true, treatment: true })).toBe(
      "a pale flat fox",
    );
    expect(caption(fox, { ...nothing, treatment: true })).toBe("a fox");
  });

  test("names the number if there are several, even if it would be bare", () => {
    expect(caption({ ...fox, count: 4 }, { ...nothing, bare: true })).toBe("four foxes");
  });

  test("of any sample names its animal, and has only words of the corpus", () => {
    const known = new Set(CAPTION_WORDS);
    for (let index = 0; index < 2000; index++) {
      const { scene, caption } = sampleAt(3, index, { treated: 0.5 });
      const words = caption.split(" ");
      expect(words).toContain(scene.count === 1 ? scene.animal : plural(scene.animal));
      expect(words.filter((word) => !known.has(word))).toEqual([]);
    }
  });

  test("is the bare name about 35 % of the time", () => {
    const bare = Array.from({ length: 4000 }, (_, i) => sampleAt(4, i)).filter((s) => s.caption === s.scene.animal);
    // Binomial deviation at 4,000 draws: 0.0075.
    expect(Math.abs(bare.length / 4000 - 0.35)).toBeLessThan(0.03);
  });

  test("depends only on the seed", () => {
    expect(sampleTelling(new Rng(1, 2))).toEqual(sampleTelling(new Rng(1, 2)));
    expect(new Set(Array.from({ length: 20 }, (_, seed) => sampleAt(seed, 0).caption)).size).toBeGreaterThan(10);
  });
});
