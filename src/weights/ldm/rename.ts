/** One file's tensors under other names: looked up and reshaped where they lie, never copied. */

import { InputError } from "../../errors/index.js";
import { BYTES_PER_ELEMENT } from "../../tensor/dtype.js";
import type { HostTensor } from "../../tensor/host.js";
import { showShape, sizeOf } from "../../tensor/shape.js";
import { readTensor, type StoredTensor, type WeightSource } from "../source.js";

/** How a stored tensor becomes another one. */
export type View =
  | "whole"
  /** A 1x1 convolution's weight [o, i, 1, 1] as a Linear's [o, i]. */
  | "linear"
  /** A third of the first axis: queries, keys or values of a fused projection. */
  | { readonly third: 0 | 1 | 2 };

/** A layer inside a module, or with `whole name` a single tensor: `in_layers.0` → `norm1`. */
export interface Layer {
  readonly from: string;
  readonly to: string;
  readonly view?: View;
  /** Not every module has it. */
  readonly optional?: boolean;
  /** A tensor's own name, where parameters are not called weight and bias. */
  readonly tensor?: boolean;
}

/** A place in the tree: `input_blocks.1.0` → `down_blocks.0.resnets.0`. Without layers, all within keeps its name. */
export interface Module {
  readonly from: string;
  readonly to: string;
  readonly layers?: readonly Layer[];
}

/** Deeper than any module lies; keeps a hostile name of many dots from taking long. */
const DEEPEST_MODULE = 12;

/** The tensors of `source` that lie in `modules`, under their new names. */
export function renamed(source: WeightSource, modules: readonly Module[]): WeightSource {
  requireComplete(source, modules);
  const byPlace = new Map(modules.map((module) => [module.from, module]));
  const places = new Map<string, { readonly name: string; readonly view: View }>();
  for (const name of source.names()) {
    const module = moduleOf(name, byPlace);
    if (!module) continue;
    const rest = name.slice(module.from.length + 1);
    for (const { to, view } of newNames(rest, module)) places.set(`${module.to}${to}`, { name, view });
  }
  return {
    describe: source.describe,
    names: () => places.keys(),
    get(name) {
      const place = places.get(name);
      const stored = place && source.get(place.name);
      return stored && seen(stored, place.view, `${source.describe}: tensor ${place.name}`);
    },
  };
}

/** The names in `source` that begin with `prefix` and lie in no module. */
export function* leftOver(source: WeightSource, prefix: string, modules: readonly Module[]): Iterable<string> {
  const byPlace = new Map(modules.map((module) => [module.from, module]));
  for (const name of source.names()) {
    if (!name.startsWith(prefix)) continue;
    const module = moduleOf(name, byPlace);
    if (!module || newNames(name.slice(module.from.length + 1), module).length === 0) yield name;
  }
}

function moduleOf(name: string, byPlace: ReadonlyMap<string, Module>): Module | undefined {
  let end = name.indexOf(".");
  let found: Module | undefined;
  for (let depth = 0; end >= 0 && depth < DEEPEST_MODULE; depth++, end = name.indexOf(".", end + 1)) {
    found = byPlace.get(name.slice(0, end)) ?? found;
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
  for (const { from: place, layers = [] } of modules) {
    for (const { from, optional, tensor } of layers) {
      const names = tensor ? [from] : [`${from}.weight`, `${from}.bias`];
      if (!optional) missing.push(...names.map((name) => `${place}.${name}`).filter((name) => !source.get(name)));
    }
  }
  if (missing.length === 0) return;
  const shown = [...new Set(missing)].slice(0, 5).join(", ");
  throw new InputError(
    "file-malformed",
    `${source.describe}: is incomplete: ${missing.length} tensors are missing, such as ${shown}. Fetch it again.`,
  );
}

function seen(stored: StoredTensor, view: View, where: string): StoredTensor {
  if (view === "whole") return stored;
  const { shape } = stored;
  if (view === "linear") {
    // Biases, and weights that somebody has saved as a Linear's already.
    if (shape.length <= 2) return stored;
    if (shape.length === 4 && shape[2] === 1 && shape[3] === 1) return { ...stored, shape: shape.slice(0, 2) };
    throw new InputError(
      "file-malformed",
      `${where}: has shape ${showShape(shape)}; expected a 1x1 convolution, [o, i, 1, 1].`,
    );
  }
  const [rows, ...others] = shape;
  if (rows === undefined || rows % 3 !== 0) {
    throw new InputError(
      "file-malformed",
      `${where}: has shape ${showShape(shape)}; queries, keys and values do not divide it by 3.`,
    );
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

/** [a, b] → [b, a], in memory. */
export async function transposed(stored: StoredTensor, where: string): Promise<HostTensor> {
  const [rows, columns] = stored.shape;
  if (rows === undefined || columns === undefined || stored.shape.length !== 2) {
    throw new InputError("file-malformed", `${where}: has shape ${showShape(stored.shape)}; expected a matrix.`);
  }
  const { dtype, data } = await readTensor(stored);
  const width = BYTES_PER_ELEMENT[dtype];
  const from = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  const turned = data.slice();
  const to = new Uint8Array(turned.buffer, turned.byteOffset, turned.byteLength);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const begin = (row * columns + column) * width;
      to.set(from.subarray(begin, begin + width), (column * rows + row) * width);
    }
  }
  return { dtype, shape: [columns, rows], data: turned };
}
