/**
 * The size of a baseline JPEG (ITU-T T.81) of an image, as a graph. It follows the codec up to the quantization, and then
 * estimates the entropy coder, because rounding and Huffman codes have no gradient.
 *
 * The entropy coder spends as many bits on a quantized value as its magnitude has, and at least as many on the code that
 * announces that length. So the estimate is
 *
 *     bits = 2.5 · Σ log2(1 + |c| / q)
 *
 * over all DCT coefficients c and their quantization steps q. The DC coefficient of a block counts by its difference from
 * the previous block, as T.81 codes it. The factor 2.5 was fitted to the output of libjpeg with optimized Huffman tables
 * (qualities 50 to 95; icons and blurred noise of 64 and 128 pixels); the estimate is within about 5 % of it (root mean
 * square). Headers do not count: they are the same for every image.
 */
import type { Value } from "../../graph/value.js";
import {
  abs,
  add,
  averagePool,
  broadcastTo,
  concat,
  constant,
  conv2d,
  div,
  log,
  matmul,
  mul,
  reshape,
  slice,
  sub,
  sum,
  transpose,
} from "../../ops/index.js";

const BITS_PER_MAGNITUDE_BIT = 2.5;

export interface JpegOptions {
  /** Quality of libjpeg, 1 to 100. */
  readonly quality?: number;
  /** 4:2:0 halves the chrominance planes in both directions, the default of encoders; 4:4:4 keeps their size. */
  readonly subsampling?: "4:2:0" | "4:4:4";
}

/** T.81 table K.1, for luminance, row by row. */
const LUMINANCE = [
  16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51,
  87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101,
  72, 92, 95, 98, 112, 100, 103, 99,
];
/** T.81 table K.2, for chrominance: 99 outside of this corner. */
const CHROMINANCE_CORNER = [
  [17, 18, 24, 47],
  [18, 21, 26, 66],
  [24, 26, 56, 99],
  [47, 66, 99, 99],
];
const CHROMINANCE = Array.from({ length: 64 }, (_, i) => CHROMINANCE_CORNER[Math.floor(i / 8)]?.[i % 8] ?? 99);

/** Scales a quantization table to a quality as libjpeg does (`jpeg_quality_scaling`); row by row. */
export function quantization(table: readonly number[], quality: number): number[] {
  const percent = quality < 50 ? Math.floor(5000 / quality) : 200 - 2 * quality;
  return table.map((step) => Math.min(255, Math.max(1, Math.floor((step * percent + 50) / 100))));
}

/** RGB → YCbCr of JFIF, [3, 3]. All three outputs are centered on 0. */
const TO_YCBCR = [
  [0.299, 0.587, 0.114],
  [-0.168736, -0.331264, 0.5],
  [0.5, -0.418688, -0.081312],
].flat();

/** images [b, 3, h, w] in 0 … 1 → kilobytes (of 1000) of entropy-coded data [b] */
export function jpegKilobytes(images: Value, { quality = 95, subsampling = "4:2:0" }: JpegOptions = {}): Value {
  const unit = subsampling === "4:2:0" ? 16 : 8;
  const padded = padByEdge(padByEdge(images, 2, unit), 3, unit);
  const shift = constant([-128, 0, 0], [3]);
  const ycbcr = conv2d(mul(padded, 255), constant(TO_YCBCR, [3, 3, 1, 1]), shift);
  const luminance = slice(ycbcr, 1, [0, 1]);
  const chrominance = slice(ycbcr, 1, [1, 3]);
  const subsampled = subsampling === "4:2:0" ? averagePool(chrominance, 2) : chrominance;
  const magnitude = add(
    magnitudeBits(luminance, quantization(LUMINANCE, quality)),
    magnitudeBits(subsampled, quantization(CHROMINANCE, quality)),
  );
  return mul(magnitude, BITS_PER_MAGNITUDE_BIT / 8 / 1000);
}

/** planes [b, c, h, w] → Σ log2(1 + |c| / q) over the coefficients of each image [b] */
function magnitudeBits(planes: Value, steps: readonly number[]): Value {
  const [batch, channels, height, width] = planes.shape as [number, number, number, number];
  const blocks = (height / 8) * (width / 8);
  // [b, c, h/8, 8, w/8, 8] → [b, c, blocks, 8, 8], blocks in reading order
  const tiled = reshape(planes, [batch, channels, height / 8, 8, width / 8, 8]);
  const block = reshape(transpose(tiled, [0, 1, 2, 4, 3, 5]), [batch, channels, blocks, 8, 8]);
  const dct = constant(DCT, [8, 8]);
  const spectrum = matmul(matmul(dct, block), dct, { transposeB: true });
  const coefficients = reshape(div(spectrum, constant(steps, [8, 8])), [batch, channels, blocks, 64]);

  const dc = slice(coefficients, 3, [0, 1]);
  const ac = slice(coefficients, 3, [1, 64]);
  // The predecessor of the first block counts as 0.
  const difference =
    blocks === 1
      ? dc
      : concat([slice(dc, 2, [0, 1]), sub(slice(dc, 2, [1, blocks]), slice(dc, 2, [0, blocks - 1]))], 2);
  const bits = (values: Value) => sum(mul(log(add(abs(values), 1)), Math.LOG2E), [1, 2, 3]);
  return add(bits(difference), bits(ac));
}

/** The orthonormal DCT-II of 8 points (T.81, A.3.3): row k holds ½ · c_k · cos((2n + 1) k π / 16). */
const DCT = Array.from({ length: 64 }, (_, i) => {
  const [k, n] = [Math.floor(i / 8), i % 8];
  return (k === 0 ? Math.SQRT1_2 : 1) * 0.5 * Math.cos(((2 * n + 1) * k * Math.PI) / 16);
});

/** Repeats the last row or column until the axis is a multiple of a block, as encoders do. */
function padByEdge(x: Value, axis: number, block: number): Value {
  const extent = x.shape[axis] as number;
  const missing = (block - (extent % block)) % block;
  if (missing === 0) return x;
  const edge = slice(x, axis, [extent - 1, extent]);
  const shape = x.shape.map((size, i) => (i === axis ? missing : size));
  return concat([x, broadcastTo(edge, shape)], axis);
}
