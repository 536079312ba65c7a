/** Builds the change of one layer from the tensors that a file has for it. */
import { InputError } from "../errors/index.js";
import { isFloating } from "../tensor/dtype.js";
import { float32, fromNumbers, type HostTensor, toNumbers } from "../tensor/host.js";
import { type Matrix, matrix } from "../tensor/matrix.js";
import { type Shape, showShape, sizeOf } from "../tensor/shape.js";
import type { DoraModule, LoraModule, Magnitude } from "./lora-files.js";
import type { AdapterRole } from "./lora-names.js";
import { type Factors, hadamardOf, kroneckerOf, wholeMatrix, withCore } from "./lora-variants.js";
import { readTensor, type WeightSource } from "./source.js";

/** The names of a module's tensors in the file. */
export type ModuleKeys = Readonly<Partial<Record<AdapterRole, string>>>;

export interface ModuleSource {
  readonly file: WeightSource;
  readonly module: string;
  readonly keys: ModuleKeys;
  /** Alpha and rank of the module, if a config beside the tensors has them. */
  readonly alpha: (rank: number) => number | undefined;
  readonly rank: number | undefined;
}

/** The roles that the tensors of each kind have. */
const KINDS = [
  { name: "LoRA", roles: ["down", "up", "mid"], build: buildLora },
  { name: "LoHa", roles: ["hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"], build: buildLoha },
  {
    name: "LoKr",
    roles: ["lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"],
    build: buildLokr,
  },
] as const satisfies readonly {
  name: string;
  roles: readonly AdapterRole[];
  build: (source: ModuleSource) => Promise<LoraModule>;
}[];

/**
 * @throws InputError `tensor-missing` if the module lacks a factor, `tensor-mismatch` if its factors do not fit each other,
 *   `file-malformed` if it has factors of several kinds
 */
export async function buildModule(source: ModuleSource): Promise<LoraModule | DoraModule> {
  const { file, module, keys } = source;
  const present = KINDS.filter(({ roles }) => roles.some((role) => keys[role] !== undefined));
  if (present.length > 1) {
    const found = present.map(({ name }) => name);
    throw new InputError(
      "file-malformed",
      `${file.describe}: ${module} has factors of ${found.join(" and of ")}. Remove one of them.`,
      { path: file.describe, module, found },
    );
  }
  const change = await (present[0] ?? KINDS[0]).build(source);
  return keys.magnitude === undefined ? change : { ...change, magnitude: await readMagnitude(file, keys.magnitude) };
}

async function buildLora(source: ModuleSource): Promise<LoraModule> {
  const { keys, file } = source;
  const [down, up] = (await factorsOf(source, requireKeys(source, ["down", "up"]))) as [HostTensor, HostTensor];
  const rank = down.shape[0] as number;
  const alpha = await alphaOf(source, rank);
  const asFile = alpha === undefined ? {} : { alpha };
  if (keys.mid !== undefined) {
    const mid = await readFactor(file, keys.mid);
    const channels = asMatrix(down);
    const fits = mid.shape.length === 4 && mid.shape[0] === up.shape[1] && mid.shape[1] === rank && isUnitKernel(down);
    if (!fits) throw misfit(source, { down, mid, up }, "expected [r, in, 1, 1], [r, r, kh, kw] and [out, r, 1, 1]");
    const rows = withCore(toNumbers(mid), mid.shape, channels);
    const shape = [rows.rows, channels.columns, ...mid.shape.slice(2)];
    return { down: fromNumbers(rows.data, shape), up, ...asFile };
  }
  if (rank !== up.shape[1] || !isUnitKernel(up)) {
    throw misfit(
      source,
      { down, up },
      "expected [r, in] and [out, r], or for a convolution [r, in, kh, kw] and [out, r, 1, 1]",
    );
  }
  return { down, up, ...asFile };
}

async function buildLoha(source: ModuleSource): Promise<LoraModule> {
  const names = requireKeys(source, ["hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"]);
  const [w1a, w1b, w2a, w2b] = (await factorsOf(source, names)) as [HostTensor, HostTensor, HostTensor, HostTensor];
  const { hada_t1, hada_t2 } = source.keys;
  if ((hada_t1 === undefined) !== (hada_t2 === undefined)) {
    requireKeys(source, ["hada_t1", "hada_t2"]);
  }
  const rank = w1b.shape[0] as number;
  const scale = ((await alphaOf(source, rank)) ?? rank) / rank;
  if (hada_t1 === undefined || hada_t2 === undefined) {
    const [first, second] = [pairOf(source, w1a, w1b), pairOf(source, w2a, w2b)];
    return lora(source, hadamardOf(first, second), scale);
  }
  const [t1, t2] = (await factorsOf(source, [hada_t1, hada_t2])) as [HostTensor, HostTensor];
  const [first, second] = [tuckerOf(source, t1, w1a, w1b), tuckerOf(source, t2, w2a, w2b)];
  return lora(source, hadamardOf(first, second), scale, [w1b.shape[1] as number, ...t1.shape.slice(2)]);
}

async function buildLokr(source: ModuleSource): Promise<LoraModule> {
  const { keys } = source;
  const first = await sideOf(source, "lokr_w1");
  const second = await sideOf(source, "lokr_w2");
  // LyCORIS ignores the alpha of a module whose two matrices are whole. PEFT divides it by the rank of its config.
  const rank = source.rank ?? first.rank ?? second.rank;
  const found = rank === undefined ? undefined : await alphaOf(source, rank);
  if (rank === undefined && keys.alpha !== undefined) await readAlpha(source.file, keys.alpha);
  const scale = found === undefined || rank === undefined ? 1 : found / rank;
  const input = first.columns * second.columns;
  const kernel = second.kernel.length > 0 ? [input, ...second.kernel] : undefined;
  return lora(source, kroneckerOf(first.factors, second.factors), scale, kernel);
}

interface Side {
  readonly factors: Factors;
  /** Input channels. */
  readonly columns: number;
  readonly kernel: Shape;
  /** Undefined if the matrix is whole. */
  readonly rank?: number;
}

/** W₁ or W₂ of LoKr: whole, a product of two matrices, or a product with a core. */
async function sideOf(source: ModuleSource, role: "lokr_w1" | "lokr_w2"): Promise<Side> {
  const { keys, file } = source;
  const whole = keys[role];
  if (whole !== undefined) {
    const tensor = await readFactor(file, whole);
    const [rows = 0, columns = 0, ...kernel] = tensor.shape;
    const values = matrixOf(rows, columns * sizeOf(kernel), toNumbers(tensor));
    return { factors: wholeMatrix(values), columns, kernel };
  }
  const names = requireKeys(source, [`${role}_a`, `${role}_b`]);
  const [a, b] = (await factorsOf(source, names)) as [HostTensor, HostTensor];
  const rank = b.shape[0] as number;
  const columns = b.shape[1] as number;
  const core = role === "lokr_w2" ? keys.lokr_t2 : undefined;
  if (core === undefined) return { factors: pairOf(source, a, b), columns, kernel: [], rank };
  const tensor = await readFactor(file, core);
  return { factors: tuckerOf(source, tensor, a, b), columns, kernel: tensor.shape.slice(2), rank };
}

/** B [out, r] and A [r, in · kh · kw]. */
function pairOf(source: ModuleSource, up: HostTensor, down: HostTensor): Factors {
  const factors = { up: asMatrix(up), down: asMatrix(down) };
  if (factors.up.columns === factors.down.rows) return factors;
  throw misfit(source, { up, down }, "expected [out, r] and [r, in]");
}

/** A core [r, q, kh, kw] between B [r, out] and A [q, in]. */
function tuckerOf(source: ModuleSource, core: HostTensor, up: HostTensor, down: HostTensor): Factors {
  const [outer, inner] = core.shape;
  if (core.shape.length !== 4 || outer !== up.shape[0] || inner !== down.shape[0]) {
    throw misfit(source, { core, up, down }, "expected [r, q, kh, kw], [r, out] and [q, in]");
  }
  const columns = asMatrix(up);
  return {
    up: matrix(columns.columns, columns.rows, (i, j) => columns.data[j * columns.columns + i] as number),
    down: withCore(toNumbers(core), core.shape, asMatrix(down)),
  };
}

/** @param kernel [in, kh, kw] of a convolution; without it, A is a matrix [r, in · kh · kw] */
function lora(source: ModuleSource, { up, down }: Factors, scale: number, kernel?: Shape): LoraModule {
  const rank = up.columns;
  const units = kernel ? kernel.slice(1).map(() => 1) : [];
  if (kernel && sizeOf(kernel) !== down.columns) {
    throw new InputError("tensor-mismatch", `${where(source)}: its factors do not fit a kernel ${showShape(kernel)}.`, {
      path: source.file.describe,
      module: source.module,
      found: down.columns,
      expected: kernel,
    });
  }
  return {
    down: float32(Float32Array.from(down.data), [rank, ...(kernel ?? [down.columns])]),
    up: float32(Float32Array.from(up.data), [up.rows, rank, ...units]),
    ...(scale !== 1 && { alpha: scale * rank }),
  };
}

/** The names of tensors that a module must have. */
function requireKeys({ file, module, keys }: ModuleSource, roles: readonly AdapterRole[]): string[] {
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

function factorsOf({ file }: ModuleSource, names: readonly string[]): Promise<HostTensor[]> {
  return Promise.all(names.map((name) => readFactor(file, name)));
}

async function readFactor(file: WeightSource, key: string): Promise<HostTensor> {
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
async function alphaOf({ file, keys, alpha }: ModuleSource, rank: number): Promise<number | undefined> {
  return keys.alpha === undefined ? alpha(rank) : readAlpha(file, keys.alpha);
}

async function readAlpha(file: WeightSource, key: string): Promise<number> {
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
async function readMagnitude(file: WeightSource, key: string): Promise<Magnitude> {
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

function isUnitKernel({ shape }: HostTensor): boolean {
  return shape.slice(2).every((extent) => extent === 1);
}

function asMatrix(tensor: HostTensor): Matrix {
  const [rows = 0, ...rest] = tensor.shape;
  return matrixOf(rows, sizeOf(rest), toNumbers(tensor));
}

function matrixOf(rows: number, columns: number, data: Float64Array): Matrix {
  return { rows, columns, data };
}

function where({ file, module }: ModuleSource): string {
  return `${file.describe}: adapter of ${module}`;
}

function misfit(source: ModuleSource, factors: Readonly<Record<string, HostTensor>>, expected: string): InputError {
  const shapes = Object.entries(factors).map(([name, { shape }]) => [name, shape] as const);
  const shown = shapes.map(([name, shape]) => `${name} ${showShape(shape)}`).join(", ");
  return new InputError("tensor-mismatch", `${where(source)}: ${shown} do not make a change of a layer; ${expected}.`, {
    path: source.file.describe,
    module: source.module,
    ...Object.fromEntries(shapes),
  });
}
