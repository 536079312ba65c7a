import { gradients } from "../src/autodiff/index.js";
import type { Graph } from "../src/graph/graph.js";
import type { Value } from "../src/graph/value.js";
import { joinFlat } from "../src/nn/flat.js";
import { type ParameterLayout, type Scope, survey, trainableScope } from "../src/nn/scope.js";
import { filled, input } from "../src/ops/index.js";

/** A model and its loss, as a function of the scope of its weights. */
export interface Objective {
  readonly inputs: Readonly<Record<string, Value>>;
  /** The loss is a scalar. `metrics` are reported beside it. */
  readonly build: (scope: Scope) => { loss: Value; metrics?: Readonly<Record<string, Value>> };
}

export interface TrainingGraph {
  readonly layout: ParameterLayout;
  /** Inputs: those of the objective, and `weights`. Outputs: `loss`, the metrics and `gradient`. */
  readonly graph: Graph;
}

/** Builds a graph that computes the loss and its gradient with respect to all weights. */
export function trainingGraph(name: string, { inputs, build }: Objective): TrainingGraph {
  const { parameters: layout } = survey(name, build);
  const weights = input([layout.size]);
  const { scope, parts } = trainableScope(layout, weights, name);
  const { loss, metrics = {} } = build(scope);
  const gradient = joinFlat(layout, gradients([{ value: loss, gradient: filled([], 1) }], parts));
  return { layout, graph: { name, inputs: { ...inputs, weights }, outputs: { loss, ...metrics, gradient } } };
}
