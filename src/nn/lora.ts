import type { Value } from "../graph/value.js";
import { linear, mul } from "../ops/index.js";
import { InputError, nearest } from "../tensor/errors.js";
import type { Rng } from "../tensor/rng.js";
import { sizeOf } from "../tensor/shape.js";
import { type FlatEntry, type FlatLayout, flatLayout, splitFlat } from "./flat.js";
import { type Adapter, type Scope, survey } from "./scope.js";

/**
 * Low-rank adaptation (Hu et al. 2021): a Linear's output gains scale · B A x, where A [rank, in] starts random and
 * B [out, rank] starts as zero, so that training starts at the model itself.
 */
export interface LoraSettings {
  readonly rank: number;
  /** scale = alpha / rank; null is scale 1. */
  readonly alpha: number | null;
  /** Ends of module paths, whole names: `to_q` is every module called to_q, `attn2.to_q` those of cross-attention. */
  readonly targets: readonly string[];
}

export const ATTENTION_TARGETS = ["to_q", "to_k", "to_v", "to_out.0"] as const;

export interface LoraEntry extends FlatEntry {
  /** Path of the adapted Linear, such as `unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q`. */
  readonly module: string;
  readonly factor: "A" | "B";
}

export interface LoraLayout extends FlatLayout<LoraEntry> {
  readonly rank: number;
  readonly scale: number;
}

/** The factors of every Linear that `build` makes and a target names, in the order of the forward pass. */
export function loraLayout(
  { rank, alpha, targets }: LoraSettings,
  path: string,
  build: (scope: Scope) => unknown,
): LoraLayout {
  const { linears } = survey(path, build);
  const names = (module: string, target: string) => module === target || module.endsWith(`.${target}`);
  for (const target of targets) {
    if (linears.some((linear) => names(linear.path, target))) continue;
    const known = new Set(linears.map((linear) => lastName(linear.path)));
    const near = nearest(target, known);
    throw new InputError(
      `lora.targets: ${target} names no Linear layer of ${path}; ${near ? `did you mean ${near}? ` : ""}Its Linear layers are called ${[...known].join(", ")}.`,
    );
  }
  const adapted = linears.filter((linear) => targets.some((target) => names(linear.path, target)));
  const layout = flatLayout(
    adapted.flatMap(({ path: module, inFeatures, outFeatures }) => [
      { name: `${module}.lora_A.weight`, module, factor: "A" as const, shape: [rank, inFeatures] },
      { name: `${module}.lora_B.weight`, module, factor: "B" as const, shape: [outFeatures, rank] },
    ]),
  );
  return { ...layout, rank, scale: alpha === null ? 1 : alpha / rank };
}

/** `to_out.0` for `…attn1.to_out.0`: a number alone says nothing. */
function lastName(path: string): string {
  return path.match(/[^.]+(\.\d+)?$/)?.[0] ?? path;
}

/** The adapter whose factors are slices of `flat` [size]; `parts` are those slices, to differentiate by. */
export function loraAdapter(layout: LoraLayout, flat: Value): { adapter: Adapter; parts: Value[] } {
  const parts = splitFlat(layout, flat);
  const factors = new Map<string, Value>();
  for (const [i, { module, factor }] of layout.entries.entries()) factors.set(`${module} ${factor}`, parts[i] as Value);
  const adapter: Adapter = (path, x) => {
    const down = factors.get(`${path} A`);
    const up = factors.get(`${path} B`);
    if (!down || !up) return undefined;
    const inner = linear(x, down);
    return linear(layout.scale === 1 ? inner : mul(inner, layout.scale), up);
  };
  return { adapter, parts };
}

/** A ~ N(0, 1/rank²): a standard deviation of 1/rank, as in diffusers' LoRALinearLayer. B = 0. */
export function initialLora(layout: LoraLayout, rng: Rng): Float32Array {
  const flat = new Float32Array(layout.size);
  for (const { shape, offset, factor } of layout.entries) {
    if (factor === "B") continue;
    for (let i = offset; i < offset + sizeOf(shape); i++) flat[i] = rng.normal() / layout.rank;
  }
  return flat;
}
