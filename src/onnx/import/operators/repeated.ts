import type { Value } from "../../../graph/value.js";
import { broadcastTo, constant } from "../../../ops/index.js";
import type { DType } from "../../../tensor/dtype.js";
import type { Shape } from "../../../tensor/shape.js";

/** A tensor of equal elements that takes no memory while the graph is built, however large a file says that it is. */
export const repeated = (shape: Shape, value: number, dtype: DType = "float32"): Value =>
  broadcastTo(constant([value], [], dtype), shape);
