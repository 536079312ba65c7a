/** Builds the change of one layer from the tensors that a file has for it. */
import { InputError } from "../errors/index.js";
import { float32, fromNumbers, type HostTensor, toNumbers } from "../tensor/host.js";
import { type Matrix, matrix } from "../tensor/matrix.js";
import { type Shape, showShape, sizeOf } from "../tensor/shape.js";
import {
  alphaOf,
  asMatrix,
  factorsOf,
  isUnitKernel,
  type ModuleSource,
  misfit,
  readFactor,
  readMagnitude,
  readNumber,
  requireKeys,
  where,
} from "./adapter-tensors.js";
import { type DoraModule, type LoraModule, loraRank, loraScale } from "./lora-files.js";
import type { AdapterRole } from "./lora-names.js";
import { type Factors, hadamardOf, kroneckerOf, wholeMatrix, withCore } from "./lora-variants.js";

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
  const built = await (present[0] ?? KINDS[0]).build(source);
  const scalar = keys.scalar === undefined ? 1 : await readNumber(file, keys.scalar);
  const change = scalar === 1 ? built : { ...built, alpha: scalar * loraScale(built) * loraRank(built) };
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
    const fits = mid.shape.length === 4 && mid.shape[0] === up.shape[1] && mid.shape[1] === rank && isUnitKernel(down);
    if (!fits) throw misfit(source, { down, mid, up }, "expected [r, in, 1, 1], [r, r, kh, kw] and [out, r, 1, 1]");
    const rows = cored(source, mid, down);
    const shape = [rows.rows, down.shape[1] as number, ...mid.shape.slice(2)];
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
    return lora(source, elementwise(source, first, second), scale);
  }
  const [t1, t2] = (await factorsOf(source, [hada_t1, hada_t2])) as [HostTensor, HostTensor];
  const [first, second] = [tuckerOf(source, t1, w1a, w1b), tuckerOf(source, t2, w2a, w2b)];
  return lora(source, elementwise(source, first, second), scale, [w1b.shape[1] as number, ...t1.shape.slice(2)]);
}

async function buildLokr(source: ModuleSource): Promise<LoraModule> {
  const { keys } = source;
  const first = await sideOf(source, "lokr_w1");
  const second = await sideOf(source, "lokr_w2");
  // LyCORIS ignores the alpha of a module whose two matrices are whole. PEFT divides it by the rank of its config.
  const rank = source.rank ?? first.rank ?? second.rank;
  const found = rank === undefined ? undefined : await alphaOf(source, rank);
  if (rank === undefined && keys.alpha !== undefined) await readNumber(source.file, keys.alpha);
  const scale = found === undefined || rank === undefined ? 1 : found / rank;
  const input = first.columns * second.columns;
  const kernel = second.kernel.length > 0 ? [input, ...second.kernel] : undefined;
  return lora(source, kroneckerProduct(source, first.factors, second.factors), scale, kernel);
}

/** The largest layers of Stable Diffusion XL have 3e7 weights. The bound keeps a hostile file from filling the memory. */
const MAX_ELEMENTS = 2 ** 27;

/** @throws InputError `file-too-large` */
function requireSize(source: ModuleSource, elements: number): void {
  if (elements <= MAX_ELEMENTS) return;
  throw new InputError(
    "file-too-large",
    `${where(source)}: would have ${elements} elements, but the limit is ${MAX_ELEMENTS}. Is it made for another model?`,
    { path: source.file.describe, module: source.module, found: elements, limit: MAX_ELEMENTS },
  );
}

function elementwise(source: ModuleSource, first: Factors, second: Factors): Factors {
  const [rows, columns] = [first.up.rows, first.down.columns];
  if (second.up.rows !== rows || second.down.columns !== columns) {
    const found = `${rows} x ${columns} and ${second.up.rows} x ${second.down.columns}`;
    throw new InputError(
      "tensor-mismatch",
      `${where(source)}: its two products are ${found}, but must be of one size.`,
      {
        path: source.file.describe,
        module: source.module,
        found,
      },
    );
  }
  const rank = first.up.columns * second.up.columns;
  requireSize(source, Math.max(rows, rank) * Math.max(columns, rank));
  return hadamardOf(first, second);
}

function kroneckerProduct(source: ModuleSource, first: Factors, second: Factors): Factors {
  const rank = first.up.columns * second.up.columns;
  const [rows, columns] = [first.up.rows * second.up.rows, first.down.columns * second.down.columns];
  requireSize(source, Math.max(rows, rank) * Math.max(columns, rank));
  return kroneckerOf(first, second);
}

/** A core [r, q, kh, kw] times the factor [q, in] of the input channels: [r, in · kh · kw]. */
function cored(source: ModuleSource, core: HostTensor, channels: HostTensor): Matrix {
  const [rank = 0, , ...kernel] = core.shape;
  const matrix = asMatrix(channels);
  requireSize(source, rank * matrix.columns * sizeOf(kernel));
  return withCore(toNumbers(core), core.shape, matrix);
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
    const values = { rows, columns: columns * sizeOf(kernel), data: toNumbers(tensor) };
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
    down: cored(source, core, down),
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
    down: float32(new Float32Array(down.data), [rank, ...(kernel ?? [down.columns])]),
    up: float32(new Float32Array(up.data), [up.rows, rank, ...units]),
    ...(scale !== 1 && { alpha: scale * rank }),
  };
}
