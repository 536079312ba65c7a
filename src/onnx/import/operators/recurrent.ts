/** RNN, GRU and LSTM, one step after the other: https://onnx.ai/onnx/operators/onnx__LSTM.html */
import type { Value } from "../../../graph/value.js";
import {
  add,
  concat,
  constant,
  matmul,
  maximum,
  mul,
  reshape,
  sigmoid,
  slice,
  sub,
  tanh,
  transpose,
  where,
} from "../../../ops/index.js";
import { showShape } from "../../../tensor/shape.js";
import type { OnnxNode } from "../node.js";
import type { Operators } from "./operator.js";
import { repeated } from "./repeated.js";

const MAX_STEPS = 1024;

const ACTIVATIONS: Readonly<Record<string, (x: Value) => Value>> = {
  Tanh: tanh,
  Sigmoid: sigmoid,
  Relu: (x) => maximum(0, x),
};

/** The state after a step, [b, hidden] each: h, and in an LSTM the cell. */
type State = readonly Value[];

/** The weights of one direction. */
interface Direction {
  /** x Wᵀ + bias of W [b, gates · hidden], for each step */
  readonly projected: readonly Value[];
  /** R [gates · hidden, hidden] */
  readonly recurrent: Value;
  /** The bias of R, [gates · hidden] */
  readonly bias: Value;
  /** The peepholes of an LSTM, [3 · hidden] */
  readonly peepholes: Value | undefined;
  readonly activations: readonly ((x: Value) => Value)[];
  readonly hidden: number;
}

type Cell = (projected: Value, state: State, direction: Direction) => State;

const part = (x: Value, i: number, hidden: number) => slice(x, x.shape.length - 1, [i * hidden, (i + 1) * hidden]);

/** The part of R and its bias that belongs to some gates, applied to h. */
const recur = (h: Value, { recurrent, bias, hidden }: Direction, [from, to]: readonly [number, number]) =>
  add(
    matmul(h, slice(recurrent, 0, [from * hidden, to * hidden]), { transposeB: true }),
    slice(bias, 0, [from * hidden, to * hidden]),
  );

const rnn: Cell = (projected, [h], direction) => {
  const [f] = direction.activations as [(x: Value) => Value];
  return [f(add(projected, recur(h as Value, direction, [0, 1])))];
};

/** Gates i, o, f and c (Hochreiter & Schmidhuber 1997, with the peepholes of Gers & Schmidhuber 2000). */
const lstm: Cell = (projected, [h, c], direction) => {
  const { hidden, peepholes } = direction;
  const [f, g, k] = direction.activations as [(x: Value) => Value, (x: Value) => Value, (x: Value) => Value];
  const gates = add(projected, recur(h as Value, direction, [0, 4]));
  const [i, o, forget, candidate] = [0, 1, 2, 3].map((at) => part(gates, at, hidden)) as [Value, Value, Value, Value];
  const seen = (gate: Value, cell: Value, at: number) =>
    peepholes ? add(gate, mul(part(peepholes, at, hidden), cell)) : gate;
  const before = c as Value;
  const cell = add(mul(f(seen(forget, before, 2)), before), mul(f(seen(i, before, 0)), g(candidate)));
  return [mul(f(seen(o, cell, 1)), k(cell)), cell];
};

/** Gates z, r and h (Cho et al. 2014). With `linear_before_reset`, r scales the product instead of the state. */
const gru =
  (resetsProduct: boolean): Cell =>
  (projected, [state], direction) => {
    const h = state as Value;
    const { hidden } = direction;
    const [f, g] = direction.activations as [(x: Value) => Value, (x: Value) => Value];
    const gates = f(add(slice(projected, 1, [0, 2 * hidden]), recur(h, direction, [0, 2])));
    const [z, r] = [part(gates, 0, hidden), part(gates, 1, hidden)];
    const inner = resetsProduct ? mul(r, recur(h, direction, [2, 3])) : recur(mul(r, h), direction, [2, 3]);
    const candidate = g(add(part(projected, 2, hidden), inner));
    return [add(mul(sub(1, z), candidate), mul(z, h))];
  };

interface Kind {
  readonly cell: (node: OnnxNode) => Cell;
  readonly gates: number;
  /** h, or h and the cell */
  readonly states: 1 | 2;
  readonly activations: readonly string[];
}

const recurrent =
  ({ cell, gates, states, activations }: Kind) =>
  (node: OnnxNode): Value[] => {
    const isBatchFirst = node.int("layout") === 1;
    const x = isBatchFirst ? transpose(node.ranked(0, 3), [1, 0, 2]) : node.ranked(0, 3);
    const [weights, recurrents, biases] = [node.ranked(1, 3), node.ranked(2, 3), node.optional(3)];
    const [steps, b] = x.shape as [number, number];
    const hidden = recurrents.shape[2] as number;
    const direction = node.choice("direction", ["forward", "reverse", "bidirectional"], "forward");
    const directions = direction === "bidirectional" ? 2 : 1;
    if ((node.int("hidden_size") ?? hidden) !== hidden || weights.shape[0] !== directions) {
      node.fail(`its weights ${showShape(weights.shape)} do not fit hidden_size or direction`);
    }
    if (node.int("input_forget") === 1) node.fail("input_forget is not supported", { attribute: "input_forget" });
    if (steps > MAX_STEPS) node.fail(`has ${steps} steps, but at most ${MAX_STEPS} are supported`);
    const names = node.strings("activations") ?? Array.from({ length: directions }, () => activations).flat();
    const functions = names.map(
      (name) =>
        ACTIVATIONS[name] ??
        node.fail(`its activation ${name.slice(0, 40)} is not supported`, { attribute: "activations" }),
    );
    const lengths = node.integers(4, "sequence_lens");
    if (lengths && lengths.length !== b) node.fail(`has ${lengths.length} lengths for ${b} sequences`);
    if (functions.length !== directions * activations.length) node.fail(`has ${functions.length} activations`);
    const initial = Array.from({ length: states }, (_, i) => node.optional(5 + i));
    const peepholes = states === 2 ? node.optional(7) : undefined;
    const step = cell(node);
    const of = (value: Value, at: number) => reshape(slice(value, 0, [at, at + 1]), value.shape.slice(1));
    const runs = Array.from({ length: directions }, (_, at) => {
      const bias = biases ? of(biases, at) : repeated([2 * gates * hidden], 0);
      const projected = add(matmul(x, of(weights, at), { transposeB: true }), slice(bias, 0, [0, gates * hidden]));
      return run({
        step,
        isReversed: direction === "reverse" || at === 1,
        lengths,
        state: initial.map((value) =>
          value ? of(isBatchFirst ? transpose(value, [1, 0, 2]) : value, at) : repeated([b, hidden], 0),
        ),
        direction: {
          projected: Array.from({ length: steps }, (_, t) => of(projected, t)),
          recurrent: of(recurrents, at),
          bias: slice(bias, 0, [gates * hidden, 2 * gates * hidden]),
          peepholes: peepholes && of(peepholes, at),
          activations: functions.slice(at * activations.length),
          hidden,
        },
      });
    });
    // [steps, directions, b, hidden] and [directions, b, hidden]
    const all = concat(
      runs.map(({ outputs }) => reshape(concat(outputs, 0), [steps, 1, b, hidden])),
      1,
    );
    const last = Array.from({ length: states }, (_, i) =>
      concat(
        runs.map(({ state }) => reshape(state[i] as Value, [1, b, hidden])),
        0,
      ),
    );
    return isBatchFirst
      ? [transpose(all, [2, 0, 1, 3]), ...last.map((value) => transpose(value, [1, 0, 2]))]
      : [all, ...last];
  };

interface Run {
  readonly step: Cell;
  readonly isReversed: boolean;
  /** Length of each sequence. Beyond it the state stays, and the output is 0. */
  readonly lengths: readonly number[] | undefined;
  readonly state: State;
  readonly direction: Direction;
}

function run({ step, isReversed, lengths, state: initial, direction }: Run): { outputs: Value[]; state: State } {
  const count = direction.projected.length;
  const outputs: Value[] = [];
  let state = initial;
  for (let i = 0; i < count; i++) {
    const t = isReversed ? count - 1 - i : i;
    const next = step(direction.projected[t] as Value, state, direction);
    const mask = lengths?.some((length) => t >= length)
      ? constant(
          lengths.map((length) => Number(t < length)),
          [lengths.length, 1],
          "bool",
        )
      : undefined;
    state = mask ? next.map((value, at) => where(mask, value, state[at] as Value)) : next;
    outputs[t] = mask ? where(mask, state[0] as Value, 0) : (state[0] as Value);
  }
  return { outputs, state };
}

export const recurrences: Operators = {
  RNN: recurrent({ cell: () => rnn, gates: 1, states: 1, activations: ["Tanh"] }),
  GRU: recurrent({
    cell: (node) => gru(node.int("linear_before_reset") === 1),
    gates: 3,
    states: 1,
    activations: ["Sigmoid", "Tanh"],
  }),
  LSTM: recurrent({ cell: () => lstm, gates: 4, states: 2, activations: ["Sigmoid", "Tanh", "Tanh"] }),
};
