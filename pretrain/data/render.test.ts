import { beforeAll, describe, expect, test } from "vitest";
import { ANIMALS, animalIndex } from "./animals.js";
import { batchAt, renderBatch, sampleAt } from "./dataset.js";
import { bitmapFor, type Icons, loadIcons, STYLES } from "./icons.js";
import { IMAGE_LENGTH, IMAGE_SIZE, placements, renderScene } from "./render.js";
import { BACKGROUNDS, type Scene, TREATMENTS } from "./scene.js";

let icons: Icons;
beforeAll(async () => {
  icons = await loadIcons();
});

const PLANE = IMAGE_SIZE * IMAGE_SIZE;
const upright: Scene = {
  animal: "fox",
  style: "flat",
  background: "blue",
  count: 1,
  tilt: 0,
  flip: false,
  scale: 1,
  shift: [0, 0],
};

function drawing(scene: Scene) {
  const icon = icons[scene.style].get(scene.animal);
  if (icon === undefined) throw new Error(`no ${scene.animal}`);
  return icon;
}

/** True if the pixel differs from the background. */
function isDrawn(image: Float32Array, pixel: number, { background }: Scene): boolean {
  return BACKGROUNDS[background].some(
    (level, channel) => Math.abs((image[channel * PLANE + pixel] as number) - ((level / 255) * 2 - 1)) > 1e-3,
  );
}

describe("the drawings", () => {
  test("exist for every animal in both styles, and fill their square along one side", () => {
    for (const style of STYLES) {
      expect([...icons[style].keys()]).toEqual(ANIMALS);
      for (const { width, height } of icons[style].values()) {
        expect(Math.max(width, height)).toBe(1);
        expect(Math.min(width, height)).toBeGreaterThan(0.3);
      }
    }
  });

  test("have premultiplied colours that are not above their alpha, at every size", () => {
    for (const { rgba } of [...icons.flat.values(), ...icons.shaded.values()].flatMap((icon) => icon.ladder)) {
      let excess = 0;
      for (let at = 0; at < rgba.length; at += 4) {
        for (let channel = 0; channel < 3; channel++) {
          excess = Math.max(excess, (rgba[at + channel] as number) - (rgba[at + 3] as number));
        }
      }
      expect(excess).toBeLessThan(1e-5);
    }
  });

  test("have the same mean colour at every size", () => {
    const [large, ...smaller] = drawing(upright).ladder.map(
      ({ size, rgba }) => rgba.reduce((a, b) => a + b) / size ** 2,
    );
    for (const mean of smaller) expect(mean).toBeCloseTo(large as number, 4);
  });

  test("are sampled from the smallest size that is large enough", () => {
    const icon = drawing(upright);
    expect(bitmapFor(icon, 52).size).toBe(56);
    expect(bitmapFor(icon, 48).size).toBe(48);
    expect(bitmapFor(icon, 100).size).toBe(64);
    expect(bitmapFor(icon, 3).size).toBe(21);
  });
});

describe("the arrangement", () => {
  test("keeps every copy inside the image and apart from the others", () => {
    for (let index = 0; index < 3000; index++) {
      const { scene } = sampleAt(11, index, { several: 0.75, tilt: 15 });
      const copies = placements(scene, drawing(scene));
      expect(copies).toHaveLength(scene.count);
      for (const [i, a] of copies.entries()) {
        expect(Math.min(a.x - a.halfWidth, a.y - a.halfHeight)).toBeGreaterThanOrEqual(0.999);
        expect(Math.max(a.x + a.halfWidth, a.y + a.halfHeight)).toBeLessThanOrEqual(IMAGE_SIZE - 0.999);
        for (const b of copies.slice(i + 1)) {
          const apartX = Math.abs(a.x - b.x) - a.halfWidth - b.halfWidth;
          const apartY = Math.abs(a.y - b.y) - a.halfHeight - b.halfHeight;
          expect(Math.max(apartX, apartY)).toBeGreaterThan(0.99);
        }
      }
    }
  });

  test("draws nothing between the slots or at the edge of the image", () => {
    for (const count of [2, 3, 4] as const) {
      const scene = { ...upright, count, tilt: 0.17 };
      const image = renderScene(scene, icons);
      for (let i = 0; i < IMAGE_SIZE; i++) {
        expect(isDrawn(image, i, scene)).toBe(false);
        expect(isDrawn(image, i * IMAGE_SIZE, scene)).toBe(false);
        if (count !== 3) expect(isDrawn(image, i * IMAGE_SIZE + 31, scene)).toBe(false);
      }
    }
  });
});

describe("an image", () => {
  test("of any drawing stands out from any background", () => {
    for (const style of STYLES) {
      for (const animal of ANIMALS) {
        for (const background of Object.keys(BACKGROUNDS) as Scene["background"][]) {
          const scene = { ...upright, animal, style, background };
          const image = renderScene(scene, icons);
          let visible = 0;
          for (let pixel = 0; pixel < PLANE; pixel++) {
            const distance = Math.hypot(
              ...BACKGROUNDS[background].map(
                (level, c) => (image[c * PLANE + pixel] as number) - ((level / 255) * 2 - 1),
              ),
            );
            if (distance > 0.3) visible++;
          }
          expect(visible, `${style} ${animal} on ${background}`).toBeGreaterThan(0.05 * PLANE);
        }
      }
    }
  });

  test("stays within -1 … 1, with and without a treatment", () => {
    for (const treatment of [undefined, ...TREATMENTS]) {
      const scene = treatment === undefined ? upright : { ...upright, treatment };
      const image = renderScene(scene, icons);
      expect(Math.min(...image)).toBeGreaterThanOrEqual(-1);
      expect(Math.max(...image)).toBeLessThanOrEqual(1);
    }
  });

  test("is mirrored by a flip", () => {
    const image = renderScene({ ...upright, animal: "cat" }, icons);
    const flipped = renderScene({ ...upright, animal: "cat", flip: true }, icons);
    let difference = 0;
    let asymmetry = 0;
    for (let at = 0; at < IMAGE_LENGTH; at++) {
      const mirrored = at - (at % IMAGE_SIZE) + (IMAGE_SIZE - 1 - (at % IMAGE_SIZE));
      difference = Math.max(difference, Math.abs((image[at] as number) - (flipped[mirrored] as number)));
      asymmetry = Math.max(asymmetry, Math.abs((image[at] as number) - (flipped[at] as number)));
    }
    expect(difference).toBeLessThan(1e-5);
    expect(asymmetry).toBeGreaterThan(0.5);
  });

  test("turns clockwise with a positive tilt", () => {
    // x' = x cos θ − y sin θ, y' = x sin θ + y cos θ (y down) → cov(x', y') ≈ cov(x, y) − θ (var y − var x):
    // a tall drawing's top moves right. The shaded deer is much taller than wide.
    const tall: Scene = { ...upright, animal: "deer", style: "shaded" };
    const before = covariance({ ...tall, tilt: 0 });
    expect(covariance({ ...tall, tilt: 0.17 })).toBeLessThan(before - 5);
    expect(covariance({ ...tall, tilt: -0.17 })).toBeGreaterThan(before + 5);
  });

  test("has a larger deviation when vivid, and a smaller one when pale or dark", () => {
    const spread = (scene: Scene) => {
      const image = renderScene(scene, icons);
      const mean = image.reduce((a, b) => a + b) / image.length;
      return { mean, deviation: Math.sqrt(image.reduce((a, b) => a + (b - mean) ** 2, 0) / image.length) };
    };
    const plain = spread(upright);
    const vivid = spread({ ...upright, treatment: "vivid" });
    const pale = spread({ ...upright, treatment: "pale" });
    const dark = spread({ ...upright, treatment: "dark" });
    expect(vivid.deviation).toBeGreaterThan(plain.deviation);
    expect(pale.deviation).toBeLessThan(plain.deviation);
    expect(dark.deviation).toBeLessThan(plain.deviation);
    expect(pale.mean).toBeGreaterThan(plain.mean);
    expect(dark.mean).toBeLessThan(plain.mean);
  });

  test("of an animal without a drawing is refused", () => {
    expect(() => renderScene({ ...upright, animal: "unicorn" }, icons)).toThrow('no flat drawing of "unicorn"');
  });
});

/** Covariance of x and y over the drawn pixels, in pixels squared. */
function covariance(scene: Scene): number {
  const image = renderScene(scene, icons);
  const drawn = Array.from({ length: PLANE }, (_, pixel) => pixel).filter((pixel) => isDrawn(image, pixel, scene));
  const mean = (values: number[]) => values.reduce((a, b) => a + b) / values.length;
  const xs = drawn.map((pixel) => pixel % IMAGE_SIZE);
  const ys = drawn.map((pixel) => Math.floor(pixel / IMAGE_SIZE));
  return mean(xs.map((x, i) => x * (ys[i] as number))) - mean(xs) * mean(ys);
}

describe("the dataset", () => {
  test("gives the same batch for the same seed, and a different one for another seed", () => {
    const options = { seed: 5, start: 10, size: 4 };
    const batch = batchAt(icons, options);
    expect(batchAt(icons, options)).toEqual(batch);
    expect(batchAt(icons, { ...options, seed: 6 }).samples).not.toEqual(batch.samples);
  });

  test("gives a sample the same image wherever its batch starts", () => {
    const wide = batchAt(icons, { seed: 5, start: 0, size: 6 });
    const { images, labels } = renderBatch([sampleAt(5, 4)], icons);
    expect(images).toEqual(wide.images.slice(4 * IMAGE_LENGTH, 5 * IMAGE_LENGTH));
    expect(labels[0]).toBe(animalIndex(wide.samples[4]?.scene.animal as string));
  });

  test("shows one animal four times in five, all animals, and by default no treatment", () => {
    const scenes = Array.from({ length: 4000 }, (_, i) => sampleAt(8, i).scene);
    const single = scenes.filter(({ count }) => count === 1).length / scenes.length;
    // Binomial deviation at 4,000 draws: 0.0063.
    expect(Math.abs(single - 0.8)).toBeLessThan(0.03);
    expect(new Set(scenes.map(({ animal }) => animal)).size).toBe(51);
    expect(scenes.some(({ treatment }) => treatment !== undefined)).toBe(false);
  });

  test("treats a share of images without changing the other random choices", () => {
    const plain = Array.from({ length: 50 }, (_, i) => sampleAt(8, i).scene);
    const treated = Array.from({ length: 50 }, (_, i) => sampleAt(8, i, { treated: 1 }).scene);
    expect(treated.map(({ treatment: _, ...scene }) => scene)).toEqual(plain);
    expect(treated.every(({ treatment }) => treatment !== undefined)).toBe(true);
  });
});
