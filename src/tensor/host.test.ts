import { expect, test } from "vitest";
import { float32, fromNumbers, toFloat32, toNumbers } from "./host.js";

test("numbers become elements of every type and numbers again", () => {
  const values = [0, 1, 2, 100];
  for (const dtype of ["float64", "float32", "float16", "bfloat16", "int64", "int32", "uint8", "int8"] as const) {
    const tensor = fromNumbers(values, [2, 2], dtype);
    expect([tensor.dtype, tensor.shape, [...toNumbers(tensor)]]).toEqual([dtype, [2, 2], values]);
  }
  expect([...toNumbers(fromNumbers([1, 0], [2], "bool"))]).toEqual([1, 0]);
});

test("elements are rounded to their type", () => {
  expect([...toNumbers(fromNumbers([0.1], [1]))]).toEqual([Math.fround(0.1)]);
  expect([...toNumbers(fromNumbers([0.1, 65520], [2], "float16"))]).toEqual([
    0.0999755859375,
    Number.POSITIVE_INFINITY,
  ]);
  expect([...toNumbers(fromNumbers([0.1], [1], "bfloat16"))]).toEqual([0.10009765625]);
});

test("floating point elements are given as float32, those that already are without a copy", () => {
  const data = new Float32Array([1, 2]);
  expect(toFloat32(float32(data, [2]))).toBe(data);
  for (const dtype of ["float64", "float16", "bfloat16"] as const) {
    expect(toFloat32(fromNumbers([1.5, -2], [2], dtype))).toEqual(new Float32Array([1.5, -2]));
  }
  expect(() => toFloat32(fromNumbers([1], [1], "int64"))).toThrow(/expected floating point elements, found int64/);
});

test("values that do not fill the shape are refused", () => {
  expect(() => fromNumbers([1, 2, 3], [2, 2])).toThrow(/3 values do not fill shape \[2, 2\]/);
  expect(() => float32(new Float32Array(3), [2, 2])).toThrow(/3 values do not fill shape \[2, 2\]/);
});
