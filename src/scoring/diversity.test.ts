import { afterAll, describe, expect, test } from "vitest";
import { TINY_REWARD } from "../../test/tiny.js";
import { pathsOnly } from "../rewards/index.js";
import { openClip } from "../rewards/towers/clip-model.js";
import { Runtime } from "../runtime/runtime.js";
import { float32 } from "../tensor/host.js";
import { distances, ImageEmbedder } from "./diversity.js";

describe("diversity", async () => {
  const runtime = await Runtime.start({ device: "cpu", threads: 1 });
  afterAll(() => runtime.close());

  test("of an image is its mean distance to the other images of its prompt only", () => {
    // 1 − cos is 1 at a right angle, 0 in the same direction and 2 in the opposite direction.
    const [east, north, west] = [Float32Array.of(1, 0), Float32Array.of(0, 1), Float32Array.of(-1, 0)];
    const prompts = ["cat", "cat", "cat", "dog", "dog", "fox"];
    const found = distances(prompts, [east, north, west, east, east, north]);
    expect(found).toEqual([1.5, 1, 1.5, 0, 0, 0]);
    // The mean over the images of cats is the mean over their pairs: (1 + 2 + 1) / 3.
    expect(((found[0] as number) + (found[1] as number) + (found[2] as number)) / 3).toBeCloseTo(4 / 3, 12);
  });

  test("is 0 between equal images and positive between different ones, with embeddings of length 1", async () => {
    const clip = await openClip(`${TINY_REWARD}/clip`, { ...pathsOnly, root: "diversity" });
    const plane = 3 * 16 * 16;
    const values = Float32Array.from({ length: 3 * plane }, (_, i) => (i < 2 * plane ? (i % plane) / plane : 0.5));
    const embedded = await new ImageEmbedder(runtime, clip).embed(float32(values, [3, 3, 16, 16]));
    for (const vector of embedded) expect(Math.hypot(...vector)).toBeCloseTo(1, 5);
    const [same, twin, other] = distances(["a", "a", "b"], embedded);
    expect(same).toBeCloseTo(0, 6);
    expect([twin, other]).toEqual([same, 0]);
    expect(distances(["a", "a"], embedded.slice(1))[0]).toBeGreaterThan(1e-4);
  });
});
