/**
 * Low-rank adaptation (Hu et al. 2021): scale · B A x is added to the output of a layer. A starts random and B as zero,
 * so that training starts from the unchanged model.
 *
 * For a Linear, A is [rank, in] and B [out, rank]. For a convolution, A is a convolution [rank, in, kh, kw] with the
 * stride and padding of the adapted one, followed by B, a 1x1 convolution [out, rank, 1, 1], as in PEFT and LyCORIS.
 */
import { InputError, nearest } from "../errors/index.js";
import type { Value } from "../graph/value.js";
import { conv2d, linear, mul } from "../ops/index.js";
import type { Rng } from "../tensor/rng.js";
import { type Shape, sizeOf } from "../tensor/shape.js";
import { type FlatEntry, type FlatLayout, flatLayout, splitFlat } from "./flat.js";
import { type Adaptable, type Adapter, type Scope, survey } from "./scope.js";

/** Settings of an adapter. */
export interface LoraSettings {
  readonly rank: number;
  /** The scale is alpha / rank. With null it is 1. */
  readonly alpha: number | null;
  /**
   * Names of groups, or ends of module paths: `to_q` selects every module called to_q, `attn2.to_q` only
   * cross-attention.
   */
  readonly targets: readonly string[];
}

/** Groups of layers that are usually adapted together, by the ends of their paths in diffusers' U-Net. */
const TARGET_GROUPS = {
  attention: ["to_q", "to_k", "to_v", "to_out.0"],
  "feed-forward": ["ff.net.0.proj", "ff.net.2"],
  projections: ["proj_in", "proj_out"],
  convolutions: ["conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv"],
} as const satisfies Record<string, readonly string[]>;

export interface LoraEntry extends FlatEntry {
  /** Path of the adapted layer, such as `unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q`. */
  readonly module: string;
  readonly factor: "A" | "B";
  /** Factor of B A x, usually alpha / rank. */
  readonly scale: number;
}

export interface LoraLayout extends FlatLayout<LoraEntry> {
  readonly kind: "lora";
}

/** An adapted layer, with the rank and scale of its adapter. */
export interface LoraPlace {
  readonly layer: Adaptable;
  readonly rank: number;
  readonly scale: number;
}

/**
 * The layout of A and B of every layer that `build` creates and a target selects, in the order of the forward pass.
 *
 * @throws InputError `setting-invalid` if a target selects no layer.
 */
export function loraLayout(
  { rank, alpha, targets }: LoraSettings,
  path: string,
  build: (scope: Scope) => unknown,
): LoraLayout {
  const { adaptable } = survey(path, build);
  const scale = alpha === null ? 1 : alpha / rank;
  return layoutOf(
    targetsIn(adaptable, targets, path).map((module) => [
      module,
      { layer: adaptable.get(module) as Adaptable, rank, scale },
    ]),
  );
}

/** The layout of the factors of all modules: A, then B of each. */
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

/** Shapes of A, which has `rank` outputs, and of B, which maps these to the outputs of the layer. */
export function factorShapes({ weight: [out = 0, ...rest] }: Adaptable, rank: number): [a: Shape, b: Shape] {
  return [
    [rank, ...rest],
    [out, rank, ...rest.slice(1).map(() => 1)],
  ];
}

/**
 * The modules that the targets select, in the order of `adaptable`.
 *
 * @throws InputError `setting-invalid` if a target selects none.
 */
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
  const [groups, layers] = [Object.keys(TARGET_GROUPS), [...new Set(modules.map(lastName))]];
  const suggestion = nearest(target, [...groups, ...layers]);
  return new InputError(
    "setting-invalid",
    `lora.targets: ${target} does not name a layer of ${path} that an adapter can change. ${suggestion ? `Did you mean ${suggestion}? ` : ""}` +
      `The groups are ${groups.join(", ")}; the layers are ${layers.join(", ")}.`,
    { setting: "lora.targets", found: target, suggestion, model: path, groups, layers },
  );
}

/** The last name of a path, with the number after it: `to_out.0` for `…attn1.to_out.0`. */
function lastName(path: string): string {
  return path.match(/[^.]+(\.\d+)?$/)?.[0] ?? path;
}

/** The adapter whose factors are slices of `flat` [size]. `parts` are these slices, in the order of the layout. */
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

/** Initial factors: A is normal with standard deviation 1 / rank, as in diffusers' LoRALinearLayer, and B is 0. */
export function initialLora(layout: LoraLayout, rng: Rng): Float32Array {
  const flat = new Float32Array(layout.size);
  for (const { shape, offset, factor } of layout.entries) {
    if (factor === "B") continue;
    const rank = shape[0] as number;
    for (let i = offset; i < offset + sizeOf(shape); i++) flat[i] = rng.normal() / rank;
  }
  return flat;
}
