/** The tensors of a file under other names and shapes, without copies. */
import { InputError } from "../../errors/index.js";
import { BYTES_PER_ELEMENT } from "../../tensor/dtype.js";
import type { HostTensor } from "../../tensor/host.js";
import { showShape, sizeOf } from "../../tensor/shape.js";
import { readTensor, type StoredTensor, type WeightSource } from "../source.js";

/** How a renamed tensor is taken from the stored one. */
export type View =
  | "whole"
  /** The weight of a 1x1 convolution [o, i, 1, 1] as that of a Linear [o, i]. */
  | "linear"
  /** One third of the first axis: the queries, keys or values of a fused projection. */
  | { readonly third: 0 | 1 | 2 };

/** A layer of a module: `in_layers.0` → `norm1`. */
export interface Layer {
  readonly from: string;
  readonly to: string;
  readonly view?: View;
  /** Some modules do not have this layer. */
  readonly optional?: boolean;
  /** `from` and `to` are the full names of one tensor, not of a layer with a weight and a bias. */
  readonly tensor?: boolean;
}

/** A module: `input_blocks.1.0` → `down_blocks.0.resnets.0`. Without `layers`, the names inside it stay the same. */
export interface Module {
  readonly from: string;
  readonly to: string;
  readonly layers?: readonly Layer[];
}

/** Deeper than any module. It bounds the time that a hostile name of many dots takes. */
const MAX_DEPTH = 12;

/**
 * The tensors of `source` that belong to `modules`, under their new names.
 *
 * @throws InputError `model-incomplete` when tensors of the modules are missing; its `get` throws `tensor-mismatch`
 *   when a tensor does not have the shape that its view needs
 */
export function renamed(source: WeightSource, modules: readonly Module[]): WeightSource {
  requireComplete(source, modules);
  const byPath = new Map(modules.map((module) => [module.from, module]));
  const stored = new Map<string, { readonly name: string; readonly view: View }>();
  for (const name of source.names()) {
    const module = moduleOf(name, byPath);
    if (!module) continue;
    const rest = name.slice(module.from.length + 1);
    for (const { to, view } of newNames(rest, module)) stored.set(`${module.to}${to}`, { name, view });
  }
  return {
    describe: source.describe,
    names: () => stored.keys(),
    get(name) {
      const found = stored.get(name);
      return found && viewOf(source, found.name, found.view);
    },
  };
}

/** The names in `source` that begin with `prefix` and do not belong to any of the modules. */
export function* leftOver(source: WeightSource, prefix: string, modules: readonly Module[]): Iterable<string> {
  const byPath = new Map(modules.map((module) => [module.from, module]));
  for (const name of source.names()) {
    if (!name.startsWith(prefix)) continue;
    const module = moduleOf(name, byPath);
    if (!module || newNames(name.slice(module.from.length + 1), module).length === 0) yield name;
  }
}

function moduleOf(name: string, byPath: ReadonlyMap<string, Module>): Module | undefined {
  let end = name.indexOf(".");
  let found: Module | undefined;
  for (let depth = 0; end >= 0 && depth < MAX_DEPTH; depth++, end = name.indexOf(".", end + 1)) {
    found = byPath.get(name.slice(0, end)) ?? found;
  }
  return found;
}

function newNames(rest: string, { layers }: Module): { to: string; view: View }[] {
  if (!layers) return [{ to: rest, view: "whole" }];
  return layers.flatMap(({ from, to, view = "whole", tensor }) => {
    if (tensor) return rest === from ? [{ to, view }] : [];
    return rest.startsWith(`${from}.`) ? [{ to: to + rest.slice(from.length), view }] : [];
  });
}

function requireComplete(source: WeightSource, modules: readonly Module[]): void {
  const missing: string[] = [];
  for (const { from: path, layers = [] } of modules) {
    for (const { from, optional, tensor } of layers) {
      const names = tensor ? [from] : [`${from}.weight`, `${from}.bias`];
      if (!optional) missing.push(...names.map((name) => `${path}.${name}`).filter((name) => !source.get(name)));
    }
  }
  if (missing.length === 0) return;
  const shown = [...new Set(missing)].slice(0, 5);
  throw new InputError(
    "model-incomplete",
    `${source.describe}: is incomplete: ${missing.length} tensors are missing, such as ${shown.join(", ")}. ` +
      "Download it again.",
    { path: source.describe, missing: missing.length, tensors: shown },
  );
}

function viewOf(source: WeightSource, name: string, view: View): StoredTensor | undefined {
  const stored = source.get(name);
  if (view === "whole" || !stored) return stored;
  const { shape } = stored;
  const mismatch = (expected: string) =>
    new InputError(
      "tensor-mismatch",
      `${source.describe}: tensor ${name} has shape ${showShape(shape)}; expected ${expected}. Is it a supported model?`,
      { path: source.describe, tensor: name, found: shape, expected },
    );
  if (view === "linear") {
    // Biases, and weights that some tool has already saved as those of a Linear.
    if (shape.length <= 2) return stored;
    if (shape.length === 4 && shape[2] === 1 && shape[3] === 1) return { ...stored, shape: shape.slice(0, 2) };
    throw mismatch("a 1x1 convolution [o, i, 1, 1]");
  }
  const [rows, ...others] = shape;
  if (rows === undefined || rows % 3 !== 0) {
    throw mismatch("a first axis of queries, keys and values, a multiple of 3");
  }
  const third = [rows / 3, ...others];
  if (stored.kind === "file") {
    const length = stored.length / 3;
    return { ...stored, shape: third, offset: stored.offset + view.third * length, length };
  }
  const size = sizeOf(third);
  const data = stored.data.subarray(view.third * size, (view.third + 1) * size);
  return { ...stored, shape: third, data };
}

/**
 * The matrix `name`, transposed in memory: [a, b] → [b, a].
 *
 * @throws InputError `tensor-missing`, or `tensor-mismatch` when it is not a matrix
 */
export async function transposed(source: WeightSource, name: string): Promise<HostTensor> {
  const stored = source.get(name);
  if (!stored) {
    throw new InputError(
      "tensor-missing",
      `${source.describe}: is incomplete: tensor ${name} is missing. Download it again.`,
      { path: source.describe, tensor: name },
    );
  }
  const [rows, columns] = stored.shape;
  if (rows === undefined || columns === undefined || stored.shape.length !== 2) {
    throw new InputError(
      "tensor-mismatch",
      `${source.describe}: tensor ${name} has shape ${showShape(stored.shape)}; expected a matrix.`,
      { path: source.describe, tensor: name, found: stored.shape, expected: "a matrix" },
    );
  }
  const { dtype, data } = await readTensor(stored);
  const width = BYTES_PER_ELEMENT[dtype];
  const from = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  const result = data.slice();
  const to = new Uint8Array(result.buffer, result.byteOffset, result.byteLength);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const begin = (row * columns + column) * width;
      to.set(from.subarray(begin, begin + width), (column * rows + row) * width);
    }
  }
  return { dtype, shape: [columns, rows], data: result };
}
