import { expect, test } from "vitest";
import { float32, fromNumbers, toFloat32, toNumbers } from "./host.js";

test("numbers survive a round trip through every element type", () => {
  const values = [0, 1, 2, 100];
  for (const dtype of ["float64", "float32", "float16", "bfloat16", "int64", "int32", "uint8", "int8"] as const) {
    const tensor = fromNumbers(values, [2, 2], dtype);
    expect([tensor.dtype, tensor.shape, [...toNumbers(tensor)]]).toEqual([dtype, [2, 2], values]);
  }
  expect([...toNumbers(fromNumbers([1, 0], [2], "bool"))]).toEqual([1, 0]);
});

test("fromNumbers rounds to the element type", () => {
  expect([...toNumbers(fromNumbers([0.1], [1]))]).toEqual([Math.fround(0.1)]);
  expect([...toNumbers(fromNumbers([0.1, 65520], [2], "float16"))]).toEqual([
    0.0999755859375,
    Number.POSITIVE_INFINITY,
  ]);
  expect([...toNumbers(fromNumbers([0.1], [1], "bfloat16"))]).toEqual([0.10009765625]);
});

test("toFloat32 converts floating point elements, and does not copy float32 ones", () => {
  const data = new Float32Array([1, 2]);
  expect(toFloat32(float32(data, [2]))).toBe(data);
  for (const dtype of ["float64", "float16", "bfloat16"] as const) {
    expect(toFloat32(fromNumbers([1.5, -2], [2], dtype))).toEqual(new Float32Array([1.5, -2]));
  }
  expect(() => toFloat32(fromNumbers([1], [1], "int64"))).toThrow(/expected floating point elements, found int64/);
});

test("a tensor needs as many values as its shape has elements", () => {
  expect(() => fromNumbers([1, 2, 3], [2, 2])).toThrow(/3 values do not fill shape \[2, 2\]/);
  expect(() => float32(new Float32Array(3), [2, 2])).toThrow(/3 values do not fill shape \[2, 2\]/);
});
