/** Layers as in torch.nn: each takes its parameters from a scope and applies an op. */
import type { Value } from "../graph/value.js";
import * as ops from "../ops/index.js";
import { type Adaptable, fanInUniform, NORMAL, ONES, type Scope, ZEROS } from "./scope.js";

interface LayerOptions {
  readonly bias?: boolean;
  /**
   * Initialize weight and bias with zeros, as for the last layer of a residual branch. Only for training from scratch.
   */
  readonly zeroInit?: boolean;
}

/** x [..., in] → [..., outFeatures], plus the output of an adapter, if there is one. */
export function linear(
  scope: Scope,
  x: Value,
  outFeatures: number,
  { bias = true, zeroInit = false }: LayerOptions = {},
): Value {
  const inFeatures = channels(x, x.shape.length - 1);
  const init = zeroInit ? ZEROS : fanInUniform(inFeatures);
  const y = ops.linear(
    x,
    scope.parameter("weight", [outFeatures, inFeatures], init),
    bias ? scope.parameter("bias", [outFeatures], init) : undefined,
  );
  return withAdapter(scope, x, y, { weight: [outFeatures, inFeatures] });
}

/**
 * x [b, in, h, w] → [b, outChannels, h', w'] with a square kernel, plus the output of an adapter, if there is one.
 * `padding` is the same on all sides, or [top, left, bottom, right].
 */
export function conv2d(
  scope: Scope,
  x: Value,
  {
    outChannels,
    kernel,
    stride = 1,
    padding = 0,
    bias = true,
    zeroInit = false,
  }: LayerOptions & {
    readonly outChannels: number;
    readonly kernel: number;
    readonly stride?: number;
    readonly padding?: number | readonly [number, number, number, number];
  },
): Value {
  const inChannels = channels(x, 1);
  const init = zeroInit ? ZEROS : fanInUniform(inChannels * kernel * kernel);
  const weight = [outChannels, inChannels, kernel, kernel];
  const y = ops.conv2d(
    x,
    scope.parameter("weight", weight, init),
    bias ? scope.parameter("bias", [outChannels], init) : undefined,
    { stride, padding },
  );
  return withAdapter(scope, x, y, { weight, conv: { stride, padding } });
}

function withAdapter(scope: Scope, x: Value, y: Value, layer: Adaptable): Value {
  const adapted = scope.adapt(x, layer);
  return adapted ? ops.add(y, adapted) : y;
}

/** Group normalization of x [b, c, ...]. */
export function groupNorm(scope: Scope, x: Value, groups: number, epsilon: number): Value {
  const shape = [channels(x, 1)];
  const [scale, bias] = [scope.parameter("weight", shape, ONES), scope.parameter("bias", shape, ZEROS)];
  return ops.groupNorm(x, groups, { scale, bias, epsilon });
}

/** Layer normalization over the last axis. */
export function layerNorm(scope: Scope, x: Value, epsilon = 1e-5): Value {
  const shape = [channels(x, x.shape.length - 1)];
  return ops.layerNorm(x, scope.parameter("weight", shape, ONES), scope.parameter("bias", shape, ZEROS), epsilon);
}

/** Looks up int64 ids of any shape [...] in a table of `rows` embeddings → [..., features]. */
export function embedding(scope: Scope, ids: Value, rows: number, features: number): Value {
  return ops.gather(scope.parameter("weight", [rows, features], NORMAL), ids);
}

/** Activations by their names in config files. */
export const activations = {
  silu: ops.silu,
  swish: ops.silu,
  gelu: ops.gelu,
  quick_gelu: ops.quickGelu,
  relu: ops.relu,
} satisfies Record<string, (x: Value) => Value>;

export type Activation = keyof typeof activations;

function channels(x: Value, axis: number): number {
  const extent = x.shape[axis];
  if (extent === undefined)
    throw new TypeError(`layer: a tensor of rank ${x.shape.length} does not have an axis ${axis}`);
  return extent;
}
