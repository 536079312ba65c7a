import type { OpDef, Value } from "../graph/value.js";

/** Builds the gradient of one input, only when it is needed. Undefined for an input that has no gradient. */
export type InputGradient = (() => Value) | undefined;

/** The parts of a node that its rule reads. */
export interface RuleNode<A> {
  /** The inputs. The tuple type spares rules a check: shape inference has verified how many there are. */
  readonly inputs: readonly [Value, Value, Value];
  /** The first output. */
  readonly y: Value;
  readonly outputs: readonly Value[];
  readonly attrs: A;
}

/**
 * The local derivative of an op: from dy, the gradient of its first output, to the gradient of each input. If the op
 * broadcasts an input, its gradient may have the broadcast shape; `gradients` sums it over the added axes, and sums the
 * gradients over all uses of a value.
 */
export type Rule<A> = (dy: Value, node: RuleNode<A>) => readonly InputGradient[];

type AttrsOf<D> = D extends OpDef<infer A> ? A : never;

/** Gradient rules for all ops of a table. Each op has either a rule or the mark "nondifferentiable". */
export type Rules<Table> = { readonly [K in keyof Table]: Rule<AttrsOf<Table[K]>> | "nondifferentiable" };
