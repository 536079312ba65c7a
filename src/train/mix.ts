/** Two adapters as one: what AlignProp uses to slide between the base model and rewards (arXiv 2310.03739). */
import { InputError } from "../tensor/errors.js";
import { float32, type HostTensor, toFloat32 } from "../tensor/host.js";
import { type LoraAdapter, type LoraModule, loraRank, loraScale } from "../weights/lora-files.js";

/**
 * - `linear`: ΔW = x ΔW_a + (1 − x) ΔW_b, as one adapter whose rank is the sum of both.
 * - `reference`: the published code's form, which mixes the factors instead: B = x B_a + (1 − x) B_b and A likewise. With the
 *   base model on the other side this changes the weights by x² ΔW, and two adapters get cross terms.
 */
export type MixForm = "linear" | "reference";

/** `coefficient` x is the share of `a`; `b` "base" is the model without an adapter. */
export function mixAdapters(
  a: LoraAdapter,
  b: LoraAdapter | "base",
  coefficient: number,
  { form = "linear" }: { form?: MixForm } = {},
): LoraAdapter {
  if (!Number.isFinite(coefficient)) throw new InputError(`mix: the coefficient ${coefficient} is not a number`);
  const other: LoraAdapter = b === "base" ? new Map() : b;
  const modules = new Map<string, LoraModule>();
  for (const path of new Set([...a.keys(), ...other.keys()])) {
    const parts: Part[] = [];
    const [first, second] = [a.get(path), other.get(path)];
    if (first) parts.push({ module: first, share: coefficient });
    if (second) parts.push({ module: second, share: 1 - coefficient });
    requireSameLinear(path, parts);
    modules.set(path, form === "linear" ? mixUpdates(parts) : mixFactors(path, parts));
  }
  return modules;
}

interface Part {
  readonly module: LoraModule;
  readonly share: number;
}

/** Σ share · scale · B A = [share · scale · B, …] [A; …] */
function mixUpdates(parts: readonly Part[]): LoraModule {
  const { inFeatures, outFeatures } = sizes(parts[0] as Part);
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
  return { down: float32(down, [rank, inFeatures]), up: float32(up, [outFeatures, rank]) };
}

/** Σ share · A and Σ share · B; the alphas must agree, because one scale is left. */
function mixFactors(path: string, parts: readonly Part[]): LoraModule {
  const [first, second] = parts.map(({ module }) => module);
  if (first && second && (loraRank(first) !== loraRank(second) || loraScale(first) !== loraScale(second))) {
    throw new InputError(
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

function requireSameLinear(path: string, parts: readonly Part[]): void {
  const [first, second] = parts.map(sizes);
  if (!first || !second) return;
  if (first.inFeatures !== second.inFeatures || first.outFeatures !== second.outFeatures) {
    throw new InputError(
      `mix: ${path} goes from ${first.inFeatures} to ${first.outFeatures} features in one adapter and from ` +
        `${second.inFeatures} to ${second.outFeatures} in the other; they were made for different models`,
    );
  }
}

function sizes({ module: { down, up } }: Part) {
  return { inFeatures: down.shape[1] as number, outFeatures: up.shape[0] as number };
}
