/** Ops that gather elements at indices, and the scatter ops that are their transposes. */
import { apply1, type F64Array, type OpDef, showType, type TensorType, type Value } from "../graph/value.js";
import { normalizeAxis, type Shape, showShape, sizeOf, stridesOf } from "../tensor/shape.js";

/** Looks up rows: table [rows, ...] and int64 indices of any shape → [...indices.shape, ...table.shape[1:]]. */
export const gatherOp: OpDef<Record<string, never>> = {
  name: "gather",
  infer: ([table, indices]) => {
    if (!table || indices?.dtype !== "int64" || table.shape.length === 0) {
      throw new TypeError(
        `gather: expects a table and int64 indices, but got ${showType(table as TensorType)} and ${showType(indices as TensorType)}`,
      );
    }
    return [{ shape: [...indices.shape, ...table.shape.slice(1)], dtype: table.dtype }];
  },
  emit: (w, inputs) => w.node("Gather", inputs, { axis: 0 }),
  evaluate: ([table, indices], { outputs }) => {
    const { shape, data } = table as F64Array;
    const row = sizeOf(shape.slice(1));
    const out = new Float64Array((indices as F64Array).data.length * row);
    (indices as F64Array).data.forEach((index, i) => {
      out.set(data.subarray(index * row, (index + 1) * row), i * row);
    });
    return [{ shape: (outputs[0] as Value).shape, data: out }];
  },
};

/** Adds the rows of updates [n, ...] to zeros [rows, ...] at indices [n]: the transpose of gather. */
export const scatterRowsOp: OpDef<{ readonly rows: number }> = {
  name: "scatterRows",
  autocast: "float32",
  infer: ([indices, updates], { rows }) => {
    const [n, ...rest] = (updates as TensorType).shape;
    if (indices?.dtype !== "int64" || indices.shape.length !== 1 || indices.shape[0] !== n) {
      throw new TypeError(
        `scatterRows: indices ${showType(indices as TensorType)} must be int64, one for each row of ${showType(updates as TensorType)}`,
      );
    }
    return [{ shape: [rows, ...rest], dtype: (updates as TensorType).dtype }];
  },
  emit: (w, [indices, updates], { outputs }) => {
    const { shape, dtype } = outputs[0] as Value;
    const zeros = w.node("Expand", [w.tensor([0], [], dtype), w.ints(shape)])[0] as string;
    const column = w.node("Reshape", [indices as string, w.ints([-1, 1])])[0] as string;
    return w.node("ScatterND", [zeros, column, updates as string], { reduction: "add" });
  },
  evaluate: ([indices, updates], { outputs }) => {
    const shape = (outputs[0] as Value).shape;
    const data = new Float64Array(sizeOf(shape));
    const row = sizeOf(shape.slice(1));
    (updates as F64Array).data.forEach((value, i) => {
      const at = ((indices as F64Array).data[Math.floor(i / row)] as number) * row + (i % row);
      data[at] = (data[at] as number) + value;
    });
    return [{ shape, data }];
  },
};

export interface AxisAttrs {
  readonly axis: number;
}

/** The offset in a tensor of shape `shape` that each index refers to: its own position, except along `axis`. */
function offsetsAlong(indices: F64Array, shape: Shape, axis: number): Float64Array {
  const [own, strides] = [stridesOf(indices.shape), stridesOf(shape)];
  return indices.data.map((index, i) =>
    strides.reduce((offset, stride, at) => {
      const position = Math.floor(i / (own[at] as number)) % (indices.shape[at] as number);
      return offset + stride * (at === axis ? index : position);
    }, 0),
  );
}

function checkIndices(who: string, indices: TensorType, x: TensorType, axis: number): void {
  const fits =
    indices.dtype === "int64" &&
    indices.shape.length === x.shape.length &&
    indices.shape.every((extent, at) => at === axis || extent <= (x.shape[at] as number));
  if (!fits) throw new TypeError(`${who}: indices ${showType(indices)} do not fit ${showType(x)} along axis ${axis}`);
}

/** torch.gather: y[i, j] = x[indices[i, j], j] for axis 0. */
export const gatherElementsOp: OpDef<AxisAttrs> = {
  name: "gatherElements",
  infer: ([x, indices], { axis }) => {
    checkIndices("gatherElements", indices as TensorType, x as TensorType, axis);
    return [{ shape: (indices as TensorType).shape, dtype: (x as TensorType).dtype }];
  },
  emit: (w, inputs, { attrs: { axis } }) => w.node("GatherElements", inputs, { axis }),
  evaluate: ([x, indices], { attrs }) => {
    const { shape, data } = x as F64Array;
    const offsets = offsetsAlong(indices as F64Array, shape, attrs.axis);
    return [{ shape: (indices as F64Array).shape, data: offsets.map((at) => data[at] as number) }];
  },
};

/** Adds updates to zeros of `shape` at the positions that gatherElements reads: the transpose of gatherElements. */
export const scatterElementsOp: OpDef<AxisAttrs & { readonly shape: Shape }> = {
  name: "scatterElements",
  autocast: "float32",
  infer: ([indices, updates], { shape, axis }) => {
    const { dtype } = updates as TensorType;
    checkIndices("scatterElements", indices as TensorType, { shape, dtype }, axis);
    if (showShape((indices as TensorType).shape) !== showShape((updates as TensorType).shape)) {
      throw new TypeError(
        `scatterElements: indices ${showType(indices as TensorType)} and updates ${showType(updates as TensorType)} differ in shape`,
      );
    }
    return [{ shape, dtype }];
  },
  emit: (w, [indices, updates], { attrs: { axis, shape }, outputs }) => {
    const zeros = w.node("Expand", [w.tensor([0], [], (outputs[0] as Value).dtype), w.ints(shape)])[0] as string;
    return w.node("ScatterElements", [zeros, indices as string, updates as string], { axis, reduction: "add" });
  },
  evaluate: ([indices, updates], { attrs: { axis, shape } }) => {
    const data = new Float64Array(sizeOf(shape));
    const offsets = offsetsAlong(indices as F64Array, shape, axis);
    (updates as F64Array).data.forEach((value, i) => {
      const at = offsets[i] as number;
      data[at] = (data[at] as number) + value;
    });
    return [{ shape, data }];
  },
};

/** Looks up rows: table [rows, ...] and int64 indices of any shape → [...indices.shape, ...table.shape[1:]]. */
export function gather(table: Value, indices: Value): Value {
  return apply1(gatherOp, [table, indices], {});
}

/** Adds updates [n, ...] to zeros [rows, ...] at int64 indices [n]. */
export function scatterRows(indices: Value, updates: Value, rows: number): Value {
  return apply1(scatterRowsOp, [indices, updates], { rows });
}

/** torch.gather: y[i, j] = x[indices[i, j], j] for axis 0, with int64 indices. */
export function gatherElements(x: Value, indices: Value, axis: number): Value {
  return apply1(gatherElementsOp, [x, indices], { axis: normalizeAxis(axis, x.shape.length, "gatherElements") });
}

/** Adds updates to zeros of `shape` at the positions that gatherElements reads. */
export function scatterElements(indices: Value, updates: Value, shape: Shape, axis: number): Value {
  return apply1(scatterElementsOp, [indices, updates], {
    shape,
    axis: normalizeAxis(axis, shape.length, "scatterElements"),
  });
}
