/** Element types of weights and of values in graphs. The names are those of NumPy and PyTorch. */
export type DType = "float64" | "float32" | "float16" | "bfloat16" | "int64" | "int32" | "uint8" | "int8" | "bool";

export const BYTES_PER_ELEMENT: Record<DType, number> = {
  float64: 8,
  float32: 4,
  float16: 2,
  bfloat16: 2,
  int64: 8,
  int32: 4,
  uint8: 1,
  int8: 1,
  bool: 1,
};

export const FLOATING_TYPES: readonly DType[] = ["float16", "bfloat16", "float32", "float64"];

export function isFloating(dtype: DType): boolean {
  return FLOATING_TYPES.includes(dtype);
}

/** The largest finite float16. */
export const HALF_MAX = 65504;
/** The smallest normal float16. Smaller ones are subnormal and have fewer significant bits. */
export const HALF_MIN_NORMAL = 2 ** -14;

const bits32 = new DataView(new ArrayBuffer(4));

/** IEEE 754 binary16 bits → number. */
export function halfToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** number → IEEE 754 binary16 bits. Rounds to float32 first, then to the nearest float16 (ties to even). */
export function numberToHalf(value: number): number {
  bits32.setFloat32(0, value);
  const bits = bits32.getUint32(0);
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude >= 0x7f800000) return sign | 0x7c00 | (magnitude > 0x7f800000 ? 0x200 : 0);
  if (magnitude >= 0x477ff000) return sign | 0x7c00; // 65520 and above round to infinity
  if (magnitude >= 0x38800000) {
    const rounded = magnitude + 0xfff + ((magnitude >>> 13) & 1);
    return sign | ((rounded - 0x38000000) >>> 13);
  }
  // Subnormal float16 are multiples of 2^-24. The product with 2^24 is exact in float64.
  const scaled = Math.abs(Math.fround(value)) * 2 ** 24;
  const floor = Math.floor(scaled);
  const remainder = scaled - floor;
  const up = remainder > 0.5 || (remainder === 0.5 && floor % 2 === 1);
  return sign | (floor + (up ? 1 : 0));
}

/** bfloat16 bits → number. A bfloat16 is the upper 16 bits of a binary32. */
export function bfloatToNumber(bits: number): number {
  bits32.setUint32(0, bits << 16);
  return bits32.getFloat32(0);
}

/** number → bfloat16 bits. Rounds to float32 first, then to the nearest bfloat16 (ties to even). */
export function numberToBfloat(value: number): number {
  bits32.setFloat32(0, value);
  const bits = bits32.getUint32(0);
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >>> 16) | 0x40;
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}
