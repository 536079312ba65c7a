import { InputError } from "../../errors/index.js";
import type { Value } from "../../graph/value.js";
import { linear } from "../../nn/layers.js";
import type { Scope } from "../../nn/scope.js";
import { reshape } from "../../ops/index.js";
import { showShape } from "../../tensor/shape.js";
import type { WeightSource } from "../../weights/source.js";

/**
 * The head of the LAION aesthetic predictor (Schuhmann et al. 2022): linear layers 768-1024-128-64-16-1 without
 * activations, with dropout between them. It maps a normalized image embedding to a score of about 1 to 10.
 */
export interface AestheticConfig {
  readonly inFeatures: number;
  readonly layers: readonly { readonly index: number; readonly outFeatures: number }[];
}

/**
 * A head with the given widths and the layer indices of the reference. Dropout has no weights but takes an index after
 * each layer except the last two: with widths [768, 1024, 128, 64, 16, 1], the layers are 0, 2, 4, 6 and 7.
 */
export function aestheticConfig(widths: readonly [number, ...number[]]): AestheticConfig {
  const [inFeatures, ...outFeatures] = widths;
  const last = outFeatures.length - 1;
  return {
    inFeatures,
    layers: outFeatures.map((features, i) => ({ index: 2 * i - (i > 0 && i === last ? 1 : 0), outFeatures: features })),
  };
}

/**
 * Reads the sizes of a head from its tensors `layers.N.weight` [out, in] and `layers.N.bias`.
 * @throws InputError `tensor-missing` or `tensor-mismatch`
 */
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
        "tensor-mismatch",
        `${source.describe}: ${name} has the shape ${showShape(shape)}, but a layer of an aesthetic head is [out, in].`,
        { path: source.describe, tensor: name, found: showShape(shape), expected: "[out, in]" },
      );
    }
    layers.push({ index: Number(index), inFeatures, outFeatures });
  }
  layers.sort((a, b) => a.index - b.index);
  const first = layers[0];
  if (!first) {
    throw new InputError(
      "tensor-missing",
      `${source.describe}: has no tensor ${start}0.weight. ` +
        "An aesthetic head has linear layers named layers.0, layers.2, ….",
      { path: source.describe, tensor: `${start}0.weight` },
    );
  }
  for (const [i, { index, inFeatures }] of layers.entries()) {
    const before = layers[i - 1];
    if (before && before.outFeatures !== inFeatures) {
      throw new InputError(
        "tensor-mismatch",
        `${source.describe}: ${start}${index} takes ${inFeatures} features, ` +
          `but ${start}${before.index} returns ${before.outFeatures}.`,
        {
          path: source.describe,
          tensor: `${start}${index}.weight`,
          found: inFeatures,
          expected: before.outFeatures,
          previous: `${start}${before.index}.weight`,
        },
      );
    }
  }
  return { inFeatures: first.inFeatures, layers: layers.map(({ index, outFeatures }) => ({ index, outFeatures })) };
}

/** normalized image embedding [b, inFeatures] → score [b], or [b, n] if the last layer has n > 1 outputs */
export function aestheticScore(scope: Scope, { layers }: AestheticConfig, embedding: Value): Value {
  let h = embedding;
  for (const { index, outFeatures } of layers) h = linear(scope.at("layers").at(index), h, outFeatures);
  return h.shape[1] === 1 ? reshape(h, [-1]) : h;
}
