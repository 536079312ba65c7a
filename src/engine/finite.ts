import { InputError } from "../errors/index.js";
import type { TrainableLayout } from "../pipeline/index.js";
import { sizeOf } from "../tensor/shape.js";

/**
 * @param what names the values in the message, such as "the gradient"
 * @throws InputError `not-finite` with the tensor of the first value that is infinite or NaN
 */
export function requireFiniteParameters(
  values: Float32Array | Float64Array,
  layout: TrainableLayout,
  what: string,
): void {
  const at = values.findIndex((value) => !Number.isFinite(value));
  if (at < 0) return;
  const entry = layout.entries.find(({ offset, shape }) => at < offset + sizeOf(shape));
  throw new InputError("not-finite", `${what} of ${entry?.name} is ${values[at]}`, { tensor: entry?.name });
}
