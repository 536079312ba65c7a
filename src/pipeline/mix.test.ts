import { describe, expect, test } from "vitest";
import { inputError } from "../../test/errors.js";
import { float32, toFloat32 } from "../tensor/host.js";
import { Rng } from "../tensor/rng.js";
import { type LoraAdapter, type LoraModule, loraRank, loraScale } from "../weights/lora-files.js";
import { mixAdapters } from "./mix.js";

const [inFeatures, outFeatures] = [5, 3];

function module(seed: number, rank: number, alpha?: number): LoraModule {
  const rng = new Rng(seed);
  return {
    down: float32(rng.normals(rank * inFeatures), [rank, inFeatures]),
    up: float32(rng.normals(outFeatures * rank), [outFeatures, rank]),
    ...(alpha !== undefined && { alpha }),
  };
}

/** ΔW = scale · B A, row by row. */
function update(module: LoraModule): number[] {
  const rank = loraRank(module);
  const [down, up] = [toFloat32(module.down), toFloat32(module.up)];
  return Array.from({ length: outFeatures * inFeatures }, (_, i) => {
    const [row, column] = [Math.floor(i / inFeatures), i % inFeatures];
    let sum = 0;
    for (let r = 0; r < rank; r++) sum += (up[row * rank + r] as number) * (down[r * inFeatures + column] as number);
    return loraScale(module) * sum;
  });
}

const both = ["unet.a.to_q", "unet.b.to_q"] as const;
const a: LoraAdapter = new Map([[both[0], module(1, 2, 1)]]);
const b: LoraAdapter = new Map([
  [both[0], module(2, 4)],
  [both[1], module(3, 1)],
]);
const of = (adapter: LoraAdapter, path: string) => adapter.get(path) as LoraModule;

function expectClose(actual: readonly number[], expected: readonly number[]): void {
  for (const [i, value] of expected.entries()) expect(actual[i]).toBeCloseTo(value, 5);
}

describe("the linear mix", () => {
  test("is x ΔW_a + (1 − x) ΔW_b, with the sum of both ranks and with the alphas multiplied in", () => {
    const mixed = mixAdapters(a, b, 0.3);
    const [wa, wb] = [update(of(a, both[0])), update(of(b, both[0]))];
    expect(loraRank(of(mixed, both[0]))).toBe(6);
    expectClose(
      update(of(mixed, both[0])),
      wa.map((value, i) => 0.3 * value + 0.7 * (wb[i] as number)),
    );
  });

  test("treats a module that one adapter lacks as no change", () => {
    const mixed = mixAdapters(a, b, 0.3);
    expectClose(
      update(of(mixed, both[1])),
      update(of(b, both[1])).map((value) => 0.7 * value),
    );
  });

  test("with the base model scales the change by x", () => {
    const mixed = mixAdapters(a, "base", 0.25);
    expectClose(
      update(of(mixed, both[0])),
      update(of(a, both[0])).map((value) => 0.25 * value),
    );
  });
});

describe("the reference mix", () => {
  test("with the base model scales the change by x²", () => {
    const mixed = mixAdapters(a, "base", 0.5, { form: "reference" });
    expectClose(
      update(of(mixed, both[0])),
      update(of(a, both[0])).map((value) => 0.25 * value),
    );
  });

  test("of two adapters adds the factors, which leaves cross terms", () => {
    const other: LoraAdapter = new Map([[both[0], module(4, 2, 1)]]);
    const mixed = of(mixAdapters(a, other, 0.5, { form: "reference" }), both[0]);
    const mean = (pick: (module: LoraModule) => Float32Array) =>
      pick(of(a, both[0])).map((value, i) => 0.5 * value + 0.5 * (pick(of(other, both[0]))[i] as number));
    expect(mixed.down.data).toEqual(mean(({ down }) => toFloat32(down)));
    expect(mixed.up.data).toEqual(mean(({ up }) => toFloat32(up)));
    expect(mixed.alpha).toBe(1);
  });

  test("refuses factors of different ranks", () => {
    expect(() => mixAdapters(a, b, 0.5, { form: "reference" })).toThrow(
      inputError("adapter-mismatch", { layer: "unet.a.to_q", ranks: [2, 4], scales: [0.5, 1] }),
    );
  });
});

describe("a mix of a limited rank", () => {
  test("is the nearest matrix of that rank, and the same matrix if the rank suffices", () => {
    const whole = of(mixAdapters(a, b, 0.3), both[0]);
    expect(loraRank(whole)).toBe(6);
    // ΔW is 3 x 5, so its rank is at most 3.
    const cut = of(mixAdapters(a, b, 0.3, { rank: 3 }), both[0]);
    expect(loraRank(cut)).toBe(3);
    expectClose(update(cut), update(whole));
    const lower = of(mixAdapters(a, b, 0.3, { rank: 1 }), both[0]);
    expect(loraRank(lower)).toBe(1);
    const error = (of: LoraModule) => Math.hypot(...update(of).map((value, i) => value - (update(whole)[i] as number)));
    expect(error(lower)).toBeGreaterThan(0.1);
    expect(error(lower)).toBeLessThan(Math.hypot(...update(whole)));
  });

  test("does not change a module of a lower rank", () => {
    expect(of(mixAdapters(a, b, 0.3, { rank: 5 }), both[1])).toEqual(of(mixAdapters(a, b, 0.3), both[1]));
  });

  test("is refused in the reference form", () => {
    expect(() => mixAdapters(a, "base", 0.5, { form: "reference", rank: 1 })).toThrow(
      inputError("usage", { form: "reference", rank: 1 }),
    );
  });
});

describe("convolutions", () => {
  const conv = (seed: number, rank: number): LoraModule => {
    const rng = new Rng(seed);
    return {
      down: float32(rng.normals(rank * 18), [rank, 2, 3, 3]),
      up: float32(rng.normals(4 * rank), [4, rank, 1, 1]),
    };
  };
  test("are mixed and truncated as matrices, and keep their kernels", () => {
    const path = "unet.a.conv1";
    const mixed = mixAdapters(new Map([[path, conv(1, 2)]]), new Map([[path, conv(2, 3)]]), 0.5);
    expect([of(mixed, path).down.shape, of(mixed, path).up.shape]).toEqual([
      [5, 2, 3, 3],
      [4, 5, 1, 1],
    ]);
    const cut = mixAdapters(new Map([[path, conv(1, 2)]]), new Map([[path, conv(2, 3)]]), 0.5, { rank: 1 });
    expect([of(cut, path).down.shape, of(cut, path).up.shape]).toEqual([
      [1, 2, 3, 3],
      [4, 1, 1, 1],
    ]);
  });

  test("of 1x1 mix with the Linear form of the same layer", () => {
    const path = "unet.a.proj_in";
    const asConv = { down: float32(new Float32Array(5), [1, 5, 1, 1]), up: float32(new Float32Array(3), [3, 1, 1, 1]) };
    const mixed = mixAdapters(new Map([[path, asConv]]), new Map([[path, module(1, 2)]]), 0.5);
    expect(of(mixed, path).down.shape).toEqual([3, 5]);
  });
});

test("adapters of different models are refused with the layer that differs", () => {
  const wide = { down: float32(new Float32Array(6), [1, 6]), up: float32(new Float32Array(3), [3, 1]) };
  expect(() => mixAdapters(a, new Map([[both[0], wide]]), 0.5)).toThrow(
    inputError("adapter-mismatch", { layer: "unet.a.to_q", found: ["[5] → 3 features", "[6] → 3 features"] }),
  );
});
