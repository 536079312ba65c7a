import { describe, expect, test } from "vitest";
import { annealed, tunedShare } from "./annealing.js";

const base = async (x: Float32Array) => x.map((value) => value + 1);
const tuned = async (x: Float32Array) => x.map((value) => value * 5);

describe("annealed importance guidance", () => {
  test("moves from the base model at the first step to the tuned model at the last", async () => {
    // γ = (i / 4)²: 0, 1/16, 1/4, 9/16, 1
    expect([0, 1, 2, 3, 4].map((i) => tunedShare(i, 5, 2))).toEqual([0, 0.0625, 0.25, 0.5625, 1]);
    const predict = annealed(base, tuned, 5, 2);
    const x = Float32Array.of(3);
    expect(await predict(x, 0)).toEqual(await base(x));
    // 3/4 · 4 + 1/4 · 15
    expect([...(await predict(x, 2))]).toEqual([6.75]);
    expect(await predict(x, 4)).toEqual(await tuned(x));
  });

  test("with a power of 0 is the tuned model, and the base model is never evaluated", async () => {
    const never = () => Promise.reject(new Error("the base model was evaluated"));
    const predict = annealed(never, tuned, 3, 0);
    for (const step of [0, 1, 2]) expect([...(await predict(Float32Array.of(2), step))]).toEqual([10]);
  });

  test("with a single step is the tuned model", () => {
    expect(tunedShare(0, 1, 3)).toBe(1);
  });
});
