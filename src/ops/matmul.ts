/** Matrix products. */
import { apply1, type F64Array, type OpDef, showType, type TensorType, type Value } from "../graph/value.js";
import { broadcastShapes, type Shape, sizeOf } from "../tensor/shape.js";
import { broadcastOffsets } from "./elementwise.js";
import { reshape, transpose } from "./movement.js";

export interface MatmulAttrs {
  readonly transposeA: boolean;
  readonly transposeB: boolean;
}

export interface MatmulOptions {
  readonly transposeA?: boolean;
  readonly transposeB?: boolean;
}

/** Rows and columns of the last two axes, after an optional transpose. */
function extents(shape: Shape, transposed: boolean): [number, number] {
  const [rows, columns] = shape.slice(-2) as [number, number];
  return transposed ? [columns, rows] : [rows, columns];
}

function productType(who: string, a: TensorType, b: TensorType, attrs: MatmulAttrs): TensorType {
  const [m, k] = extents(a.shape, attrs.transposeA);
  const [k2, n] = extents(b.shape, attrs.transposeB);
  const batch = broadcastShapes(a.shape.slice(0, -2), b.shape.slice(0, -2));
  if (a.shape.length < 2 || b.shape.length < 2 || k !== k2 || !batch || a.dtype !== b.dtype) {
    const mark = (transposed: boolean) => (transposed ? "ᵀ" : "");
    throw new TypeError(
      `${who}: ${showType(a)}${mark(attrs.transposeA)} · ${showType(b)}${mark(attrs.transposeB)} do not fit together`,
    );
  }
  return { shape: [...batch, m, n], dtype: a.dtype };
}

function product(a: F64Array, b: F64Array, attrs: MatmulAttrs, shape: Shape): F64Array {
  const [m, k] = extents(a.shape, attrs.transposeA);
  const n = shape[shape.length - 1] as number;
  const batch = shape.slice(0, -2);
  const [atA, atB] = [broadcastOffsets(a.shape.slice(0, -2), batch), broadcastOffsets(b.shape.slice(0, -2), batch)];
  const out = new Float64Array(sizeOf(shape));
  for (let i = 0; i < atA.length; i++) {
    const [offsetA, offsetB] = [(atA[i] as number) * m * k, (atB[i] as number) * k * n];
    for (let row = 0; row < m; row++) {
      for (let column = 0; column < n; column++) {
        let total = 0;
        for (let j = 0; j < k; j++) {
          const x = a.data[offsetA + (attrs.transposeA ? j * m + row : row * k + j)] as number;
          total += x * (b.data[offsetB + (attrs.transposeB ? column * k + j : j * n + column)] as number);
        }
        out[(i * m + row) * n + column] = total;
      }
    }
  }
  return { shape, data: out };
}

/** Product over the last two axes. The axes before them are batch axes and broadcast. */
export const matmulOp: OpDef<MatmulAttrs> = {
  name: "matmul",
  autocast: "float16",
  infer: ([a, b], attrs) => [productType("matmul", a as TensorType, b as TensorType, attrs)],
  emit: (w, names, { attrs, inputs }) => {
    // ONNX Runtime fuses a transpose of the last two axes into the MatMul that reads it.
    const operand = (i: 0 | 1, transposed: boolean) => {
      const name = names[i] as string;
      if (!transposed) return name;
      const rank = (inputs[i] as Value).shape.length;
      return w.node("Transpose", [name], { perm: swapLast(rank) })[0] as string;
    };
    return w.node("MatMul", [operand(0, attrs.transposeA), operand(1, attrs.transposeB)]);
  },
  evaluate: ([a, b], { attrs, outputs }) => [product(a as F64Array, b as F64Array, attrs, (outputs[0] as Value).shape)],
};

/** Product of two matrices [m, k] and [k, n], plus an optional bias [n]. */
export const gemmOp: OpDef<MatmulAttrs> = {
  name: "gemm",
  autocast: "float16",
  infer: ([a, b, bias], attrs) => {
    const type = productType("gemm", a as TensorType, b as TensorType, attrs);
    const fits = !bias || (bias.shape.length === 1 && bias.shape[0] === type.shape[1] && bias.dtype === type.dtype);
    if (type.shape.length !== 2 || !fits) {
      throw new TypeError(
        `gemm: result ${showType(type)} and bias ${bias ? showType(bias) : "none"} do not fit together`,
      );
    }
    return [type];
  },
  emit: (w, inputs, { attrs }) =>
    w.node("Gemm", inputs, { transA: Number(attrs.transposeA), transB: Number(attrs.transposeB) }),
  evaluate: ([a, b, bias], { attrs, outputs }) => {
    const out = product(a as F64Array, b as F64Array, attrs, (outputs[0] as Value).shape);
    if (!bias) return [out];
    return [
      { shape: out.shape, data: out.data.map((value, i) => value + (bias.data[i % bias.data.length] as number)) },
    ];
  },
};

/** The permutation that swaps the last two axes of a tensor. */
function swapLast(rank: number): number[] {
  const axes = Array.from({ length: rank }, (_, axis) => axis);
  return [...axes.slice(0, -2), rank - 1, rank - 2];
}

/** a [..., m, k] · b [..., k, n] → [..., m, n]. The options transpose the last two axes of an operand first. */
export function matmul(a: Value, b: Value, { transposeA = false, transposeB = false }: MatmulOptions = {}): Value {
  return apply1(a.shape.length === 2 && b.shape.length === 2 ? gemmOp : matmulOp, [a, b], { transposeA, transposeB });
}

/** x [..., in] · weightᵀ + bias → [..., out], with weight [out, in] and bias [out] as in torch's linear. */
export function linear(x: Value, weight: Value, bias?: Value): Value {
  const [outFeatures, inFeatures] = weight.shape as [number, number];
  if (x.shape.at(-1) !== inFeatures) {
    throw new TypeError(
      `linear: input ${showType(x)} has ${x.shape.at(-1)} features, but weight ${showType(weight)} expects ${inFeatures}`,
    );
  }
  const rows = reshape(x, [-1, inFeatures]);
  const inputs = bias ? [rows, weight, bias] : [rows, weight];
  return reshape(apply1(gemmOp, inputs, { transposeA: false, transposeB: true }), [
    ...x.shape.slice(0, -1),
    outFeatures,
  ]);
}

/** Swaps the last two axes. */
export function matrixTranspose(x: Value): Value {
  return transpose(x, swapLast(x.shape.length));
}
