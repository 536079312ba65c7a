import { InputError } from "../../errors/index.js";
import type { Value } from "../../graph/value.js";
import { linear } from "../../nn/layers.js";
import type { Scope } from "../../nn/scope.js";
import { reshape } from "../../ops/index.js";
import { showShape } from "../../tensor/shape.js";
import type { WeightSource } from "../../weights/source.js";

/**
 * The LAION aesthetic predictor's head (Schuhmann et al. 2022): Linear layers with nothing between them but dropout,
 * 768-1024-128-64-16-1, from a normalised image embedding to a score of about 1 to 10.
 */
export interface AestheticConfig {
  readonly inFeatures: number;
  readonly layers: readonly { readonly index: number; readonly outFeatures: number }[];
}

/**
 * Layer numbers of the reference: dropout, which has no weights, takes a number after each layer but the last two.
 * Widths [768, 1024, 128, 64, 16, 1] are layers 0, 2, 4, 6 and 7.
 */
export function aestheticConfig(widths: readonly [number, ...number[]]): AestheticConfig {
  const [inFeatures, ...outFeatures] = widths;
  const last = outFeatures.length - 1;
  return {
    inFeatures,
    layers: outFeatures.map((features, i) => ({ index: 2 * i - (i > 0 && i === last ? 1 : 0), outFeatures: features })),
  };
}

/** The sizes that a checkpoint has; its tensors are `layers.N.weight` [out, in] and `layers.N.bias`. */
export function aestheticConfigOf(source: WeightSource, path: string): AestheticConfig {
  const start = `${path}.layers.`;
  const layers: { index: number; inFeatures: number; outFeatures: number }[] = [];
  for (const name of source.names()) {
    const index = name.startsWith(start) ? /^(\d+)\.weight$/.exec(name.slice(start.length))?.[1] : undefined;
    if (index === undefined) continue;
    const shape = source.get(name)?.shape ?? [];
    const [outFeatures, inFeatures] = shape;
    if (shape.length !== 2 || !outFeatures || !inFeatures) {
      throw new InputError(
        "config-invalid",
        `${source.describe}: ${name} has shape ${showShape(shape)}; an aesthetic head's is [out, in].`,
      );
    }
    layers.push({ index: Number(index), inFeatures, outFeatures });
  }
  layers.sort((a, b) => a.index - b.index);
  const first = layers[0];
  if (!first) {
    throw new InputError(
      "config-invalid",
      `${source.describe}: no tensor ${start}0.weight; an aesthetic head is Linear layers called layers.0, layers.2, ….`,
    );
  }
  for (const [i, { index, inFeatures }] of layers.entries()) {
    const before = layers[i - 1];
    if (before && before.outFeatures !== inFeatures) {
      throw new InputError(
        "config-invalid",
        `${source.describe}: ${start}${index} takes ${inFeatures} features, but ${start}${before.index} gives ${before.outFeatures}.`,
      );
    }
  }
  return { inFeatures: first.inFeatures, layers: layers.map(({ index, outFeatures }) => ({ index, outFeatures })) };
}

/** normalised image embedding [b, inFeatures] → score [b] (or [b, n] where the last layer has n > 1 outputs) */
export function aestheticScore(scope: Scope, { layers }: AestheticConfig, embedding: Value): Value {
  let h = embedding;
  for (const { index, outFeatures } of layers) h = linear(scope.at("layers").at(index), h, outFeatures);
  return h.shape[1] === 1 ? reshape(h, [-1]) : h;
}
