import { InputError, nearest } from "../errors/index.js";
import type { Value } from "../graph/value.js";
import { type ConvOptions, cast, parameter } from "../ops/index.js";
import { isFloating } from "../tensor/dtype.js";
import type { Rng } from "../tensor/rng.js";
import { type Shape, sameShape, showShape, sizeOf } from "../tensor/shape.js";
import type { WeightSource } from "../weights/source.js";
import { type FlatEntry, type FlatLayout, flatLayout, splitFlat } from "./flat.js";

/**
 * Where a layer takes its parameters from: a place in a tree whose paths are the checkpoint's keys. A model written
 * against a scope serves pretrained weights, weights in training and a mere count of its parameters alike.
 */
export interface Scope {
  /** Such as `unet.mid_block.attentions.0`. */
  readonly path: string;
  at(name: string | number): Scope;
  /** The float32 tensor `path.name`. `init` is how it starts where it is trained from nothing. */
  parameter(name: string, shape: Shape, init?: Init): Value;
  /** Whether a checkpoint holds `path.name`; false where there is no checkpoint. */
  has(name: string): boolean;
  /** What an adapter adds to the output of the layer at this path, whose input is `x`; or undefined. */
  adapt(x: Value, layer: Adaptable): Value | undefined;
}

/** A fresh parameter: uniform in ±bound, normal around zero, or one value. */
export type Init = { readonly uniform: number } | { readonly normal: number } | { readonly constant: number };

/** PyTorch's default for Linear and Conv weights and biases: kaiming_uniform with a = √5 comes to ±1/√fanIn. */
export const fanInUniform = (fanIn: number): Init => ({ uniform: 1 / Math.sqrt(fanIn) });

export const NORMAL: Init = { normal: 0.02 };
export const ZEROS: Init = { constant: 0 };
export const ONES: Init = { constant: 1 };

/** A layer that an adapter can change: its weight [out, in, kh, kw] (of a Linear [out, in]), and how a convolution moves. */
export interface Adaptable {
  readonly weight: Shape;
  /** Of a convolution; undefined for a Linear. */
  readonly conv?: ConvOptions;
}

export type Adapter = (path: string, x: Value, layer: Adaptable) => Value | undefined;

interface Store {
  parameter(name: string, shape: Shape, init: Init): Value;
  has(name: string): boolean;
  adapt: Adapter;
}

function scopeOver(store: Store, path: string): Scope {
  return {
    path,
    at: (name) => scopeOver(store, `${path}.${name}`),
    parameter: (name, shape, init = NORMAL) => store.parameter(`${path}.${name}`, shape, init),
    has: (name) => store.has(`${path}.${name}`),
    adapt: (x, layer) => store.adapt(path, x, layer),
  };
}

/**
 * Weights that stay as they are, read by the runtime from where they lie. The source's names are full paths
 * (`withPrefix(file, "unet.")` for the root path `unet`).
 */
export function frozenScope(
  source: WeightSource,
  path: string,
  { adapter = () => undefined }: { adapter?: Adapter | undefined } = {},
): Scope {
  const values = new Map<string, Value>();
  return scopeOver(
    {
      has: (name) => source.get(name) !== undefined,
      adapt: adapter,
      parameter(name, shape) {
        const stored = source.get(name);
        if (!stored) {
          const near = nearest(name, source.names());
          throw new InputError(
            "tensor-mismatch",
            `${source.describe}: tensor ${name} ${showShape(shape)} is missing${near ? `; the nearest name is ${near}` : ""}. Do the weights belong to this config.json?`,
          );
        }
        if (!sameShape(stored.shape, shape)) {
          throw new InputError(
            "tensor-mismatch",
            `${source.describe}: tensor ${name} has shape ${showShape(stored.shape)}, but config.json makes it ${showShape(shape)}. Do the weights belong to this config.json?`,
          );
        }
        if (!isFloating(stored.dtype)) {
          throw new InputError(
            "tensor-mismatch",
            `${source.describe}: tensor ${name} is ${stored.dtype}; weights must be float16, bfloat16, float32 or float64 (quantised checkpoints are not supported).`,
          );
        }
        let value = values.get(name);
        if (!value) {
          value = parameter(name, shape, stored.dtype);
          if (stored.dtype !== "float32") value = cast(value, "float32");
          values.set(name, value);
        }
        return value;
      },
    },
    path,
  );
}

export interface ParameterEntry extends FlatEntry {
  readonly init: Init;
}

export type ParameterLayout = FlatLayout<ParameterEntry>;

/**
 * A scope without weights: `build` is followed only to see what it asks for. Returns the parameters, each once, and the
 * layers that an adapter could have changed, by their paths.
 */
export function survey(
  path: string,
  build: (scope: Scope) => unknown,
): { parameters: ParameterLayout; adaptable: ReadonlyMap<string, Adaptable> } {
  const seen = new Map<string, { name: string; shape: Shape; init: Init; value: Value }>();
  const adaptable = new Map<string, Adaptable>();
  build(
    scopeOver(
      {
        has: () => false,
        adapt(at, _, layer) {
          adaptable.set(at, layer);
          return undefined;
        },
        parameter(name, shape, init) {
          const before = seen.get(name);
          if (before) return before.value;
          const value = parameter(name, shape, "float32");
          seen.set(name, { name, shape, init, value });
          return value;
        },
      },
      path,
    ),
  );
  const tensors = [...seen.values()].map(({ name, shape, init }) => ({ name, shape, init }));
  return { parameters: flatLayout(tensors), adaptable };
}

/**
 * Weights in training: every parameter is a slice of `flat`, laid out by a survey of the same model.
 *
 *     const { parameters } = survey("unet", (scope) => unet(scope, config, inputs));
 *     const flat = input([parameters.size]);
 *     const { scope, parts } = trainableScope(parameters, flat, "unet");
 *     const loss = mean(…unet(scope, config, inputs)…);
 *     const gradient = joinFlat(parameters, gradients([{ value: loss, gradient: one }], parts));
 */
export function trainableScope(layout: FlatLayout, flat: Value, path: string): { scope: Scope; parts: Value[] } {
  const parts = splitFlat(layout, flat);
  const byName = new Map(layout.entries.map(({ name }, i) => [name, parts[i] as Value]));
  const scope = scopeOver(
    {
      has: (name) => byName.has(name),
      adapt: () => undefined,
      parameter(name, shape) {
        const value = byName.get(name);
        if (!value || !sameShape(value.shape, shape)) {
          throw new TypeError(
            `trainableScope: ${name} ${showShape(shape)} is ${value ? showShape(value.shape) : "absent"} in the layout; survey the same model`,
          );
        }
        return value;
      },
    },
    path,
  );
  return { scope, parts };
}

/** The vector that training starts from. */
export function initialParameters(layout: ParameterLayout, rng: Rng): Float32Array {
  const flat = new Float32Array(layout.size);
  for (const { shape, offset, init } of layout.entries) {
    const end = offset + sizeOf(shape);
    if ("constant" in init) flat.fill(init.constant, offset, end);
    else if ("normal" in init) for (let i = offset; i < end; i++) flat[i] = init.normal * rng.normal();
    else for (let i = offset; i < end; i++) flat[i] = init.uniform * (2 * rng.uniform() - 1);
  }
  return flat;
}
