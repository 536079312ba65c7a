import { describe, expect, test } from "vitest";
import { bfloatToNumber, halfToNumber, numberToBfloat, numberToHalf } from "./dtype.js";

describe("float16", () => {
  // IEEE 754-2008, section 3.4: 1 bit of sign, 5 of exponent (bias 15), 10 of fraction.
  test.each([
    ["one", 1, 0x3c00],
    ["a negative number", -2, 0xc000],
    ["1365 / 4096", 1365 / 4096, 0x3555],
    ["negative zero", -0, 0x8000],
    ["the largest", 65504, 0x7bff],
    ["infinity", Number.POSITIVE_INFINITY, 0x7c00],
    ["negative infinity", Number.NEGATIVE_INFINITY, 0xfc00],
    ["the smallest normal", 2 ** -14, 0x0400],
    ["the largest subnormal", 1023 * 2 ** -24, 0x03ff],
    ["the smallest subnormal", 2 ** -24, 0x0001],
  ])("encodes and decodes %s", (_, value, bits) => {
    expect(numberToHalf(value)).toBe(bits);
    expect(halfToNumber(bits)).toBe(value);
  });

  test.each([
    ["a third to 1365 / 4096", 1 / 3, 0x3555],
    ["1 + ½ ulp, down to even", 1 + 2 ** -11, 0x3c00],
    ["1 + 1½ ulp, up to even", 1 + 3 * 2 ** -11, 0x3c02],
    ["just above 1 + ½ ulp, up", 1 + 2 ** -11 + 2 ** -20, 0x3c01],
    ["halfway between the largest and 2^16, to infinity", 65520, 0x7c00],
    ["just below that midpoint, to the largest", 65519, 0x7bff],
    ["far out of range, to infinity", -1e30, 0xfc00],
    ["half of the smallest subnormal, to zero", 2 ** -25, 0x0000],
    ["1½ times the smallest subnormal, up to 2 times", 1.5 * 2 ** -24, 0x0002],
    ["2½ times the smallest subnormal, down to 2 times", -2.5 * 2 ** -24, 0x8002],
    ["between subnormal and normal, up to the normal", 1023.5 * 2 ** -24, 0x0400],
  ])("rounds %s", (_, value, bits) => expect(numberToHalf(value)).toBe(bits));

  test("every bit pattern survives a round trip, and NaN stays NaN", () => {
    const wrong: number[] = [];
    for (let bits = 0; bits < 0x10000; bits++) {
      const value = halfToNumber(bits);
      const again = numberToHalf(value);
      if (Number.isNaN(value) ? !Number.isNaN(halfToNumber(again)) : again !== bits) wrong.push(bits);
    }
    expect(wrong).toEqual([]);
    expect(halfToNumber(numberToHalf(Number.NaN))).toBeNaN();
  });
});

describe("bfloat16", () => {
  test.each([
    ["one", 1, 0x3f80],
    ["negative zero", -0, 0x8000],
    ["infinity", Number.POSITIVE_INFINITY, 0x7f80],
    ["negative infinity", Number.NEGATIVE_INFINITY, 0xff80],
    ["the largest", 255 * 2 ** 120, 0x7f7f],
    ["the smallest subnormal", 2 ** -133, 0x0001],
  ])("encodes and decodes %s", (_, value, bits) => {
    expect(numberToBfloat(value)).toBe(bits);
    expect(bfloatToNumber(bits)).toBe(value);
  });

  test.each([
    ["π to 3.140625", Math.PI, 0x4049],
    ["1 + ½ ulp, down to even", 1 + 2 ** -8, 0x3f80],
    ["1 + 1½ ulp, up to even", 1 + 3 * 2 ** -8, 0x3f82],
    ["the largest float32, to infinity", 3.4028234663852886e38, 0x7f80],
    ["half of the smallest subnormal, to zero", -(2 ** -134), 0x8000],
    ["1½ times the smallest subnormal, up to 2 times", 3 * 2 ** -134, 0x0002],
  ])("rounds %s", (_, value, bits) => expect(numberToBfloat(value)).toBe(bits));

  test("every bit pattern survives a round trip, and NaN stays NaN", () => {
    const wrong: number[] = [];
    for (let bits = 0; bits < 0x10000; bits++) {
      const value = bfloatToNumber(bits);
      const again = numberToBfloat(value);
      if (Number.isNaN(value) ? !Number.isNaN(bfloatToNumber(again)) : again !== bits) wrong.push(bits);
    }
    expect(wrong).toEqual([]);
    expect(bfloatToNumber(numberToBfloat(Number.NaN))).toBeNaN();
  });
});
