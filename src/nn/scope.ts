import { InputError, nearest } from "../errors/index.js";
import type { Value } from "../graph/value.js";
import { type ConvOptions, cast, parameter } from "../ops/index.js";
import { FLOATING_TYPES, isFloating } from "../tensor/dtype.js";
import type { Rng } from "../tensor/rng.js";
import { type Shape, sameShape, showShape, sizeOf } from "../tensor/shape.js";
import type { WeightSource } from "../weights/source.js";
import { type FlatEntry, type FlatLayout, flatLayout, splitFlat } from "./flat.js";

/**
 * Gives a layer its parameters. Scopes form a tree whose paths are the keys of the checkpoint. The same model code
 * therefore runs with frozen weights (`frozenScope`) and trainable weights (`trainableScope`), and can list its
 * parameters without any weights (`survey`).
 */
export interface Scope {
  /** Key prefix of the layer, such as `unet.mid_block.attentions.0`. */
  readonly path: string;
  /** The scope `path.name`. */
  at(name: string | number): Scope;
  /** The float32 tensor `path.name`. `init` is its initialization when it is trained from scratch. */
  parameter(name: string, shape: Shape, init?: Init): Value;
  /** Whether the checkpoint holds `path.name`; false if there is no checkpoint. */
  has(name: string): boolean;
  /**
   * The value that an adapter adds to the output of the layer at this path for input `x`; undefined without an adapter.
   */
  adapt(x: Value, layer: Adaptable): Value | undefined;
}

/** Initialization: uniform in ± the bound, normal with mean 0 and the standard deviation, or constant. */
export type Init = { readonly uniform: number } | { readonly normal: number } | { readonly constant: number };

/**
 * PyTorch's default for weights and biases of Linear and Conv: kaiming_uniform with a = √5, whose bound is 1/√fanIn.
 */
export const fanInUniform = (fanIn: number): Init => ({ uniform: 1 / Math.sqrt(fanIn) });

export const NORMAL: Init = { normal: 0.02 };
export const ZEROS: Init = { constant: 0 };
export const ONES: Init = { constant: 1 };

/** A layer that an adapter can change. */
export interface Adaptable {
  /** Shape of the weight: [out, in] for a Linear, [out, in, kh, kw] for a convolution. */
  readonly weight: Shape;
  /** Options of a convolution; undefined for a Linear. */
  readonly conv?: ConvOptions;
}

/**
 * Computes what is added to the output of the layer at `path` for input `x`; undefined for layers without an adapter.
 */
export type Adapter = (path: string, x: Value, layer: Adaptable) => Value | undefined;

/** Implements the scopes of one tree. Names are full paths. */
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
 * A scope of frozen weights, which the runtime reads directly from their source. Names in the source are full paths:
 * for the root path `unet`, use `withPrefix(file, "unet.")`.
 *
 * @throws InputError `tensor-missing` or `tensor-mismatch`, when the model asks for a parameter that the source does
 *   not hold in that shape and in a floating point type.
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
          const suggestion = nearest(name, source.names());
          const hint = suggestion ? `; the nearest name is ${suggestion}` : "";
          throw new InputError(
            "tensor-missing",
            `${source.describe}: tensor ${name} ${showShape(shape)} is missing${hint}. Do the weights belong to this config.json?`,
            { path: source.describe, tensor: name, expected: shape, suggestion },
          );
        }
        if (!sameShape(stored.shape, shape)) {
          const [found, expected] = [stored.shape, shape];
          throw new InputError(
            "tensor-mismatch",
            `${source.describe}: tensor ${name} has shape ${showShape(found)}, but config.json makes it ${showShape(expected)}. Do the weights belong to this config.json?`,
            { path: source.describe, tensor: name, found, expected },
          );
        }
        if (!isFloating(stored.dtype)) {
          throw new InputError(
            "tensor-mismatch",
            `${source.describe}: tensor ${name} is ${stored.dtype}, but weights must be ${FLOATING_TYPES.join(", ")}. Quantized checkpoints are not supported.`,
            { path: source.describe, tensor: name, found: stored.dtype, expected: FLOATING_TYPES },
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
 * Runs `build` with a scope without weights and records what it asks for: the layout of its parameters, each once, in
 * the order of the forward pass, and the layers that an adapter can change, by their paths.
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
          const known = seen.get(name);
          if (known) return known.value;
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
 * A scope of trainable weights: every parameter is a slice of `flat` [size], which a survey of the same model laid out.
 * `parts` are these slices, in the order of the layout.
 *
 *     const { parameters } = survey("unet", (scope) => unet(scope, config, inputs));
 *     const flat = input([parameters.size]);
 *     const { scope, parts } = trainableScope(parameters, flat, "unet");
 *     const loss = mean(…unet(scope, config, inputs)…);
 *     const gradient = joinFlat(parameters, gradients([{ value: loss, gradient: one }], parts));
 *
 * @throws TypeError if the model asks for a parameter that the layout does not hold in that shape.
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
            `trainableScope: ${name} must be ${showShape(shape)}, but in the layout it is ${value ? showShape(value.shape) : "missing"}. Survey the same model.`,
          );
        }
        return value;
      },
    },
    path,
  );
  return { scope, parts };
}

/** A vector of freshly initialized parameters. */
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
