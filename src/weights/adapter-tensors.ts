/** Reads the tensors that a file has for one adapted layer. */
import { InputError } from "../errors/index.js";
import { isFloating } from "../tensor/dtype.js";
import { type HostTensor, toNumbers } from "../tensor/host.js";
import type { Matrix } from "../tensor/matrix.js";
import { showShape, sizeOf } from "../tensor/shape.js";
import type { Magnitude } from "./lora-files.js";
import type { AdapterRole } from "./lora-names.js";
import { readTensor, type WeightSource } from "./source.js";

/** The names of a module's tensors in the file. */
type ModuleKeys = Readonly<Partial<Record<AdapterRole, string>>>;

export interface ModuleSource {
  readonly file: WeightSource;
  readonly module: string;
  readonly keys: ModuleKeys;
  /** Alpha and rank of the module, if a config beside the tensors has them. */
  readonly alpha: (rank: number) => number | undefined;
  readonly rank: number | undefined;
}

/** The names of tensors that a module must have. */
export function requireKeys({ file, module, keys }: ModuleSource, roles: readonly AdapterRole[]): string[] {
  const missing = roles.filter((role) => keys[role] === undefined);
  if (missing.length === 0) return roles.map((role) => keys[role] as string);
  const shown = missing
    .map((role) => ({ down: "down (lora_A)", up: "up (lora_B)" })[role as string] ?? role)
    .join(" and its ");
  throw new InputError(
    "tensor-missing",
    `${file.describe}: adapter of ${module}: lacks its ${shown} factor${missing.length > 1 ? "s" : ""}. Download the file again.`,
    { path: file.describe, module, missing },
  );
}

export function factorsOf({ file }: ModuleSource, names: readonly string[]): Promise<HostTensor[]> {
  return Promise.all(names.map((name) => readFactor(file, name)));
}

export async function readFactor(file: WeightSource, key: string): Promise<HostTensor> {
  const stored = file.get(key);
  const isFactor = stored && [2, 4].includes(stored.shape.length) && !stored.shape.includes(0);
  if (!isFactor || !isFloating(stored.dtype)) {
    throw new InputError(
      "tensor-mismatch",
      `${file.describe}: ${key} is ${stored?.dtype}${showShape(stored?.shape ?? [])}, but a factor is a floating-point ` +
        "matrix or, for a convolution, a floating-point tensor with four axes.",
      { path: file.describe, tensor: key, dtype: stored?.dtype, shape: stored?.shape },
    );
  }
  return readTensor(stored);
}

/** The alpha that the file or the config gives. Tools store it in any type of number. */
export async function alphaOf({ file, keys, alpha }: ModuleSource, rank: number): Promise<number | undefined> {
  return keys.alpha === undefined ? alpha(rank) : readNumber(file, keys.alpha);
}

export async function readNumber(file: WeightSource, key: string): Promise<number> {
  const stored = file.get(key);
  const isScalar = stored && stored.dtype !== "bool" && stored.shape.every((extent) => extent === 1);
  const value = isScalar ? (toNumbers(await readTensor(stored))[0] as number) : Number.NaN;
  if (Number.isFinite(value)) return value;
  throw new InputError("tensor-mismatch", `${file.describe}: ${key} is not one finite number.`, {
    path: file.describe,
    tensor: key,
    shape: stored?.shape,
    expected: "one finite number",
  });
}

/**
 * PEFT has one magnitude per output feature. LyCORIS has them as [out, 1, …], or, in older files, as [1, in, …] per input
 * feature.
 */
export async function readMagnitude(file: WeightSource, key: string): Promise<Magnitude> {
  const stored = file.get(key);
  if (!stored || !isFloating(stored.dtype) || stored.shape.filter((extent) => extent !== 1).length > 1) {
    throw new InputError(
      "tensor-mismatch",
      `${file.describe}: ${key} is ${stored?.dtype}${showShape(stored?.shape ?? [])}, but DoRA's magnitudes are one ` +
        "floating-point number per feature.",
      { path: file.describe, tensor: key, dtype: stored?.dtype, shape: stored?.shape },
    );
  }
  const values = await readTensor(stored);
  const perInput = /\.dora_scale$/.test(key) && stored.shape.length > 1 && stored.shape[0] === 1;
  return { axis: perInput ? "in" : "out", values: { ...values, shape: [sizeOf(values.shape)] } };
}

export function isUnitKernel({ shape }: HostTensor): boolean {
  return shape.slice(2).every((extent) => extent === 1);
}

export function asMatrix(tensor: HostTensor): Matrix {
  const [rows = 0, ...rest] = tensor.shape;
  return { rows, columns: sizeOf(rest), data: toNumbers(tensor) };
}

export function where({ file, module }: ModuleSource): string {
  return `${file.describe}: adapter of ${module}`;
}

export function misfit(
  source: ModuleSource,
  factors: Readonly<Record<string, HostTensor>>,
  expected: string,
): InputError {
  const shapes = Object.entries(factors).map(([name, { shape }]) => [name, shape] as const);
  const shown = shapes.map(([name, shape]) => `${name} ${showShape(shape)}`).join(", ");
  return new InputError("tensor-mismatch", `${where(source)}: ${shown} do not make a change of a layer; ${expected}.`, {
    path: source.file.describe,
    module: source.module,
    ...Object.fromEntries(shapes),
  });
}
