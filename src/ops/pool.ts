/** Pooling and nearest-neighbor upsampling of images [b, c, h, w]. */
import { apply, apply1, type F64Array, type OpDef, type TensorType, type Value } from "../graph/value.js";
import { type Shape, showShape, sizeOf } from "../tensor/shape.js";
import { image, type Padding, reach } from "./conv.js";

/** Mean of each tile of factor x factor pixels: x [b, c, h, w] → [b, c, h / factor, w / factor]. */
export const averagePoolOp: OpDef<{ readonly factor: number }> = {
  name: "averagePool",
  infer: ([x], { factor }) => {
    const [b, c, h, w] = image("averagePool", x as TensorType);
    if (h % factor !== 0 || w % factor !== 0)
      throw new TypeError(`averagePool: ${h}x${w} is not divisible into tiles of ${factor}x${factor}`);
    return [{ shape: [b, c, h / factor, w / factor], dtype: (x as TensorType).dtype }];
  },
  emit: (w, [x], { attrs: { factor } }) =>
    w.node("AveragePool", [x as string], { kernel_shape: [factor, factor], strides: [factor, factor] }),
  evaluate: ([x], { attrs: { factor }, outputs }) => {
    const shape = (outputs[0] as Value).shape;
    const data = new Float64Array(sizeOf(shape));
    forEachTilePixel((x as F64Array).shape, factor, (large, small) => {
      data[small] = (data[small] as number) + ((x as F64Array).data[large] as number) / factor ** 2;
    });
    return [{ shape, data }];
  },
};

/** Repeats each pixel as a tile of factor x factor pixels: x [b, c, h, w] → [b, c, h · factor, w · factor]. */
export const upsampleNearestOp: OpDef<{ readonly factor: number }> = {
  name: "upsampleNearest",
  infer: ([x], { factor }) => {
    const [b, c, h, w] = image("upsampleNearest", x as TensorType);
    return [{ shape: [b, c, h * factor, w * factor], dtype: (x as TensorType).dtype }];
  },
  emit: (w, [x], { attrs: { factor } }) =>
    w.node("Resize", [x as string, "", w.tensor([1, 1, factor, factor], [4], "float32")], {
      mode: "nearest",
      coordinate_transformation_mode: "asymmetric",
      nearest_mode: "floor",
    }),
  evaluate: ([x], { attrs: { factor }, outputs }) => {
    const shape = (outputs[0] as Value).shape;
    const data = new Float64Array(sizeOf(shape));
    forEachTilePixel(shape, factor, (large, small) => {
      data[large] = (x as F64Array).data[small] as number;
    });
    return [{ shape, data }];
  },
};

/** Calls `visit` with the offset of each pixel of the large image and of its tile's pixel in the small one. */
function forEachTilePixel(large: Shape, factor: number, visit: (large: number, small: number) => void): void {
  const [b, c, h, w] = large as [number, number, number, number];
  for (let plane = 0; plane < b * c; plane++) {
    for (let y = 0; y < h; y++) {
      for (let x = 0; x < w; x++) {
        const small = (plane * (h / factor) + Math.floor(y / factor)) * (w / factor) + Math.floor(x / factor);
        visit((plane * h + y) * w + x, small);
      }
    }
  }
}

export interface MaxPoolAttrs {
  readonly kernel: readonly [number, number];
  readonly stride: readonly [number, number];
  readonly padding: Padding;
  readonly dilation: number;
}

/**
 * The largest element of each window of x [b, c, h, w] → [b, c, h', w'], and its int64 offset in x. Of equal elements
 * the first gets the gradient, as in torch.
 */
export const maxPoolOp: OpDef<MaxPoolAttrs> = {
  name: "maxPool",
  infer: ([x], { kernel, stride, padding, dilation }) => {
    const [b, c, h, w] = image("maxPool", x as TensorType);
    const size = [h, w].map((extent, i) => {
      const padded = extent + (padding[i] as number) + (padding[i + 2] as number);
      return Math.floor((padded - reach(kernel[i] as number, dilation)) / (stride[i] as number)) + 1;
    });
    if (size.some((extent) => extent < 1)) {
      throw new TypeError(
        `maxPool: input ${h}x${w} with padding ${showShape(padding)} is smaller than the ${kernel.join("x")} window`,
      );
    }
    const shape = [b, c, ...size];
    return [
      { shape, dtype: (x as TensorType).dtype },
      { shape, dtype: "int64" },
    ];
  },
  emit: (w, [x], { attrs: { kernel, stride, padding, dilation } }) =>
    w.node(
      "MaxPool",
      [x as string],
      { kernel_shape: kernel, strides: stride, pads: padding, dilations: [dilation, dilation] },
      2,
    ),
  evaluate: ([x], { attrs: { kernel, stride, padding, dilation }, outputs }) => {
    const [, , h, w] = (x as F64Array).shape as [number, number, number, number];
    const shape = (outputs[0] as Value).shape as [number, number, number, number];
    const [, , height, width] = shape;
    const values = new Float64Array(sizeOf(shape)).fill(Number.NEGATIVE_INFINITY);
    const offsets = new Float64Array(values.length);
    for (let i = 0; i < values.length; i++) {
      const plane = Math.floor(i / (height * width)) * h * w;
      const top = (Math.floor(i / width) % height) * stride[0] - padding[0];
      const left = (i % width) * stride[1] - padding[1];
      for (let dy = 0; dy < kernel[0]; dy++) {
        for (let dx = 0; dx < kernel[1]; dx++) {
          const [row, column] = [top + dy * dilation, left + dx * dilation];
          if (row < 0 || row >= h || column < 0 || column >= w) continue;
          const value = (x as F64Array).data[plane + row * w + column] as number;
          if (value <= (values[i] as number)) continue;
          values[i] = value;
          offsets[i] = plane + row * w + column;
        }
      }
    }
    return [
      { shape, data: values },
      { shape, data: offsets },
    ];
  },
};

/** Mean of each tile of factor x factor pixels: x [b, c, h, w] → [b, c, h / factor, w / factor]. */
export function averagePool(x: Value, factor: number): Value {
  return apply1(averagePoolOp, [x], { factor });
}

/** Repeats each pixel factor x factor times: x [b, c, h, w] → [b, c, h · factor, w · factor]. */
export function upsampleNearest(x: Value, factor: number): Value {
  return apply1(upsampleNearestOp, [x], { factor });
}

export interface MaxPoolOptions {
  readonly stride?: number | readonly [number, number];
  readonly padding?: number | Padding;
  readonly dilation?: number;
}

/** The largest element of each window of x [b, c, h, w] → [b, c, h', w'], as torch's max_pool2d. */
export function maxPool(
  x: Value,
  kernel: number | readonly [number, number],
  { stride = kernel, padding = 0, dilation = 1 }: MaxPoolOptions = {},
): Value {
  const pair = (value: number | readonly [number, number]) =>
    typeof value === "number" ? ([value, value] as const) : value;
  const around = typeof padding === "number" ? ([padding, padding, padding, padding] as const) : padding;
  return apply(maxPoolOp, [x], { kernel: pair(kernel), stride: pair(stride), padding: around, dilation })[0] as Value;
}
