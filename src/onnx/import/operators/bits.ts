/** Operators on the bits of integers, which exporters use in shape arithmetic alone: all operands must be constant. */
import type { Value } from "../../../graph/value.js";
import { broadcastOffsets } from "../../../ops/elementwise.js";
import { constant } from "../../../ops/index.js";
import { broadcastShapes } from "../../../tensor/shape.js";
import type { OnnxNode } from "../node.js";
import type { Operators } from "./operator.js";

/** Bits of an integer type of ONNX, negative for signed ones. */
const WIDTHS: Readonly<Record<number, number>> = { 2: 8, 3: -8, 4: 16, 5: -16, 6: -32, 7: -64, 12: 32, 13: 64 };
const OWN: Readonly<Record<string, number>> = { uint8: 8, int8: -8, int32: -32, int64: -64 };

/** Keeps the bits that fit the type of the first operand. */
function wrapped(node: OnnxNode, value: bigint): number {
  const code = node.elementType(0);
  const width = WIDTHS[code ?? 0] ?? OWN[node.input(0).dtype] ?? node.fail("expects integers");
  const fitting = width < 0 ? BigInt.asIntN(-width, value) : BigInt.asUintN(width, value);
  const number = Number(fitting);
  return Number.isSafeInteger(number) ? number : node.fail(`its result ${fitting} is out of range`);
}

const binary =
  (f: (a: bigint, b: bigint) => bigint) =>
  (node: OnnxNode): Value => {
    const [x, y] = [node.input(0), node.input(1)];
    const [a, b] = [node.integers(0, "first operand") ?? [], node.integers(1, "second operand") ?? []];
    const shape = broadcastShapes(x.shape, y.shape) ?? node.fail("its operands do not broadcast");
    const [p, q] = [broadcastOffsets(x.shape, shape), broadcastOffsets(y.shape, shape)];
    const values = Array.from(p, (at, i) =>
      wrapped(node, f(BigInt(a[at] as number), BigInt(b[q[i] as number] as number))),
    );
    return constant(values, shape, x.dtype);
  };

export const bits: Operators = {
  BitwiseAnd: binary((a, b) => a & b),
  BitwiseOr: binary((a, b) => a | b),
  BitwiseXor: binary((a, b) => a ^ b),
  BitwiseNot: (node) => {
    const { shape, dtype } = node.input(0);
    const values = (node.integers(0, "operand") ?? []).map((value) => wrapped(node, ~BigInt(value)));
    return constant(values, shape, dtype);
  },
  BitShift: (node) => {
    const isLeft = node.choice("direction", ["LEFT", "RIGHT"], "LEFT") === "LEFT";
    return binary((a, b) => {
      // A shift by all bits or more, and by a negative number, leaves the sign or 0.
      const by = b < 0n || b > 64n ? 64n : b;
      return isLeft ? a << by : a >> by;
    })(node);
  },
};
