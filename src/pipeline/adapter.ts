/** Converts adapters between their two forms: modules, as in files, and one vector, as in training. */
import { InputError, nearest } from "../errors/index.js";
import { unet, unetInputs } from "../models/unet/unet.js";
import { factorShapes, type LoraLayout, type LoraPlace, type LoraSettings, layoutOf, loraLayout } from "../nn/lora.js";
import { type Adaptable, type Scope, survey } from "../nn/scope.js";
import { float32, toFloat32 } from "../tensor/host.js";
import { type Shape, sameShape, showShape, sizeOf } from "../tensor/shape.js";
import { type LoraAdapter, type LoraModule, loraRank, loraScale } from "../weights/lora-files.js";
import type { Pipeline } from "./pipeline.js";

/** An adapter of the U-Net: the layout of its factors, and their values in one vector. */
export interface FlatLora {
  readonly layout: LoraLayout;
  readonly weights: Float32Array;
}

/** The layout of a new adapter for the model's U-Net. */
export function adapterLayout(pipeline: Pipeline, settings: LoraSettings): LoraLayout {
  return loraLayout(settings, "unet", smallestUnet(pipeline));
}

/** The modules of an adapter. They share the memory of the vector. */
export function toModules({ layout, weights }: FlatLora): LoraAdapter {
  const modules = new Map<string, LoraModule>();
  for (const [i, { module, factor, shape, offset, scale }] of layout.entries.entries()) {
    const b = layout.entries[i + 1];
    if (factor !== "A" || b === undefined) continue;
    const tensor = (at: number, of: Shape) => float32(weights.subarray(at, at + sizeOf(of)), of);
    modules.set(module, {
      down: tensor(offset, shape),
      up: tensor(b.offset, b.shape),
      ...(scale !== 1 && { alpha: scale * (shape[0] as number) }),
    });
  }
  return modules;
}

/**
 * The vector of a loaded adapter, in the order of the model's forward pass. Each module keeps its rank and alpha.
 *
 * @throws InputError `adapter-mismatch` if the adapter was made for another model
 */
export function toFlat(pipeline: Pipeline, adapter: LoraAdapter): FlatLora {
  const { adaptable } = survey("unet", smallestUnet(pipeline));
  for (const [module, factors] of adapter) requireFit(pipeline, adaptable, module, factors);
  const places = [...adaptable].flatMap(([module, layer]): [string, LoraPlace][] => {
    const factors = adapter.get(module);
    return factors ? [[module, { layer, rank: loraRank(factors), scale: loraScale(factors) }]] : [];
  });
  const layout = layoutOf(places);
  const weights = new Float32Array(layout.size);
  for (const { module, factor, offset } of layout.entries) {
    const { down, up } = adapter.get(module) as LoraModule;
    weights.set(toFloat32(factor === "A" ? down : up), offset);
  }
  return { layout, weights };
}

/** @throws InputError `adapter-mismatch` if the model has no such layer, or one of another shape */
export function requireFit(
  { path }: Pipeline,
  adaptable: ReadonlyMap<string, Adaptable>,
  module: string,
  factors: Pick<LoraModule, "down" | "up">,
): void {
  const layer = adaptable.get(module);
  if (!layer) {
    const suggestion = nearest(module, adaptable.keys());
    throw new InputError(
      "adapter-mismatch",
      `adapter: the model in ${path} has no layer ${module}${suggestion ? `; the nearest is ${suggestion}` : ""}. Was the adapter made for another model?`,
      { layer: module, model: path, suggestion },
    );
  }
  const [a, b] = factorShapes(layer, loraRank(factors));
  // A Linear is a 1x1 convolution, and files contain either shape of its factors. LyCORIS stores [r, in, kh, kw] as a matrix.
  const isEqual = (found: Shape, expected: Shape) =>
    sameShape(withoutUnits(found), withoutUnits(expected)) ||
    sameShape(found, [expected[0] as number, sizeOf(expected.slice(1))]);
  if (isEqual(factors.down.shape, a) && isEqual(factors.up.shape, b)) return;
  const found = [factors.down.shape, factors.up.shape].map(showShape);
  const expected = [a, b].map(showShape);
  throw new InputError(
    "adapter-mismatch",
    `adapter: the factors of ${module} have the shapes ${found.join(" and ")}, but the layer in ${path} needs ${expected.join(" and ")}. Was the adapter made for another model?`,
    { layer: module, model: path, found, expected },
  );
}

/** The shape without the extents of a 1x1 kernel. */
function withoutUnits(shape: Shape): Shape {
  return shape.slice(2).every((extent) => extent === 1) ? shape.slice(0, 2) : shape;
}

/** Builds the U-Net on the smallest inputs that it accepts, which is enough to list its layers. */
export function smallestUnet({ unet: config }: Pipeline): (scope: Scope) => unknown {
  const side = 2 ** (config.levels.length - 1);
  const inputs = unetInputs(config, { batch: 1, height: side, width: side, tokens: 1 });
  return (scope) => unet(scope, config, inputs);
}
