import { describe, expect, test } from "vitest";
import { type Matrix, product } from "./matrix.js";
import { Rng } from "./rng.js";
import { qr, svd, truncateProduct } from "./svd.js";

const of = (rows: number, columns: number, ...data: number[]): Matrix => ({
  rows,
  columns,
  data: Float64Array.from(data),
});
const random = (seed: number, rows: number, columns: number) =>
  of(rows, columns, ...new Rng(seed).normals(rows * columns));
const transpose = ({ rows, columns, data }: Matrix): Matrix =>
  of(
    columns,
    rows,
    ...Array.from({ length: rows * columns }, (_, i) => data[(i % rows) * columns + Math.floor(i / rows)] as number),
  );

function expectClose(actual: Matrix, expected: Matrix, digits = 10): void {
  expect([actual.rows, actual.columns]).toEqual([expected.rows, expected.columns]);
  for (const [i, value] of expected.data.entries()) expect(actual.data[i]).toBeCloseTo(value, digits);
}

const identity = (n: number) => of(n, n, ...Array.from({ length: n * n }, (_, i) => (i % (n + 1) === 0 ? 1 : 0)));

describe("a QR decomposition", () => {
  test.each([
    ["tall", random(1, 7, 3)],
    ["wide", random(2, 3, 7)],
    ["with linearly dependent columns", product(random(3, 6, 1), random(4, 1, 4))],
    ["of zeros only", of(3, 2, 0, 0, 0, 0, 0, 0)],
  ])("(%s) has orthonormal columns and a triangle whose product is the matrix", (_, x) => {
    const { q, r } = qr(x);
    expectClose(product(q, r), x);
    expectClose(product(transpose(q), q), identity(q.columns));
    for (let i = 1; i < r.rows; i++) for (let j = 0; j < i; j++) expect(r.data[i * r.columns + j]).toBe(0);
  });
});

describe("a singular value decomposition", () => {
  // x = [[3, 0], [4, 5]]: xᵀx = [[25, 20], [20, 25]] has the eigenvalues 45 and 5.
  test("gives the known singular values of a small matrix", () => {
    expect([...svd(of(2, 2, 3, 0, 4, 5)).s]).toEqual([
      expect.closeTo(Math.sqrt(45), 12),
      expect.closeTo(Math.sqrt(5), 12),
    ]);
  });

  test("reproduces the matrix", () => {
    const x = random(5, 6, 6);
    const { u, s, v } = svd(x);
    const scaled = of(6, 6, ...u.data.map((value, i) => value * (s[i % 6] as number)));
    expectClose(product(scaled, transpose(v)), x);
    expectClose(product(transpose(v), v), identity(6));
    expect([...s]).toEqual([...s].sort((a, b) => b - a));
  });
});

describe("a product truncated to a rank", () => {
  test("is the product itself if the rank suffices", () => {
    const [b, a] = [random(6, 9, 4), random(7, 4, 5)];
    const cut = truncateProduct(b, a, 4);
    expectClose(product(cut.b, cut.a), product(b, a));
    expect(cut.singularValues.length).toBe(4);
  });

  test("has as its error the norm of the dropped singular values", () => {
    const [b, a] = [random(8, 9, 5), random(9, 5, 7)];
    const { b: left, a: right, singularValues } = truncateProduct(b, a, 2);
    expect([left.columns, right.rows]).toEqual([2, 2]);
    const [near, whole] = [product(left, right), product(b, a)];
    const missing = Math.sqrt(whole.data.reduce((sum, value, i) => sum + (value - (near.data[i] as number)) ** 2, 0));
    expect(missing).toBeCloseTo(Math.hypot(...singularValues.subarray(2)), 10);
  });

  test("is zero if the product is zero", () => {
    const { b, a } = truncateProduct(of(3, 2, 0, 0, 0, 0, 0, 0), random(10, 2, 4), 1);
    expectClose(product(b, a), of(3, 4, ...new Float64Array(12)));
  });
});
