/** An object detector opened for a reward: how likely each of its detections is of each class. */
import { join } from "node:path";
import { z } from "zod";
import type { Value } from "../graph/value.js";
import { parseConfig } from "../models/config.js";
import { parseYolosConfig } from "../models/yolos/config.js";
import { yolosLogits } from "../models/yolos/yolos.js";
import { frozenScope, type Scope } from "../nn/scope.js";
import { constant, div, resizeBilinear, softmax, sub } from "../ops/index.js";
import { openWeights, readConfig } from "../weights/folder.js";
import { modelFiles } from "../weights/hub/model-files.js";
import { type WeightSource, withPrefix } from "../weights/source.js";
import type { Opening } from "./kind.js";

export interface Detector {
  readonly path: string;
  /** Class number i is labels[i]. */
  readonly labels: readonly string[];
  readonly weights: WeightSource;
  /** images [b, 3, h, w] in 0 … 1 → probabilities [b, detections, labels + 1], the last being "no object" */
  detect(images: Value): Value;
}

const modelType = z.looseObject({ model_type: z.enum(["yolos"]) });

const edge = z.int().min(1).max(4096);
const preprocessor = z.looseObject({
  // ImageNet's, which such detectors are trained with.
  image_mean: z.array(z.number()).length(3).default([0.485, 0.456, 0.406]),
  image_std: z.array(z.number().positive()).length(3).default([0.229, 0.224, 0.225]),
  // Older files give the shorter side alone, and the longer one's limit beside it.
  size: z
    .union([edge, z.looseObject({ shortest_edge: edge.default(800), longest_edge: edge.default(1333) })])
    .default({ shortest_edge: 800, longest_edge: 1333 }),
  max_size: edge.optional(),
});

/** From a folder in transformers' layout. `size`: the shorter side that pictures are resized to; null: the folder's own. */
export async function openDetector(place: string, size: number | null, { find, root }: Opening): Promise<Detector> {
  const path = await find(place, modelFiles);
  const file = join(path, "config.json");
  const json = await readConfig(path, z.unknown());
  const weights = withPrefix(await openWeights(path), `${root}.detector.`);
  const scope = frozenScope(weights, `${root}.detector`);
  const seen = parseConfig(preprocessor, await readConfig(path, z.unknown(), "preprocessor_config.json"), path);
  const own = typeof seen.size === "number" ? seen.size : seen.size.shortest_edge;
  const longest = typeof seen.size === "number" ? (seen.max_size ?? 1333) : seen.size.longest_edge;
  const model = architecture(parseConfig(modelType, json, file).model_type, json, file);
  return {
    path,
    labels: model.labels,
    weights,
    detect(images) {
      const [, , height, width] = images.shape as [number, number, number, number];
      const target = sizeWithin(height, width, { shortest: size ?? own, longest, unit: model.unit });
      const resized = target[0] === height && target[1] === width ? images : resizeBilinear(images, target);
      const perChannel = (values: readonly number[]) => constant(values, [1, 3, 1, 1]);
      const pixels = div(sub(resized, perChannel(seen.image_mean)), perChannel(seen.image_std));
      return softmax(model.logits(scope, pixels));
    },
  };
}

interface Architecture {
  readonly labels: readonly string[];
  /** What both sides must be a multiple of. */
  readonly unit: number;
  logits(scope: Scope, pixels: Value): Value;
}

function architecture(type: z.output<typeof modelType>["model_type"], json: unknown, file: string): Architecture {
  switch (type) {
    case "yolos": {
      const config = parseYolosConfig(json, file);
      const logits = (scope: Scope, pixels: Value) => yolosLogits(scope, config, pixels);
      return { labels: config.labels, unit: config.patchSize, logits };
    }
  }
}

/** The size whose shorter side is `shortest`, unless the longer one would pass its limit; both multiples of `unit`. */
export function sizeWithin(
  height: number,
  width: number,
  { shortest, longest, unit }: { readonly shortest: number; readonly longest: number; readonly unit: number },
): [number, number] {
  const scale = Math.min(shortest / Math.min(height, width), longest / Math.max(height, width));
  const whole = (extent: number) => Math.max(unit, Math.floor((extent * scale + 1e-9) / unit) * unit);
  return [whole(height), whole(width)];
}
