/** Convolutions of images [b, c, h, w]. */
import { apply1, type F64Array, type OpDef, showType, type TensorType, type Value } from "../graph/value.js";
import { type Shape, showShape, sizeOf } from "../tensor/shape.js";

/** Width of the zero padding on each side: [top, left, bottom, right], in the order of ONNX. */
export type Padding = readonly [number, number, number, number];

export interface ConvAttrs {
  readonly stride: number;
  readonly padding: Padding;
  readonly groups: number;
  /** Distance between neighboring kernel elements in pixels (Yu & Koltun 2016). */
  readonly dilation: number;
}

export interface ConvTransposeAttrs extends ConvAttrs {
  /** [height, width] of the result. */
  readonly size: readonly [number, number];
}

export interface ConvOptions {
  readonly stride?: number;
  /** The same on all sides, or one width for each side. */
  readonly padding?: number | Padding;
  readonly groups?: number;
  readonly dilation?: number;
}

/** The extent of a dilated kernel with `size` elements along one axis, in pixels. */
export const reach = (size: number, dilation: number): number => (size - 1) * dilation + 1;

/** x [b, c, h, w], weight [o, c / groups, kh, kw] and optional bias [o] → [b, o, h', w']. */
export const conv2dOp: OpDef<ConvAttrs> = {
  name: "conv2d",
  autocast: "float16",
  infer: ([x, weight, bias], { stride, padding, groups, dilation }) => {
    const [b, c, h, w] = image("conv2d", x as TensorType);
    const [o, perGroup, kh, kw] = image("conv2d", weight as TensorType);
    if (c !== perGroup * groups || o % groups !== 0) {
      throw new TypeError(
        `conv2d: input ${showType(x as TensorType)} has ${c} channels, but weight ${showShape((weight as TensorType).shape)} with ${groups} groups expects ${perGroup * groups}`,
      );
    }
    if (bias && (bias.shape.length !== 1 || bias.shape[0] !== o)) {
      throw new TypeError(`conv2d: bias ${showType(bias)} must have one element for each of ${o} output channels`);
    }
    const height = Math.floor((h + padding[0] + padding[2] - reach(kh, dilation)) / stride) + 1;
    const width = Math.floor((w + padding[1] + padding[3] - reach(kw, dilation)) / stride) + 1;
    if (height < 1 || width < 1)
      throw new TypeError(
        `conv2d: input ${h}x${w} with padding ${showShape(padding)} is smaller than the ${kh}x${kw} kernel`,
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
    const shapes = { input: (x as F64Array).shape, weight: (weight as F64Array).shape, output: out };
    forEachProduct(shapes, attrs, (input, tap, output) => {
      data[output] =
        (data[output] as number) + ((x as F64Array).data[input] as number) * ((weight as F64Array).data[tap] as number);
    });
    return [{ shape: out, data }];
  },
};

/**
 * The transpose of conv2d with respect to its input: x [b, o, h', w'] and the weight of conv2d [o, c / groups, kh, kw]
 * → [b, c, height, width]. `size` is [height, width]. It is an attribute because, with a stride, inputs of several
 * sizes give the same h' and w'.
 */
export const convTranspose2dOp: OpDef<ConvTransposeAttrs> = {
  name: "convTranspose2d",
  autocast: "float16",
  infer: ([x, weight], { groups, size, stride, padding, dilation }) => {
    const [b, o, h, w] = image("convTranspose2d", x as TensorType);
    const [o2, perGroup, kh, kw] = image("convTranspose2d", weight as TensorType);
    const height = Math.floor((size[0] + padding[0] + padding[2] - reach(kh, dilation)) / stride) + 1;
    const width = Math.floor((size[1] + padding[1] + padding[3] - reach(kw, dilation)) / stride) + 1;
    if (o !== o2 || height !== h || width !== w) {
      throw new TypeError(
        `convTranspose2d: input ${showType(x as TensorType)} is not a conv2d output of an image ${size.join("x")} with weight ${showType(weight as TensorType)}`,
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
    const shapes = { input: shape, weight: (weight as F64Array).shape, output: (x as F64Array).shape };
    forEachProduct(shapes, attrs, (input, tap, output) => {
      data[input] =
        (data[input] as number) + ((x as F64Array).data[output] as number) * ((weight as F64Array).data[tap] as number);
    });
    return [{ shape, data }];
  },
};

/** The extents of an image [b, c, h, w]. Throws a TypeError that starts with `who` if it does not have 4 axes. */
export function image(who: string, type: TensorType): [number, number, number, number] {
  if (type.shape.length !== 4) throw new TypeError(`${who}: expects a tensor with 4 axes, but got ${showType(type)}`);
  return type.shape as unknown as [number, number, number, number];
}

/**
 * Calls `visit` for each product input · weight that a convolution adds to an output, with the offsets of all three.
 */
function forEachProduct(
  shapes: { readonly input: Shape; readonly weight: Shape; readonly output: Shape },
  { stride, padding, groups, dilation }: ConvAttrs,
  visit: (input: number, weight: number, output: number) => void,
): void {
  const [, c, h, w] = shapes.input as [number, number, number, number];
  const [, perGroup, kh, kw] = shapes.weight as [number, number, number, number];
  const [batch, o, height, width] = shapes.output as [number, number, number, number];
  for (let b = 0; b < batch; b++) {
    for (let k = 0; k < o; k++) {
      const firstChannel = Math.floor(k / (o / groups)) * perGroup;
      for (let y = 0; y < height; y++) {
        for (let x = 0; x < width; x++) {
          const output = ((b * o + k) * height + y) * width + x;
          for (let j = 0; j < perGroup; j++) {
            for (let dy = 0; dy < kh; dy++) {
              const row = y * stride + dy * dilation - padding[0];
              if (row < 0 || row >= h) continue;
              for (let dx = 0; dx < kw; dx++) {
                const column = x * stride + dx * dilation - padding[1];
                if (column < 0 || column >= w) continue;
                visit(
                  ((b * c + firstChannel + j) * h + row) * w + column,
                  ((k * perGroup + j) * kh + dy) * kw + dx,
                  output,
                );
              }
            }
          }
        }
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

/** x [b, c, h, w], weight [o, c / groups, kh, kw] and bias [o] → [b, o, h', w'], as torch's conv2d. */
export function conv2d(x: Value, weight: Value, bias?: Value, options: ConvOptions = {}): Value {
  return apply1(conv2dOp, bias ? [x, weight, bias] : [x, weight], attributes(options));
}

/**
 * The transpose of conv2d: x [b, o, h', w'] and the weight of conv2d → [b, c, ...size], with `size` [height, width].
 */
export function convTranspose2d(
  x: Value,
  weight: Value,
  size: readonly [number, number],
  options: ConvOptions = {},
): Value {
  return apply1(convTranspose2dOp, [x, weight], { ...attributes(options), size });
}
