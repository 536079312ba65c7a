import { describe, expect, test } from "vitest";
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
  test("is x ΔW_a + (1 − x) ΔW_b, with the rank of both together and alphas multiplied in", () => {
    const mixed = mixAdapters(a, b, 0.3);
    const [wa, wb] = [update(of(a, both[0])), update(of(b, both[0]))];
    expect(loraRank(of(mixed, both[0]))).toBe(6);
    expectClose(
      update(of(mixed, both[0])),
      wa.map((value, i) => 0.3 * value + 0.7 * (wb[i] as number)),
    );
  });

  test("counts a module that one adapter lacks as no change there", () => {
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

describe("the reference's mix", () => {
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

  test("refuses factors of different rank by name", () => {
    expect(() => mixAdapters(a, b, 0.5, { form: "reference" })).toThrow(/unet\.a\.to_q has rank 2 .* rank 4/);
  });
});

test("adapters of different models are refused by name", () => {
  const wide = { down: float32(new Float32Array(6), [1, 6]), up: float32(new Float32Array(3), [3, 1]) };
  expect(() => mixAdapters(a, new Map([[both[0], wide]]), 0.5)).toThrow(
    /unet\.a\.to_q goes from 5 to 3 .* from 6 to 3/,
  );
});
