/** Mixes two adapters. AlignProp interpolates between the base model and rewards this way (arXiv 2310.03739). */
import { InputError } from "../errors/index.js";
import { float32, type HostTensor, toFloat32, toNumbers } from "../tensor/host.js";
import { type Shape, sameShape, showShape, sizeOf } from "../tensor/shape.js";
import { truncateProduct } from "../tensor/svd.js";
import {
  type Adapter,
  type DoraModule,
  type LoraAdapter,
  type LoraModule,
  loraRank,
  loraScale,
} from "../weights/lora-files.js";

/**
 * - `linear`: ΔW = x ΔW_a + (1 − x) ΔW_b, as one adapter whose rank is the sum of both ranks.
 * - `reference`: mixes the factors, as the published code does: B = x B_a + (1 − x) B_b, and A likewise. With the base model
 *   as the other adapter, the weights change by x² ΔW; two adapters get cross terms.
 */
export type MixForm = "linear" | "reference";

export interface MixOptions {
  readonly form?: MixForm | undefined;
  /** Largest rank of a module. A linear mix of a higher rank is replaced by the nearest matrix of this rank. */
  readonly rank?: number | undefined;
}

/**
 * Mixes two adapters. `coefficient` is x, the weight of `a`. `b` is "base" for the model without an adapter.
 *
 * @throws InputError `usage` for a rank in the reference form or a coefficient that is not finite; `adapter-mismatch` if the
 * adapters do not fit each other
 */
export function mixAdapters(
  a: LoraAdapter,
  b: LoraAdapter | "base",
  coefficient: number,
  { form = "linear", rank }: MixOptions = {},
): LoraAdapter {
  if (rank !== undefined && form !== "linear") {
    throw new InputError(
      "usage",
      `mix: the ${form} form keeps the rank of the adapters. Leave out the rank ${rank}, or use the linear form.`,
      { form, rank },
    );
  }
  if (!Number.isFinite(coefficient)) {
    throw new InputError("usage", `mix: the coefficient ${coefficient} is not a finite number`, { found: coefficient });
  }
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

/** An adapter, and the factor of its change of the weights. */
export interface WeightedAdapter {
  readonly adapter: Adapter;
  readonly weight: number;
}

/**
 * Several adapters at once: the sum of their changes, each times its weight, as PEFT and diffusers apply them.
 *
 * @example
 * const style = await readAdapter("style.safetensors");
 * const both = addAdapters([{ adapter: style, weight: 0.7 }, { adapter: run.adapter, weight: 0.5 }]);
 *
 * @throws InputError `adapter-mismatch` if two of them do not fit each other, `adapter-unsupported` if a layer has DoRA and
 *   another change
 */
export function addAdapters(adapters: readonly WeightedAdapter[]): Adapter {
  const [only] = adapters;
  if (adapters.length === 1 && only?.weight === 1) return only.adapter;
  const modules = new Map<string, LoraModule | DoraModule>();
  for (const path of new Set(adapters.flatMap(({ adapter }) => [...adapter.keys()]))) {
    const parts = adapters.flatMap(({ adapter, weight }) => {
      const module = adapter.get(path);
      return module ? [{ module, share: weight }] : [];
    });
    const dora = parts.find(({ module }) => module.magnitude);
    if (dora && parts.length > 1) {
      throw new InputError(
        "adapter-unsupported",
        `${path}: two adapters change this layer, and one of them is DoRA, which cannot be added to others. Give it alone.`,
        { layer: path, found: "DoRA" },
      );
    }
    // The magnitudes of DoRA stay; the weight is a factor of the product of its factors.
    modules.set(path, dora ? weighted(dora) : sumOfUpdates(path, parts as Part[]));
  }
  return modules;
}

function weighted({ module, share }: { module: LoraModule | DoraModule; share: number }): LoraModule | DoraModule {
  return { ...module, alpha: share * loraScale(module) * loraRank(module) };
}

function sumOfUpdates(path: string, parts: readonly Part[]): LoraModule {
  requireSameLayer(path, parts);
  return parts.length === 1 ? (weighted(parts[0] as Part) as LoraModule) : mixUpdates(parts);
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

/** The nearest module of a rank. The A of a convolution is a matrix [r, in · kh · kw]. */
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

/** Σ share · A and Σ share · B. The scales must agree, because the mix has only one. */
function mixFactors(path: string, parts: readonly Part[]): LoraModule {
  const [first, second] = parts.map(({ module }) => module);
  if (first && second && (loraRank(first) !== loraRank(second) || loraScale(first) !== loraScale(second))) {
    const ranks = [loraRank(first), loraRank(second)];
    const scales = [loraScale(first), loraScale(second)];
    throw new InputError(
      "adapter-mismatch",
      `mix: ${path} has rank ${ranks[0]} and scale ${scales[0]} in the first adapter, but rank ${ranks[1]} and scale ${scales[1]} ` +
        "in the second. The reference form adds the factors, so both must agree. Use the linear form.",
      { layer: path, ranks, scales },
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
  const [first, ...others] = parts.map(sizes);
  for (const second of first ? others : []) requireSameSizes(path, first as Sizes, second);
}

type Sizes = ReturnType<typeof sizes>;

function requireSameSizes(path: string, first: Sizes, second: Sizes): void {
  const same = first.outFeatures === second.outFeatures && first.inFeatures === second.inFeatures;
  if (!same || !sameShape(first.kernel.slice(1), second.kernel.slice(1))) {
    const shown = [first, second].map(({ kernel, outFeatures }) => `${showShape(kernel)} → ${outFeatures} features`);
    throw new InputError(
      "adapter-mismatch",
      `mix: ${path} maps ${shown[0]} in the first adapter, but ${shown[1]} in the second. Mix adapters of the same model.`,
      { layer: path, found: shown },
    );
  }
}

/** Sizes of a layer. A 1x1 convolution counts as a Linear, because files contain either form. */
function sizes({ module: { down, up } }: Part) {
  const [, ...kernel] = down.shape;
  const isWide = kernel.slice(1).some((extent) => extent > 1);
  return {
    kernel: isWide ? kernel : kernel.slice(0, 1),
    inFeatures: sizeOf(kernel),
    outFeatures: up.shape[0] as number,
  };
}
