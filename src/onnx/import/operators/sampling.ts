/** Operators that move the pixels of an image: https://onnx.ai/onnx/operators/onnx__GridSample.html */
import type { Value } from "../../../graph/value.js";
import { add, constant, matmul, mul, reshape, slice, sub, transpose } from "../../../ops/index.js";
import { showShape, sizeOf, stridesOf } from "../../../tensor/shape.js";
import type { OnnxNode } from "../node.js";
import { MAX_ELEMENTS } from "./indexing.js";
import { cubic, imageRows, linear, nearest, pixelsOf, readTaps, tapsOf } from "./interpolation.js";
import type { Operators } from "./operator.js";

const MODES = ["bilinear", "nearest", "bicubic", "linear", "cubic"] as const;

/** x [b, c, ...spatial], grid [b, ...size, d] with positions in -1 … 1, the last axis first → [b, c, ...size] */
function gridSample(node: OnnxNode): Value {
  const x = node.ranked(0, 3, 4, 5);
  const grid = node.ranked(1, x.shape.length);
  const mode = node.choice("mode", MODES, "linear");
  const padding = node.choice("padding_mode", ["zeros", "border", "reflection"], "zeros");
  const alignCorners = node.int("align_corners") === 1;
  const [b, c] = x.shape as [number, number];
  const pixels = pixelsOf(x);
  const axes = pixels.spatial.length;
  const size = grid.shape.slice(1, -1);
  if (grid.shape[0] !== b || grid.shape.at(-1) !== axes || axes < 1) {
    node.fail(`its grid ${showShape(grid.shape)} does not fit ${showShape(x.shape)}`);
  }
  const points = sizeOf(size);
  const flat = reshape(grid, [b, points, axes]);
  const positions = pixels.spatial.map((extent, axis) => {
    const share = reshape(slice(flat, 2, [axes - 1 - axis, axes - axis]), [b, points]);
    return alignCorners ? mul(add(share, 1), (extent - 1) / 2) : sub(mul(add(share, 1), extent / 2), 0.5);
  });
  const interpolation = mode === "nearest" ? nearest : mode.endsWith("cubic") ? cubic : linear;
  const images = imageRows(b, sizeOf(pixels.spatial));
  const read = readTaps(pixels, tapsOf(positions, interpolation), { images, padding, alignCorners });
  return reshape(transpose(read.reduce(add), [0, 2, 1]), [b, c, ...size]);
}

/** theta [b, d, d + 1] → the positions [b, ...size, d] in -1 … 1 that GridSample reads */
function affineGrid(node: OnnxNode): Value {
  const theta = node.ranked(0, 3);
  const [b, , ...spatial] = node.integers(1, "size") ?? node.fail("the size is missing");
  const alignCorners = node.int("align_corners") === 1;
  const axes = spatial.length;
  const points = sizeOf(spatial);
  if (theta.shape[0] !== b || theta.shape[1] !== axes || theta.shape[2] !== axes + 1) {
    node.fail(`theta ${showShape(theta.shape)} does not fit ${axes} spatial axes`);
  }
  if (!(points * (axes + 1) <= MAX_ELEMENTS)) node.fail(`a grid of ${showShape(spatial)} is too large`);
  const strides = stridesOf(spatial);
  const base = Array.from({ length: points }, (_, at) => [
    ...spatial
      .map((extent, axis) => {
        const i = Math.floor(at / (strides[axis] as number)) % extent;
        if (!alignCorners) return (2 * i + 1) / extent - 1;
        return extent > 1 ? (2 * i) / (extent - 1) - 1 : 0;
      })
      .reverse(),
    1,
  ]).flat();
  const grid = matmul(constant(base, [points, axes + 1]), theta, { transposeB: true });
  return reshape(grid, [b as number, ...spatial, axes]);
}

export const sampling: Operators = { GridSample: gridSample, AffineGrid: affineGrid };
