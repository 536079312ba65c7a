import type { OpDef, Value } from "../graph/value.js";

/** The gradient of one input, built only when somebody asks for it; undefined where there is none. */
export type InputGradient = (() => Value) | undefined;

/** What a rule sees of its node. */
export interface RuleNode<A> {
  /** The inputs as a tuple; the op's shape rule has checked that they are there. */
  readonly inputs: readonly [Value, Value, Value];
  /** The first output. */
  readonly y: Value;
  readonly outputs: readonly Value[];
  readonly attrs: A;
}

/**
 * The local derivative of one op: from dy, the gradient of its first output, the gradient of each input. A rule may return a
 * gradient of any shape that broadcasting made of the input's: the reverse pass sums it back, and adds up several uses.
 */
export type Rule<A> = (dy: Value, node: RuleNode<A>) => readonly InputGradient[];

type AttrsOf<D> = D extends OpDef<infer A> ? A : never;

/** Gradient rules for the ops of one table: each named, or said to have none. */
export type Rules<Table> = { readonly [K in keyof Table]: Rule<AttrsOf<Table[K]>> | "nondifferentiable" };
