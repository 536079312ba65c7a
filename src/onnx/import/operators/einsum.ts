/** numpy.einsum, two operands at a time: https://onnx.ai/onnx/operators/onnx__Einsum.html */
import type { Value } from "../../../graph/value.js";
import { matmul, reshape, slice, sum, transpose } from "../../../ops/index.js";
import { type Shape, sizeOf } from "../../../tensor/shape.js";
import type { OnnxNode } from "../node.js";
import type { Operators } from "./operator.js";

/** A tensor whose axes have letters, each once. */
interface Term {
  readonly letters: string;
  readonly value: Value;
}

/** Letters for the axes that an ellipsis stands for. The last one is the last axis. */
const ELLIPSIS = "αβγδεζηθικλμνξοπ";

function einsum(node: OnnxNode): Value {
  const equation = (node.string("equation") ?? node.fail("the attribute equation is missing")).replaceAll(" ", "");
  const operands = node.all();
  const refuse = (problem: string) =>
    node.fail(`the equation ${JSON.stringify(equation.slice(0, 80))} ${problem}`, { attribute: "equation" });
  const [left = "", right, ...more] = equation.split("->");
  const inputs = left.split(",");
  if (more.length > 0 || inputs.length !== operands.length) return refuse(`does not fit ${operands.length} operands`);
  if (![...inputs, right ?? ""].every((term) => /^[a-zA-Z]*(\.\.\.)?[a-zA-Z]*$/.test(term))) {
    return refuse("is not supported. It must have letters, commas, at most one ellipsis per operand, and an arrow");
  }
  const ranks = inputs.map((term, i) => (operands[i] as Value).shape.length - term.replace("...", "").length);
  if (ranks.some((rank, i) => rank < 0 || rank > ELLIPSIS.length || (rank > 0 && !inputs[i]?.includes("...")))) {
    return refuse("does not fit the ranks of the operands");
  }
  const axes = (count: number) => ELLIPSIS.slice(ELLIPSIS.length - count);
  const named = inputs.map((term, i) => term.replace("...", axes(ranks[i] as number)));
  const wanted = (right ?? implicit(inputs)).replace("...", axes(Math.max(...ranks)));
  if (new Set(wanted).size !== wanted.length) return refuse("repeats an axis of the result");
  const extents = new Map<string, number>();
  for (const [i, letters] of named.entries()) {
    for (const [axis, letter] of [...letters].entries()) {
      const [extent, before] = [(operands[i] as Value).shape[axis] as number, extents.get(letter) ?? 1];
      if (before !== 1 && extent !== 1 && before !== extent) refuse(`gives the axis ${letter} two lengths`);
      extents.set(letter, Math.max(before, extent));
    }
  }
  const unknown = [...wanted].find((letter) => !extents.has(letter));
  if (unknown !== undefined) return refuse(`has the axis ${unknown} of the result in no operand`);
  const terms = named.map((letters, i) => unique({ letters, value: operands[i] as Value }, extents));
  const [head, ...tail] = terms as [Term, ...Term[]];
  const after = (i: number) =>
    wanted +
    tail
      .slice(i)
      .map(({ letters }) => letters)
      .join("");
  const last = tail.reduce((done, term, i) => product(done, term, after(i + 1)), only(head, after(0)));
  return transpose(
    last.value,
    [...wanted].map((letter) => last.letters.indexOf(letter)),
  );
}

/** Without an arrow, the result has the ellipsis, then the letters that occur once, in alphabetical order. */
function implicit(inputs: readonly string[]): string {
  const all = inputs.join("").replaceAll("...", "");
  const once = [...new Set(all)].filter((letter) => all.indexOf(letter) === all.lastIndexOf(letter)).sort();
  return `${inputs.some((term) => term.includes("...")) ? "..." : ""}${once.join("")}`;
}

/** Takes the diagonal of repeated letters, and drops axes of length 1 that broadcast. */
function unique({ letters, value }: Term, extents: ReadonlyMap<string, number>): Term {
  const at = [...letters].findIndex((letter, axis) => value.shape[axis] === 1 && extents.get(letter) !== 1);
  if (at >= 0) {
    const shape = value.shape.filter((_, axis) => axis !== at);
    return unique({ letters: letters.slice(0, at) + letters.slice(at + 1), value: reshape(value, shape) }, extents);
  }
  const second = [...letters].findIndex((letter, axis) => letters.indexOf(letter) !== axis);
  if (second < 0) return { letters, value };
  const first = letters.indexOf(letters[second] as string);
  const extent = value.shape[first] as number;
  const others = value.shape.map((_, axis) => axis).filter((axis) => axis !== first && axis !== second);
  const flat = reshape(transpose(value, [...others, first, second]), [
    ...others.map((axis) => value.shape[axis] as number),
    extent * extent,
  ]);
  const diagonal = slice(flat, others.length, [0, extent * extent], { step: extent + 1 });
  const rest = others.map((axis) => letters[axis]).join("");
  return unique({ letters: rest + letters[first], value: diagonal }, extents);
}

/** Sums over the axes that nothing else needs. */
function only({ letters, value }: Term, needed: string): Term {
  const dropped = [...letters].flatMap((letter, axis) => (needed.includes(letter) ? [] : [axis]));
  return { letters: [...letters].filter((letter) => needed.includes(letter)).join(""), value: sum(value, dropped) };
}

/** The product of two terms as a matrix product: axes in both are its batch if they are needed later, and summed if not. */
function product(first: Term, second: Term, needed: string): Term {
  const a = only(first, needed + second.letters);
  const b = only(second, needed + first.letters);
  const both = [...a.letters].filter((letter) => b.letters.includes(letter));
  const batch = both.filter((letter) => needed.includes(letter)).join("");
  const summed = both.filter((letter) => !needed.includes(letter)).join("");
  const rows = [...a.letters].filter((letter) => !both.includes(letter)).join("");
  const columns = [...b.letters].filter((letter) => !both.includes(letter)).join("");
  const shapeOf = (letters: string): Shape =>
    [...letters].map((letter) => {
      const term = a.letters.includes(letter) ? a : b;
      return term.value.shape[term.letters.indexOf(letter)] as number;
    });
  const arranged = ({ letters, value }: Term, order: string, shape: Shape) =>
    reshape(
      transpose(
        value,
        [...order].map((letter) => letters.indexOf(letter)),
      ),
      shape,
    );
  const [m, k, n] = [rows, summed, columns].map((letters) => sizeOf(shapeOf(letters))) as [number, number, number];
  const y = matmul(
    arranged(a, batch + rows + summed, [...shapeOf(batch), m, k]),
    arranged(b, batch + summed + columns, [...shapeOf(batch), k, n]),
  );
  return { letters: batch + rows + columns, value: reshape(y, shapeOf(batch + rows + columns)) };
}

export const einsums: Operators = { Einsum: einsum };
