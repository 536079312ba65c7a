/** Matrix products: https://onnx.ai/onnx/operators/ */
import type { Value } from "../../../graph/value.js";
import { add, linear, matmul, mul, reshape, sum, transpose } from "../../../ops/index.js";
import { type Shape, sizeOf } from "../../../tensor/shape.js";
import type { OnnxNode } from "../node.js";
import type { Operators } from "./operator.js";

/** numpy.matmul: a vector is a row on the left and a column on the right, and that axis is dropped from the result. */
function product(node: OnnxNode): Value {
  const [a, b] = [node.input(0), node.input(1)];
  if (a.shape.length === 0 || b.shape.length === 0) node.fail("an operand is a scalar");
  const [row, column] = [a.shape.length === 1, b.shape.length === 1];
  const y = matmul(row ? reshape(a, [1, -1]) : a, column ? reshape(b, [-1, 1]) : b);
  if (!row && !column) return y;
  const batch = y.shape.slice(0, -2);
  return reshape(y, [
    ...batch,
    ...(row ? [] : [y.shape.at(-2) as number]),
    ...(column ? [] : [y.shape.at(-1) as number]),
  ]);
}

function gemm(node: OnnxNode): Value {
  const [a, b, c] = [node.input(0), node.input(1), node.optional(2)];
  const [transposeA, transposeB] = [node.int("transA") === 1, node.int("transB") === 1];
  const [alpha, beta] = [node.float("alpha") ?? 1, node.float("beta") ?? 1];
  const [, columns] = transposeB ? [...b.shape].reverse() : b.shape;
  // torch.nn.Linear is exported like this.
  if (!transposeA && transposeB && alpha === 1 && beta === 1 && c?.shape.length === 1 && c.shape[0] === columns) {
    return linear(a, b, c);
  }
  const y = matmul(a, b, { transposeA, transposeB });
  const scaled = alpha === 1 ? y : mul(y, alpha);
  if (!c || beta === 0) return scaled;
  return add(scaled, beta === 1 ? c : mul(c, beta));
}

/** numpy.einsum with one or two operands, such as "bhqd,bhkd->bhqk". A letter may occur once per operand. */
function einsum(node: OnnxNode): Value {
  const equation = (node.string("equation") ?? node.fail("the attribute equation is missing")).replaceAll(" ", "");
  const operands = node.all();
  const [left = "", right] = equation.split("->");
  const terms = left.split(",");
  const isSimple =
    terms.length === operands.length && [...terms, right ?? ""].every((term) => /^[a-zA-Z]*$/.test(term));
  const isUnique = [...terms, right ?? ""].every((term) => new Set(term).size === term.length);
  if (right === undefined || !isSimple || !isUnique || operands.length > 2) {
    return node.fail(
      `the equation ${JSON.stringify(equation.slice(0, 80))} is not supported. It must name one or two operands with one letter per axis, "->" and the result`,
    );
  }
  for (const [i, term] of terms.entries()) {
    if (term.length !== operands[i]?.shape.length) node.fail(`${term} does not match the rank of operand ${i}`);
  }
  const extents = new Map(
    terms.flatMap((term, i) => [...term].map((letter, axis) => [letter, operands[i]?.shape[axis] as number] as const)),
  );
  const extent = (letter: string) =>
    extents.get(letter) ?? node.fail(`the axis ${letter} of the result is in no operand`);
  /** An operand with its axes in the order of `letters`. The other axes are summed. */
  const arranged = (i: number, letters: string): Value => {
    const term = terms[i] as string;
    const kept = [...term].filter((letter) => letters.includes(letter));
    const dropped = [...term].flatMap((letter, axis) => (letters.includes(letter) ? [] : [axis]));
    return transpose(
      sum(operands[i] as Value, dropped),
      [...letters].map((letter) => kept.indexOf(letter)),
    );
  };
  const [first = "", second] = terms;
  if (second === undefined) return arranged(0, right);
  const both = [...first].filter((letter) => second.includes(letter));
  const batch = both.filter((letter) => right.includes(letter)).join("");
  const summed = both.filter((letter) => !right.includes(letter)).join("");
  const rows = [...first].filter((letter) => !second.includes(letter) && right.includes(letter)).join("");
  const columns = [...second].filter((letter) => !first.includes(letter) && right.includes(letter)).join("");
  const shapeOf = (letters: string): Shape => [...letters].map(extent);
  const a = reshape(arranged(0, batch + rows + summed), [
    ...shapeOf(batch),
    sizeOf(shapeOf(rows)),
    sizeOf(shapeOf(summed)),
  ]);
  const b = reshape(arranged(1, batch + summed + columns), [
    ...shapeOf(batch),
    sizeOf(shapeOf(summed)),
    sizeOf(shapeOf(columns)),
  ]);
  const found = batch + rows + columns;
  if (found.length !== right.length) node.fail(`the result ${right} has an axis that is in no operand`);
  const y = reshape(matmul(a, b), shapeOf(found));
  return transpose(
    y,
    [...right].map((letter) => found.indexOf(letter)),
  );
}

export const matrixProducts: Operators = {
  MatMul: product,
  Gemm: gemm,
  Einsum: einsum,
};
