import type { Value } from "../../../graph/value.js";
import type { OnnxNode } from "../node.js";

/** One ONNX operator as values of our graph. What does not fit is a TypeError, to which the caller adds the node's name. */
export type Operator = (node: OnnxNode) => Value | readonly Value[];

/** By name; operators of other domains than ONNX's own are called `domain.Name`. */
export type Operators = Readonly<Record<string, Operator>>;
