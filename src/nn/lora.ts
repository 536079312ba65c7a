import { InputError, nearest } from "../errors/index.js";
import type { Value } from "../graph/value.js";
import { conv2d, linear, mul } from "../ops/index.js";
import type { Rng } from "../tensor/rng.js";
import { type Shape, sizeOf } from "../tensor/shape.js";
import { type FlatEntry, type FlatLayout, flatLayout, splitFlat } from "./flat.js";
import { type Adaptable, type Adapter, type Scope, survey } from "./scope.js";

/**
 * Low-rank adaptation (Hu et al. 2021): a layer's output gains scale · B A x, where A starts random and B as zero, so that
 * training starts at the model itself.
 *
 * Of a Linear, A is [rank, in] and B [out, rank]. Of a convolution, A is a convolution [rank, in, kh, kw] that moves as the
 * adapted one does, and B one of 1x1 [out, rank, 1, 1] behind it, as in PEFT and LyCORIS.
 */
export interface LoraSettings {
  readonly rank: number;
  /** scale = alpha / rank; null is scale 1. */
  readonly alpha: number | null;
  /** Groups, or ends of module paths: `to_q` is every module called to_q, `attn2.to_q` those of cross-attention. */
  readonly targets: readonly string[];
}

/** Names for layers that are usually adapted together, by the ends of their paths in diffusers' U-Net. */
export const TARGET_GROUPS = {
  attention: ["to_q", "to_k", "to_v", "to_out.0"],
  "feed-forward": ["ff.net.0.proj", "ff.net.2"],
  projections: ["proj_in", "proj_out"],
  convolutions: ["conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv"],
} as const satisfies Record<string, readonly string[]>;

export interface LoraEntry extends FlatEntry {
  /** Path of the adapted layer, such as `unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q`. */
  readonly module: string;
  readonly factor: "A" | "B";
  /** alpha / rank of the module. */
  readonly scale: number;
}

export interface LoraLayout extends FlatLayout<LoraEntry> {
  readonly kind: "lora";
}

/** Where an adapter is to be: the layer, and its own rank and scale. */
export interface LoraPlace {
  readonly layer: Adaptable;
  readonly rank: number;
  readonly scale: number;
}

/** A and B of every layer that `build` makes and a target names, in the order of the forward pass. */
export function loraLayout(
  { rank, alpha, targets }: LoraSettings,
  path: string,
  build: (scope: Scope) => unknown,
): LoraLayout {
  const { adaptable } = survey(path, build);
  const scale = alpha === null ? 1 : alpha / rank;
  return layoutOf(
    targetsIn(adaptable, targets, path).map((module) => [module, { ...at(adaptable, module), rank, scale }]),
  );
}

const at = (adaptable: ReadonlyMap<string, Adaptable>, module: string) => ({
  layer: adaptable.get(module) as Adaptable,
});

/** The factors of modules one after another, each A before its B. */
export function layoutOf(places: Iterable<readonly [module: string, place: LoraPlace]>): LoraLayout {
  const tensors = [...places].flatMap(([module, { layer, rank, scale }]) => {
    const [a, b] = factorShapes(layer, rank);
    return [
      { name: `${module}.lora_A.weight`, module, factor: "A" as const, scale, shape: a },
      { name: `${module}.lora_B.weight`, module, factor: "B" as const, scale, shape: b },
    ];
  });
  return { kind: "lora", ...flatLayout(tensors) };
}

/** A: the layer's weight with `rank` outputs. B: from those to the layer's outputs. */
export function factorShapes({ weight: [out = 0, ...rest] }: Adaptable, rank: number): [a: Shape, b: Shape] {
  return [
    [rank, ...rest],
    [out, rank, ...rest.slice(1).map(() => 1)],
  ];
}

/** The modules that targets name, in the order of `adaptable`; a target that names none is an error. */
export function targetsIn(
  adaptable: ReadonlyMap<string, Adaptable>,
  targets: readonly string[],
  path: string,
): string[] {
  const modules = [...adaptable.keys()];
  const ends = new Set<string>();
  for (const target of targets) {
    const group = Object.hasOwn(TARGET_GROUPS, target) ? TARGET_GROUPS[target as keyof typeof TARGET_GROUPS] : [target];
    const found = group.filter((end) => modules.some((module) => endsWith(module, end)));
    if (found.length === 0) throw unknownTarget(target, modules, path);
    for (const end of found) ends.add(end);
  }
  return modules.filter((module) => [...ends].some((end) => endsWith(module, end)));
}

function endsWith(module: string, end: string): boolean {
  return module === end || module.endsWith(`.${end}`);
}

function unknownTarget(target: string, modules: readonly string[], path: string): InputError {
  const names = new Set(modules.map(lastName));
  const near = nearest(target, [...Object.keys(TARGET_GROUPS), ...names]);
  return new InputError(
    "tensor-mismatch",
    `lora.targets: ${target} names no layer of ${path} that an adapter can change; ${near ? `did you mean ${near}? ` : ""}` +
      `There are the groups ${Object.keys(TARGET_GROUPS).join(", ")}, and the layers ${[...names].join(", ")}.`,
  );
}

/** `to_out.0` for `…attn1.to_out.0`: a number alone says nothing. */
function lastName(path: string): string {
  return path.match(/[^.]+(\.\d+)?$/)?.[0] ?? path;
}

/** The adapter whose factors are slices of `flat` [size]; `parts` are those slices, to differentiate by. */
export function loraAdapter(layout: LoraLayout, flat: Value): { adapter: Adapter; parts: Value[] } {
  const parts = splitFlat(layout, flat);
  const factors = new Map<string, { value: Value; scale: number }>();
  for (const [i, { name, scale }] of layout.entries.entries()) factors.set(name, { value: parts[i] as Value, scale });
  const adapter: Adapter = (path, x, { conv }) => {
    const a = factors.get(`${path}.lora_A.weight`);
    const b = factors.get(`${path}.lora_B.weight`);
    if (!a || !b) return undefined;
    const inner = conv ? conv2d(x, a.value, undefined, conv) : linear(x, a.value);
    const scaled = a.scale === 1 ? inner : mul(inner, a.scale);
    return conv ? conv2d(scaled, b.value) : linear(scaled, b.value);
  };
  return { adapter, parts };
}

/** A ~ N(0, 1/rank²): a standard deviation of 1/rank, as in diffusers' LoRALinearLayer. B = 0. */
export function initialLora(layout: LoraLayout, rng: Rng): Float32Array {
  const flat = new Float32Array(layout.size);
  for (const { shape, offset, factor } of layout.entries) {
    if (factor === "B") continue;
    const rank = shape[0] as number;
    for (let i = offset; i < offset + sizeOf(shape); i++) flat[i] = rng.normal() / rank;
  }
  return flat;
}
