/** Discrete Fourier transforms, as products with matrices of cosines and sines: https://onnx.ai/onnx/operators/onnx__DFT.html */
import type { Value } from "../../../graph/value.js";
import { add, concat, constant, matmul, mul, pad, reshape, slice, sub, transpose } from "../../../ops/index.js";
import { normalizeAxis, showShape } from "../../../tensor/shape.js";
import type { OnnxNode } from "../node.js";
import { valueType } from "./constants.js";
import { fromFront, MAX_ELEMENTS, take, toFront } from "./indexing.js";
import type { Operators } from "./operator.js";

interface Transform {
  /** Number of points of the transform. */
  readonly length: number;
  /** Number of rows of the result. */
  readonly size: number;
  readonly isInverse: boolean;
}

/** x [n, ..., 1 or 2], real or complex → [size, ..., 2]. n may be less than the length; what is missing is 0. */
function transformed(x: Value, { length, size, isInverse }: Transform): Value {
  const [n, ...rest] = x.shape as [number, ...number[]];
  const parts = rest.pop() as number;
  const wave = (f: (angle: number) => number, scale: number) =>
    constant(
      Float64Array.from({ length: size * n }, (_, i) => {
        // The product is reduced first, so that large angles stay exact.
        const turns = ((Math.floor(i / n) * (i % n)) % length) / length;
        return scale * f(2 * Math.PI * turns);
      }),
      [size, n],
    );
  const scale = isInverse ? 1 / length : 1;
  const [cosines, sines] = [wave(Math.cos, scale), wave(Math.sin, isInverse ? scale : -scale)];
  const part = (i: number) => reshape(slice(x, x.shape.length - 1, [i, i + 1]), [n, -1]);
  const re = part(0);
  const outputs =
    parts === 1
      ? [matmul(cosines, re), matmul(sines, re)]
      : [sub(matmul(cosines, re), matmul(sines, part(1))), add(matmul(sines, re), matmul(cosines, part(1)))];
  const shaped = outputs.map((y) => reshape(y, [size, ...rest, 1]));
  return concat(shaped, rest.length + 1);
}

/** The first `length` elements of the first axis, with zeros if there are fewer. */
function resizedTo(x: Value, length: number): Value {
  const [n] = x.shape as [number];
  if (n === length) return x;
  if (n > length) return slice(x, 0, [0, length]);
  return pad(
    x,
    x.shape.map((_, axis): [number, number] => [0, axis === 0 ? length - n : 0]),
  );
}

/** The part of a real signal's transform that its other half repeats, conjugated. */
const half = (length: number) => Math.floor(length / 2) + 1;

/** The real signal of a one-sided transform [n / 2 + 1, ..., 2] → [n, ..., 1] */
function realInverse(x: Value, length: number): Value {
  const rows = resizedTo(x, half(length));
  // Each row but the first and, of an even length, the last stands for itself and its conjugate.
  const counts = Array.from({ length: half(length) }, (_, k) => (k === 0 || 2 * k === length ? 1 : 2));
  const weighted = mul(rows, constant(counts, [counts.length, ...x.shape.slice(1).map(() => 1)]));
  const y = transformed(weighted, { length, size: length, isInverse: true });
  return slice(y, y.shape.length - 1, [0, 1]);
}

function dft(node: OnnxNode): Value {
  const x = node.ranked(0, 2, 3, 4, 5, 6);
  if (x.shape.at(-1) !== 1 && x.shape.at(-1) !== 2) node.fail(`${showShape(x.shape)} is neither real nor complex`);
  const rank = x.shape.length;
  const given = node.int("axis") ?? node.integer(2, "axis") ?? (node.opset < 20 ? 1 : -2);
  const axis = normalizeAxis(given, rank, "DFT");
  const [isInverse, isOneSided] = [node.int("inverse") === 1, node.int("onesided") === 1];
  const extent = x.shape[axis] as number;
  const length = node.integer(1, "dft_length") ?? (isInverse && isOneSided ? 2 * (extent - 1) : extent);
  if (axis === rank - 1 || !(length >= 1))
    node.fail(`has the axis ${axis} of ${showShape(x.shape)}, of length ${length}`);
  if (length * length > 4 * MAX_ELEMENTS) node.fail(`a transform of ${length} points takes too much memory`);
  const front = toFront(x, axis);
  if (isInverse && isOneSided) return fromFront(realInverse(front, length), axis);
  const size = isOneSided ? half(length) : length;
  return fromFront(transformed(resizedTo(front, length), { length, size, isInverse }), axis);
}

/** signal [b, length, 1 or 2] → frames [b, count, bins, 2] */
function stft(node: OnnxNode): Value {
  const signal = node.ranked(0, 2, 3);
  const step = node.integer(1, "frame_step") ?? node.fail("frame_step is missing");
  const window = node.optional(2);
  const [b, total, parts = 1] = signal.shape as [number, number, number?];
  const length = node.integer(3, "frame_length") ?? window?.shape[0] ?? node.fail("frame_length is missing");
  if (parts > 2) node.fail(`${showShape(signal.shape)} is neither real nor complex`);
  const count = Math.floor((total - length) / step) + 1;
  if (!(count >= 1 && step >= 1)) node.fail(`frames of ${length} do not fit a signal of ${total}`);
  if (length * length > 4 * MAX_ELEMENTS || count * length > MAX_ELEMENTS) node.fail("its frames take too much memory");
  const size = node.int("onesided") === 0 ? length : half(length);
  const places = Array.from({ length: count * length }, (_, i) => Math.floor(i / length) * step + (i % length));
  const frames = reshape(take(reshape(signal, [b, total, parts]), 1, places), [b, count, length, parts]);
  const windowed = window ? mul(frames, reshape(window, [length, 1])) : frames;
  const y = transformed(transpose(windowed, [2, 0, 1, 3]), { length, size, isInverse: false });
  return transpose(y, [1, 2, 0, 3]);
}

/** A window of cosines: Σ aₖ cos(2 π k i / n) */
const cosineWindow = (coefficients: readonly number[]) => (node: OnnxNode) => {
  const size = node.integer(0, "size") ?? node.fail("the size is missing");
  if (!(size >= 0 && size <= MAX_ELEMENTS)) node.fail(`the size ${size} is not possible`);
  const period = node.int("periodic") === 0 ? size - 1 : size;
  const values = Array.from({ length: size }, (_, i) =>
    coefficients.reduce((sum, a, k) => sum + a * Math.cos((2 * Math.PI * k * i) / period), 0),
  );
  return constant(values, [size], valueType(node, node.int("output_datatype") ?? 1));
};

export const fourier: Operators = {
  DFT: dft,
  STFT: stft,
  HannWindow: cosineWindow([0.5, -0.5]),
  HammingWindow: cosineWindow([25 / 46, -21 / 46]),
  BlackmanWindow: cosineWindow([0.42, -0.5, 0.08]),
};
