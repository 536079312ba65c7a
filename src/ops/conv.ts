import { apply1, type F64Array, type OpDef, showType, type TensorType, type Value } from "../graph/value.js";
import { showShape, sizeOf } from "../tensor/shape.js";

/** Zeros around an image: [top, left, bottom, right], the order of ONNX. */
export type Padding = readonly [number, number, number, number];

export interface ConvAttrs {
  readonly stride: number;
  readonly padding: Padding;
  readonly groups: number;
  /** Pixels from one tap of the kernel to the next (Yu & Koltun 2016). */
  readonly dilation: number;
}

export interface ConvOptions {
  readonly stride?: number;
  readonly padding?: number | Padding;
  readonly groups?: number;
  readonly dilation?: number;
}

/** Pixels that `taps` taps of a kernel reach over. */
export const reach = (taps: number, dilation: number): number => (taps - 1) * dilation + 1;

/** x [b, c, h, w], weight [o, c / groups, kh, kw], bias [o] → [b, o, h', w']. */
export const conv2dOp: OpDef<ConvAttrs> = {
  name: "conv2d",
  autocast: "float16",
  infer: ([x, weight, bias], { stride, padding, groups, dilation }) => {
    const [b, c, h, w] = image("conv2d", x as TensorType);
    const [o, perGroup, kh, kw] = image("conv2d", weight as TensorType);
    if (c !== perGroup * groups || o % groups !== 0) {
      throw new TypeError(
        `conv2d: input ${showType(x as TensorType)} has ${c} channels but weight ${showShape((weight as TensorType).shape)} in ${groups} groups expects ${perGroup * groups}`,
      );
    }
    if (bias && (bias.shape.length !== 1 || bias.shape[0] !== o)) {
      throw new TypeError(`conv2d: bias ${showType(bias)} does not fit ${o} output channels`);
    }
    const height = Math.floor((h + padding[0] + padding[2] - reach(kh, dilation)) / stride) + 1;
    const width = Math.floor((w + padding[1] + padding[3] - reach(kw, dilation)) / stride) + 1;
    if (height < 1 || width < 1)
      throw new TypeError(
        `conv2d: ${h}x${w} with padding ${showShape(padding)} is smaller than the ${kh}x${kw} kernel`,
      );
    return [{ shape: [b, o, height, width], dtype: (x as TensorType).dtype }];
  },
  emit: (w, inputs, { attrs }) =>
    w.node("Conv", inputs, {
      strides: [attrs.stride, attrs.stride],
      pads: attrs.padding,
      group: attrs.groups,
      dilations: [attrs.dilation, attrs.dilation],
    }),
  evaluate: ([x, weight, bias], { attrs, outputs }) => {
    const out = (outputs[0] as Value).shape;
    const data = new Float64Array(sizeOf(out));
    if (bias) {
      const [, o, height, width] = out as [number, number, number, number];
      data.forEach((_, i) => {
        data[i] = bias.data[Math.floor(i / (height * width)) % o] as number;
      });
    }
    eachTap(x as F64Array, weight as F64Array, out, attrs, (at, from, tap) => {
      data[at] =
        (data[at] as number) + ((x as F64Array).data[from] as number) * ((weight as F64Array).data[tap] as number);
    });
    return [{ shape: out, data }];
  },
};

/**
 * The transpose of conv2d in its input: x [b, o, h', w'] and conv2d's weight [o, c / groups, kh, kw] → [b, c, height, width],
 * the size that conv2d started from (several sizes give one h' under a stride, so it is an attribute).
 */
export const convTranspose2dOp: OpDef<ConvAttrs & { readonly size: readonly [number, number] }> = {
  name: "convTranspose2d",
  autocast: "float16",
  infer: ([x, weight], { groups, size, stride, padding, dilation }) => {
    const [b, o, h, w] = image("convTranspose2d", x as TensorType);
    const [o2, perGroup, kh, kw] = image("convTranspose2d", weight as TensorType);
    const height = Math.floor((size[0] + padding[0] + padding[2] - reach(kh, dilation)) / stride) + 1;
    const width = Math.floor((size[1] + padding[1] + padding[3] - reach(kw, dilation)) / stride) + 1;
    if (o !== o2 || height !== h || width !== w) {
      throw new TypeError(
        `convTranspose2d: ${showType(x as TensorType)} is not what weight ${showType(weight as TensorType)} makes of ${size.join("x")}`,
      );
    }
    return [{ shape: [b, perGroup * groups, ...size], dtype: (x as TensorType).dtype }];
  },
  emit: (w, names, { attrs, inputs }) => {
    const { stride, padding, groups, size, dilation } = attrs;
    const [x, weight] = inputs as [Value, Value];
    const extra = (axis: 0 | 1) =>
      size[axis] -
      ((x.shape[axis + 2] as number) - 1) * stride -
      reach(weight.shape[axis + 2] as number, dilation) +
      (padding[axis] as number) +
      (padding[axis + 2] as number);
    return w.node("ConvTranspose", names, {
      strides: [stride, stride],
      pads: padding,
      group: groups,
      output_padding: [extra(0), extra(1)],
      dilations: [dilation, dilation],
    });
  },
  evaluate: ([x, weight], { attrs, outputs }) => {
    const shape = (outputs[0] as Value).shape;
    const data = new Float64Array(sizeOf(shape));
    eachTap({ shape, data }, weight as F64Array, (x as F64Array).shape, attrs, (at, from, tap) => {
      data[from] =
        (data[from] as number) + ((x as F64Array).data[at] as number) * ((weight as F64Array).data[tap] as number);
    });
    return [{ shape, data }];
  },
};

export function image(who: string, type: TensorType): [number, number, number, number] {
  if (type.shape.length !== 4) throw new TypeError(`${who}: expects 4 axes, got ${showType(type)}`);
  return type.shape as unknown as [number, number, number, number];
}

/** Visits every (output, input, weight) triple of offsets that a convolution multiplies. */
function eachTap(
  input: F64Array,
  weight: F64Array,
  out: readonly number[],
  { stride, padding, groups, dilation }: ConvAttrs,
  visit: (at: number, from: number, tap: number) => void,
): void {
  const [, c, h, w] = input.shape as [number, number, number, number];
  const [, perGroup, kh, kw] = weight.shape as [number, number, number, number];
  const [batch, o, height, width] = out as [number, number, number, number];
  for (let b = 0; b < batch; b++) {
    for (let k = 0; k < o; k++) {
      const firstChannel = Math.floor(k / (o / groups)) * perGroup;
      for (let y = 0; y < height; y++) {
        for (let x = 0; x < width; x++) {
          const at = ((b * o + k) * height + y) * width + x;
          for (let j = 0; j < perGroup; j++) {
            for (let dy = 0; dy < kh; dy++) {
              const row = y * stride + dy * dilation - padding[0];
              if (row < 0 || row >= h) continue;
              for (let dx = 0; dx < kw; dx++) {
                const column = x * stride + dx * dilation - padding[1];
                if (column < 0 || column >= w) continue;
                visit(
                  at,
                  ((b * c + firstChannel + j) * h + row) * w + column,
                  ((k * perGroup + j) * kh + dy) * kw + dx,
                );
              }
            }
          }
        }
      }
    }
  }
}

/** Mean over factor x factor tiles: x [b, c, h, w] → [b, c, h / factor, w / factor]. */
export const averagePoolOp: OpDef<{ readonly factor: number }> = {
  name: "averagePool",
  infer: ([x], { factor }) => {
    const [b, c, h, w] = image("averagePool", x as TensorType);
    if (h % factor !== 0 || w % factor !== 0)
      throw new TypeError(`averagePool: ${h}x${w} is not made of ${factor}x${factor} tiles`);
    return [{ shape: [b, c, h / factor, w / factor], dtype: (x as TensorType).dtype }];
  },
  emit: (w, [x], { attrs: { factor } }) =>
    w.node("AveragePool", [x as string], { kernel_shape: [factor, factor], strides: [factor, factor] }),
  evaluate: ([x], { attrs: { factor }, outputs }) => {
    const shape = (outputs[0] as Value).shape;
    const data = new Float64Array(sizeOf(shape));
    tiles((x as F64Array).shape, factor, (from, to) => {
      data[to] = (data[to] as number) + ((x as F64Array).data[from] as number) / factor ** 2;
    });
    return [{ shape, data }];
  },
};

/** Each pixel becomes a factor x factor tile: x [b, c, h, w] → [b, c, h · factor, w · factor]. */
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
    tiles(shape, factor, (from, to) => {
      data[from] = (x as F64Array).data[to] as number;
    });
    return [{ shape, data }];
  },
};

/** Visits each pixel of the large image with the pixel of the small one that its tile is. */
function tiles(large: readonly number[], factor: number, visit: (large: number, small: number) => void): void {
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

function attributes({ stride = 1, padding = 0, groups = 1, dilation = 1 }: ConvOptions): ConvAttrs {
  return {
    stride,
    groups,
    dilation,
    padding: typeof padding === "number" ? [padding, padding, padding, padding] : padding,
  };
}

export function conv2d(x: Value, weight: Value, bias?: Value, options: ConvOptions = {}): Value {
  return apply1(conv2dOp, bias ? [x, weight, bias] : [x, weight], attributes(options));
}

/** `size` is the [height, width] of the result. */
export function convTranspose2d(
  x: Value,
  weight: Value,
  size: readonly [number, number],
  options: ConvOptions = {},
): Value {
  return apply1(convTranspose2dOp, [x, weight], { ...attributes(options), size });
}

export function averagePool(x: Value, factor: number): Value {
  return apply1(averagePoolOp, [x], { factor });
}

export function upsampleNearest(x: Value, factor: number): Value {
  return apply1(upsampleNearestOp, [x], { factor });
}
