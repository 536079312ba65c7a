import { describe, expect, test } from "vitest";
import { Rng } from "./rng.js";

const take = (rng: Rng, count: number) => Array.from({ length: count }, () => rng.uint32());

function correlation(a: readonly number[], b: readonly number[]): number {
  const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const [meanA, meanB] = [mean(a), mean(b)];
  const product = (x: readonly number[], mx: number, y: readonly number[], my: number) =>
    x.reduce((sum, value, i) => sum + (value - mx) * ((y[i] as number) - my), 0);
  return product(a, meanA, b, meanB) / Math.sqrt(product(a, meanA, a, meanA) * product(b, meanB, b, meanB));
}

test("from the state 1, 2, 3, 4 come the published first numbers of xoshiro128**", () => {
  const rng = Rng.fromState({ words: [1, 2, 3, 4], spare: null });
  expect(take(rng, 6)).toEqual([11520, 0, 5927040, 70819200, 2031721883, 1637235492]);
});

describe("seeds and streams", () => {
  test("the same seed and stream give the same numbers", () => {
    expect(take(new Rng(7, 1, 2), 100)).toEqual(take(new Rng(7, 1, 2), 100));
  });

  test("other seeds and streams give other numbers, even seeds beyond 32 bits", () => {
    const rngs = [
      new Rng(0),
      new Rng(1),
      new Rng(2 ** 32),
      new Rng(0, 0),
      new Rng(0, 1),
      new Rng(0, 0, 1),
      new Rng(0, 1, 0),
      new Rng(1, 0),
    ];
    const first = rngs.map((rng) => rng.uint32());
    expect(new Set(first).size).toBe(rngs.length);
  });

  test("neighboring seeds and streams are not correlated", () => {
    const size = 10_000;
    const uniforms = (rng: Rng) => Array.from({ length: size }, () => rng.uniform());
    const pairs = [
      [new Rng(1), new Rng(2)],
      [new Rng(1, 1), new Rng(1, 2)],
      [new Rng(1, 5, 1), new Rng(1, 5, 2)],
    ] as const;
    // The bound is five standard errors of the correlation of independent numbers.
    for (const [a, b] of pairs)
      expect(Math.abs(correlation(uniforms(a), uniforms(b)))).toBeLessThan(5 / Math.sqrt(size));
  });

  test("ten thousand streams of one seed start with different numbers", () => {
    const first = Array.from({ length: 10_000 }, (_, stream) => take(new Rng(3, 1, stream), 2).join());
    expect(new Set(first).size).toBe(first.length);
  });
});

test("a saved state continues with the same numbers, even between the two normals of a pair", () => {
  const rng = new Rng(11);
  rng.normal();
  const saved = JSON.parse(JSON.stringify(rng.state()));
  const expected = [...Array.from({ length: 5 }, () => rng.normal()), rng.uint32()];
  const resumed = Rng.fromState(saved);
  expect([...Array.from({ length: 5 }, () => resumed.normal()), resumed.uint32()]).toEqual(expected);
});

describe("distributions", () => {
  const size = 100_000;
  const mean = (values: ArrayLike<number>, power = 1) =>
    Array.from(values).reduce((sum, value) => sum + value ** power, 0) / values.length;

  test("normals have the moments 0, 1, 0, 3", () => {
    const values = new Rng(5).normals(size);
    // The bound is five standard errors: the variances of z, z², z³ and z⁴ are 1, 2, 15 and 96.
    for (const [power, moment, variance] of [
      [1, 0, 1],
      [2, 1, 2],
      [3, 0, 15],
      [4, 3, 96],
    ] as const) {
      expect(Math.abs(mean(values, power) - moment)).toBeLessThan(5 * Math.sqrt(variance / size));
    }
  });

  test("the two normals of a pair are not correlated", () => {
    const values = [...new Rng(6).normals(size)];
    const [even, odd] = [0, 1].map((rest) => values.filter((_, i) => i % 2 === rest));
    expect(Math.abs(correlation(even as number[], odd as number[]))).toBeLessThan(5 / Math.sqrt(size / 2));
  });

  test("uniforms lie in [0, 1) with mean 1/2 and variance 1/12", () => {
    const rng = new Rng(8);
    const values = Array.from({ length: size }, () => rng.uniform());
    expect(values.every((value) => value >= 0 && value < 1)).toBe(true);
    expect(Math.abs(mean(values) - 1 / 2)).toBeLessThan(5 * Math.sqrt(1 / 12 / size));
    expect(Math.abs(mean(values, 2) - 1 / 3)).toBeLessThan(5 * Math.sqrt(4 / 45 / size));
  });

  test("integers take every value of their range equally often, both ends included", () => {
    const rng = new Rng(9);
    const counts = new Map<number, number>();
    for (let i = 0; i < size; i++) {
      const value = rng.integer(-2, 2);
      counts.set(value, (counts.get(value) ?? 0) + 1);
    }
    expect([...counts.keys()].sort((a, b) => a - b)).toEqual([-2, -1, 0, 1, 2]);
    const deviation = Math.sqrt(size * 0.2 * 0.8);
    for (const count of counts.values()) expect(Math.abs(count - size / 5)).toBeLessThan(5 * deviation);
  });

  test("a shuffle keeps every item and leaves the original alone", () => {
    const items = Array.from({ length: 50 }, (_, i) => i);
    const shuffled = new Rng(10).shuffle(items);
    expect(shuffled).not.toEqual(items);
    expect([...shuffled].sort((a, b) => a - b)).toEqual(items);
    expect(items[0]).toBe(0);
  });

  test("choice picks one of the items, and needs at least one", () => {
    const rng = new Rng(12);
    expect(new Set(Array.from({ length: 100 }, () => rng.choice(["a", "b", "c"])))).toEqual(new Set(["a", "b", "c"]));
    expect(() => rng.choice([])).toThrow(/nothing to choose from/);
  });
});
