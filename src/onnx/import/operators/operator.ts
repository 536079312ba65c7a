import type { Value } from "../../../graph/value.js";
import type { OnnxNode } from "../node.js";

/**
 * Builds the outputs of an ONNX node; undefined for one that is not supported, which may be named but not read. Throws a TypeError or a RangeError for a node that cannot be imported (`node.fail`);
 * `OnnxImport` adds the node's name.
 */
export type Operator = (node: OnnxNode) => Value | readonly (Value | undefined)[];

/** Operators by name. Those of another domain than ONNX's own have the key `domain.Name`. */
export type Operators = Readonly<Record<string, Operator>>;
