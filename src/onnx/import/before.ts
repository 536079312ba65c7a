/** Tensors before a node that cannot be imported, which can be an output in its place. */
import { gradients } from "../../autodiff/index.js";
import type { Node, Value } from "../../graph/value.js";
import { filled } from "../../ops/index.js";
import { sizeOf } from "../../tensor/shape.js";

const MAX_NAMES = 3;
const MAX_NODES = 1000;
/** Of a larger tensor, the gradient would take memory to build. */
const MAX_ELEMENTS = 2 ** 20;

/**
 * Names of the tensors nearest to `values`, going back, that a gradient with respect to `inputs` reaches. `named` holds the
 * tensors of the main graph by name.
 */
export function differentiableBefore(
  values: readonly Value[],
  named: ReadonlyMap<string, Value>,
  inputs: readonly Value[],
): string[] {
  const names = new Map([...named].reverse().map(([name, value]) => [value, name]));
  const found: string[] = [];
  const seen = new Set<Node>();
  let level = [...values];
  while (level.length > 0 && found.length < MAX_NAMES && seen.size < MAX_NODES) {
    const next: Value[] = [];
    for (const value of level) {
      const name = names.get(value);
      if (name !== undefined && !found.includes(name) && isDifferentiable(value, inputs)) {
        found.push(name);
      } else if (!seen.has(value.node)) {
        seen.add(value.node);
        next.push(...value.node.inputs);
      }
    }
    level = next;
  }
  return found.slice(0, MAX_NAMES);
}

function isDifferentiable(value: Value, inputs: readonly Value[]): boolean {
  if (value.dtype !== "float32" || inputs.includes(value) || sizeOf(value.shape) > MAX_ELEMENTS) return false;
  return gradients([{ value, gradient: filled(value.shape, 1) }], inputs).some((gradient) => gradient !== undefined);
}
