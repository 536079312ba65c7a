/**
 * The time of a large program, from its costliest operations: each form of them is timed by itself, on made-up data. That takes
 * a few seconds and little memory, where the program itself would take minutes and gigabytes.
 */
import { fixedNodes } from "../graph/fixed.js";
import { type Graph, topologicalOrder } from "../graph/graph.js";
import { apply, bytesOf, type Node, showType, type Value } from "../graph/value.js";
import { lower, type WeightHolding } from "../onnx/lower.js";
import { broadcastTo, cast, input, mul, reshape, slice } from "../ops/index.js";
import type { Runtime } from "../runtime/runtime.js";
import { isFloating } from "../tensor/dtype.js";
import { float32 } from "../tensor/host.js";
import { flopsOf } from "./flops.js";

/** Time spent on measurements at most, in seconds. */
const SECONDS_TO_MEASURE = 4;

/** An operation whose tensors take more is not measured. */
const MOST_BYTES = 3e8;

/** A first guess of a node's time, which decides what is measured: operations and bytes per second. */
const GUESS = { flops: 100e9, bytes: 5e9 };

/** Nodes that take as long as each other: the same op on tensors of the same types. */
interface Form {
  readonly node: Node;
  readonly key: string;
  readonly guess: number;
  count: number;
}

/** Calls of a program whose weights are packed up to a limit (`MemoryPlan.packUpTo`). */
interface Calls {
  readonly graph: Graph;
  readonly packUpTo: number;
  readonly calls: number;
}

/** Measures the operations of some programs. Returns the seconds of one call of each of them. */
export async function modelledSeconds(
  runtime: Runtime,
  programs: readonly Calls[],
): Promise<(graph: Graph, packUpTo: number) => number> {
  const all = new Map<string, Form>();
  for (const { graph, packUpTo, calls } of programs) {
    for (const form of formsOf(graph, runtime.holdingOf(graph, packUpTo))) {
      const known = all.get(form.key) ?? { ...form, count: 0 };
      known.count += calls * form.count;
      all.set(form.key, known);
    }
  }
  const measured = await measure(runtime, [...all.values()]);
  const ratios = ratiosByOp([...all.values()], measured);
  const secondsOf = ({ key, node, guess }: Form) =>
    measured.get(key) ?? guess * (ratios.get(node.op.name) ?? ratios.get("") ?? 1);
  return (graph, packUpTo) =>
    formsOf(graph, runtime.holdingOf(graph, packUpTo)).reduce((sum, form) => sum + form.count * secondsOf(form), 0);
}

function formsOf(graph: Graph, holding: WeightHolding): Form[] {
  const order = topologicalOrder(Object.values(lower(graph, holding).outputs));
  const folded = holding === "packed" ? fixedNodes(order) : new Set<Node>();
  const found = new Map<string, Form>();
  for (const node of order) {
    // A reshape is a view.
    if (node.inputs.length === 0 || node.op.name === "reshape" || folded.has(node)) continue;
    const key = `${node.op.name} ${node.inputs.map(showType)} ${node.outputs.map(showType)}`;
    const form = found.get(key) ?? { node, key, guess: guess(node), count: 0 };
    form.count++;
    found.set(key, form);
  }
  return [...found.values()];
}

const bytesMoved = (node: Node) => [...node.inputs, ...node.outputs].reduce((sum, value) => sum + bytesOf(value), 0);

const guess = (node: Node) => flopsOf(node) / GUESS.flops + bytesMoved(node) / GUESS.bytes;

/** Measured seconds by form, of those that take most of the time. */
async function measure(runtime: Runtime, forms: readonly Form[]): Promise<Map<string, number>> {
  const costly = forms.toSorted((a, b) => b.count * b.guess - a.count * a.guess);
  const began = performance.now();
  const measured = new Map<string, number>();
  for (const { node, key } of costly) {
    if ((performance.now() - began) / 1000 > SECONDS_TO_MEASURE) break;
    if (bytesMoved(node) > MOST_BYTES || !node.inputs.every(({ dtype }) => isFloating(dtype))) continue;
    measured.set(key, await secondsOfNode(runtime, node));
  }
  return measured;
}

/** Copies of a node in the program that measures it. All but the first write to memory that was used before, as in training. */
const COPIES = 3;

/** The mean time of some copies of a node in one call. The guess if it is too short to be measured. */
async function secondsOfNode(runtime: Runtime, node: Node): Promise<number> {
  const seed = input([1]);
  const filledWith = (value: Value, { shape, dtype }: Value) => {
    const single = reshape(
      value,
      shape.map(() => 1),
    );
    return cast(broadcastTo(single, shape), dtype);
  };
  const [x, ...others] = node.inputs as [Value, ...Value[]];
  const shared = others.map((value) => filledWith(seed, value));
  // The runtime would compute equal copies once.
  const different = Array.from({ length: COPIES }, (_, i) => filledWith(mul(seed, 1 + i), x));
  const first = (value: Value) => cast(slice(reshape(value, [-1]), 0, [0, 1]), "float32");
  const seconds = async (values: readonly Value[]) => {
    const outputs = Object.fromEntries(values.map((value, i) => [`y${i}`, first(value)]));
    const program = await runtime.compile({ name: node.op.name, inputs: { seed }, outputs });
    const began = performance.now();
    await program.run({ seed: float32(Float32Array.of(0.01), [1]) });
    const elapsed = (performance.now() - began) / 1000;
    await program.release();
    return elapsed;
  };
  const copies = different.map((value) => apply(node.op, [value, ...shared], node.attrs)[0] as Value);
  const own = ((await seconds(copies)) - (await seconds([...different, ...shared]))) / COPIES;
  return own > 0 ? own : guess(node);
}

/** Measured time relative to the guess, by op and over all ops (""). */
function ratiosByOp(forms: readonly Form[], measured: ReadonlyMap<string, number>): Map<string, number> {
  const sums = new Map<string, { measured: number; guessed: number }>();
  for (const { key, node, guess, count } of forms) {
    const seconds = measured.get(key);
    if (seconds === undefined) continue;
    for (const name of [node.op.name, ""]) {
      const sum = sums.get(name) ?? { measured: 0, guessed: 0 };
      sums.set(name, { measured: sum.measured + count * seconds, guessed: sum.guessed + count * guess });
    }
  }
  return new Map([...sums].map(([name, sum]) => [name, sum.measured / sum.guessed]));
}
