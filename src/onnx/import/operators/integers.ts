/** Integers as floating point, so that a gradient can pass where they were made from floating point. */
import { apply, type Node, type Value } from "../../../graph/value.js";
import { cast } from "../../../ops/index.js";
import { OPS } from "../../../ops/table.js";
import { isFloating } from "../../../tensor/dtype.js";
import { numbersOf, type OnnxNode } from "../node.js";

/** Ops that only move elements, and how many of their inputs hold elements. They give the same before and after a cast. */
const MOVES: readonly (readonly [Node["op"]["name"], number])[] = [
  [OPS.reshape.name, 1],
  [OPS.transpose.name, 1],
  [OPS.slice.name, 1],
  [OPS.flip.name, 1],
  [OPS.broadcastTo.name, 1],
  [OPS.gather.name, 1],
  [OPS.concat.name, Number.POSITIVE_INFINITY],
];

/**
 * x as float32. Integers that were cast from floating point, and perhaps moved since, are computed without the two casts, which
 * no gradient passes: whole numbers as they are, others with the fraction cut off.
 */
export function asFloat(node: OnnxNode, x: Value): Value {
  if (isFloating(x.dtype)) return cast(x, "float32");
  return uncast(node, x) ?? cast(x, "float32");
}

function uncast(node: OnnxNode, x: Value): Value | undefined {
  if (numbersOf(x)) return cast(x, "float32");
  const { op, inputs, attrs } = x.node;
  const [source] = inputs;
  if (op.name === OPS.cast.name && source?.dtype === "float32") {
    // The whole numbers of a picture: see `inTypeOf`.
    if (source.node.op.name === OPS.straightThrough.name) return source;
    return node.throughRounding(cast(x, "float32"), source);
  }
  const [, count] = MOVES.find(([name]) => name === op.name) ?? [];
  if (count === undefined) return undefined;
  const moved = inputs.map((value, i) => (i < count ? uncast(node, value) : value));
  if (moved.some((value) => value === undefined)) return undefined;
  return apply(op, moved as Value[], attrs)[x.index];
}
