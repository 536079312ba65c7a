/** Two adapters as one: what AlignProp uses to slide between the base model and rewards (arXiv 2310.03739). */
import { InputError } from "../errors/index.js";
import { float32, type HostTensor, toFloat32, toNumbers } from "../tensor/host.js";
import { type Shape, sameShape, showShape, sizeOf } from "../tensor/shape.js";
import { truncateProduct } from "../tensor/svd.js";
import { type LoraAdapter, type LoraModule, loraRank, loraScale } from "../weights/lora-files.js";

/**
 * - `linear`: ΔW = x ΔW_a + (1 − x) ΔW_b, as one adapter whose rank is the sum of both.
 * - `reference`: the published code's form, which mixes the factors instead: B = x B_a + (1 − x) B_b and A likewise. With the
 *   base model on the other side this changes the weights by x² ΔW, and two adapters get cross terms.
 */
export type MixForm = "linear" | "reference";

export interface MixOptions {
  readonly form?: MixForm | undefined;
  /** The most that a module's rank may be: a linear mix is cut to the nearest update of that rank. */
  readonly rank?: number | undefined;
}

/** `coefficient` x is the share of `a`; `b` "base" is the model without an adapter. */
export function mixAdapters(
  a: LoraAdapter,
  b: LoraAdapter | "base",
  coefficient: number,
  { form = "linear", rank }: MixOptions = {},
): LoraAdapter {
  if (rank !== undefined && form !== "linear") {
    throw new InputError(
      "adapter-mismatch",
      `mix: the ${form} form keeps the adapters' own rank; leave out the rank, or use the linear form`,
    );
  }
  if (!Number.isFinite(coefficient))
    throw new InputError("adapter-mismatch", `mix: the coefficient ${coefficient} is not a number`);
  const other: LoraAdapter = b === "base" ? new Map() : b;
  const modules = new Map<string, LoraModule>();
  for (const path of new Set([...a.keys(), ...other.keys()])) {
    const parts: Part[] = [];
    const [first, second] = [a.get(path), other.get(path)];
    if (first) parts.push({ module: first, share: coefficient });
    if (second) parts.push({ module: second, share: 1 - coefficient });
    requireSameLayer(path, parts);
    const mixed = form === "linear" ? mixUpdates(parts) : mixFactors(path, parts);
    modules.set(path, rank === undefined ? mixed : truncated(mixed, rank));
  }
  return modules;
}

interface Part {
  readonly module: LoraModule;
  readonly share: number;
}

/** Σ share · scale · B A = [share · scale · B, …] [A; …] */
function mixUpdates(parts: readonly Part[]): LoraModule {
  const { inFeatures, outFeatures, kernel } = sizes(parts[0] as Part);
  const rank = parts.reduce((sum, { module }) => sum + loraRank(module), 0);
  const down = new Float32Array(rank * inFeatures);
  const up = new Float32Array(outFeatures * rank);
  let column = 0;
  for (const { module, share } of parts) {
    const own = loraRank(module);
    const factor = share * loraScale(module);
    down.set(toFloat32(module.down), column * inFeatures);
    const source = toFloat32(module.up);
    for (let row = 0; row < outFeatures; row++) {
      for (let i = 0; i < own; i++) up[row * rank + column + i] = factor * (source[row * own + i] as number);
    }
    column += own;
  }
  return shaped(down, up, rank, kernel);
}

/** Factors of a Linear, or of a convolution with this kernel [in, kh, kw]. */
function shaped(down: Float32Array, up: Float32Array, rank: number, kernel: Shape): LoraModule {
  const ones = kernel.slice(1).map(() => 1);
  return { down: float32(down, [rank, ...kernel]), up: float32(up, [up.length / rank, rank, ...ones]) };
}

/** A convolution's A is a matrix, too: [r, in · kh · kw]. */
function truncated(module: LoraModule, rank: number): LoraModule {
  const own = loraRank(module);
  if (own <= rank) return module;
  const { inFeatures, outFeatures, kernel } = sizes({ module, share: 1 });
  const { a, b } = truncateProduct(
    { rows: outFeatures, columns: own, data: toNumbers(module.up) },
    { rows: own, columns: inFeatures, data: toNumbers(module.down) },
    rank,
  );
  return shaped(Float32Array.from(a.data), Float32Array.from(b.data), a.rows, kernel);
}

/** Σ share · A and Σ share · B; the alphas must agree, because one scale is left. */
function mixFactors(path: string, parts: readonly Part[]): LoraModule {
  const [first, second] = parts.map(({ module }) => module);
  if (first && second && (loraRank(first) !== loraRank(second) || loraScale(first) !== loraScale(second))) {
    throw new InputError(
      "adapter-mismatch",
      `mix: ${path} has rank ${loraRank(first)} and scale ${loraScale(first)} in one adapter, rank ${loraRank(second)} and scale ` +
        `${loraScale(second)} in the other; the reference form adds the factors, so both must agree. Use the linear form`,
    );
  }
  const add = (pick: (module: LoraModule) => HostTensor): HostTensor => {
    const { shape, data } = pick(first as LoraModule);
    const sum = new Float32Array(data.length);
    for (const { module, share } of parts) {
      for (const [i, value] of toFloat32(pick(module)).entries()) sum[i] = (sum[i] as number) + share * value;
    }
    return float32(sum, shape);
  };
  return {
    down: add(({ down }) => down),
    up: add(({ up }) => up),
    ...(first?.alpha !== undefined && { alpha: first.alpha }),
  };
}

function requireSameLayer(path: string, parts: readonly Part[]): void {
  const [first, second] = parts.map(sizes);
  if (!first || !second) return;
  const same = first.outFeatures === second.outFeatures && first.inFeatures === second.inFeatures;
  if (!same || !sameShape(first.kernel.slice(1), second.kernel.slice(1))) {
    const shown = ({ kernel, outFeatures }: ReturnType<typeof sizes>) =>
      `${showShape(kernel)} to ${outFeatures} features`;
    throw new InputError(
      "adapter-mismatch",
      `mix: ${path} goes from ${shown(first)} in one adapter and from ${shown(second)} in the other; they were made for different models`,
    );
  }
}

/** A 1x1 convolution is a Linear, and files have either form of it. */
function sizes({ module: { down, up } }: Part) {
  const [, ...kernel] = down.shape;
  const isWide = kernel.slice(1).some((extent) => extent > 1);
  return {
    kernel: isWide ? kernel : kernel.slice(0, 1),
    inFeatures: sizeOf(kernel),
    outFeatures: up.shape[0] as number,
  };
}
