/** Cases of imported ONNX operators, and what they are written with. */
import type { TensorProto } from "onnx-buf";
import { type Attributes, tensor } from "../onnx-model.js";

export interface Case {
  /** An entry per input: a shape for random values, a tensor for a constant, or "" for an input that is left out. */
  readonly given: readonly (readonly number[] | TensorProto | "")[];
  readonly attributes?: Attributes;
  readonly opset?: number;
  readonly outputs?: number;
  readonly range?: readonly [number, number];
  /** The gradient passes through rounding, so finite differences differ from it. */
  readonly isStraightThrough?: boolean;
}

export const ints = (...values: number[]) => tensor("", values);
export const scalar = (value: number, dtype: "int64" | "float32" = "float32") => tensor("", [value], [], dtype);
export const floats = (...values: number[]) => tensor("", values, [values.length], "float32");
export const f = (float: number) => ({ float });
export const one = (...shape: number[]): Case => ({ given: [shape] });
export const two = (a: number[], b: number[]): Case => ({ given: [a, b] });
export const image = [2, 3, 5, 6];

export const u8 = (values: readonly number[], shape: readonly number[] = [values.length]) =>
  tensor("", values, shape, "uint8");
export const i8 = (values: readonly number[], shape: readonly number[] = [values.length]) =>
  tensor("", values, shape, "int8");
export const i32 = (...values: number[]) => tensor("", values, [values.length], "int32");
export const bytes = (count: number, step: number, shift = 0) =>
  Array.from({ length: count }, (_, i) => ((i * step) % 97) + shift);
