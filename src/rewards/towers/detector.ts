/** Opens an object detector for a reward: class probabilities of its detections. */
import { join } from "node:path";
import { z } from "zod";
import type { Value } from "../../graph/value.js";
import { only, parseConfig } from "../../io/config-schema.js";
import { parseDetrConfig } from "../../models/detr/config.js";
import { detrLogits } from "../../models/detr/detr.js";
import { parseYolosConfig } from "../../models/yolos/config.js";
import { yolosLogits } from "../../models/yolos/yolos.js";
import { frozenScope, type Scope } from "../../nn/scope.js";
import { softmax } from "../../ops/index.js";
import { openWeights, readConfig } from "../../weights/folder.js";
import { modelFiles } from "../../weights/hub/model-files.js";
import { type WeightSource, withPrefix } from "../../weights/source.js";
import type { OpenContext } from "../kind.js";
import { parsePreprocessor, preprocess } from "../user/onnx-preprocessing.js";

export interface Detector {
  readonly path: string;
  /** Names of the classes, by index. */
  readonly labels: readonly string[];
  readonly weights: WeightSource;
  /** images [b, 3, h, w] in 0 … 1 → probabilities [b, detections, labels + 1]; the last class is "no object" */
  detect(images: Value): Value;
}

const modelType = z.looseObject({ model_type: z.enum(["yolos", "detr"]) });

/** Defaults for keys that preprocessor_config.json lacks: ImageNet's statistics and the training size of these detectors. */
const DEFAULT_PREPROCESSOR = {
  image_mean: [0.485, 0.456, 0.406],
  image_std: [0.229, 0.224, 0.225],
  size: { shortest_edge: 800, longest_edge: 1333 },
  max_size: 1333,
};

/** Settings that crop or pad are not supported. */
const unpadded = z.looseObject({ do_center_crop: only(false), pad_size: z.null().optional() });

/**
 * Opens a detector from a folder in transformers' layout.
 *
 * @param size shorter side of the resized images in pixels; null: that of preprocessor_config.json
 * @throws InputError if a file is missing, or the model or its preprocessing is not supported.
 */
export async function openDetector(
  location: string,
  size: number | null,
  { find, root }: OpenContext,
): Promise<Detector> {
  const path = await find(location, modelFiles);
  const file = join(path, "config.json");
  const json = await readConfig(path, z.unknown());
  const weights = withPrefix(await openWeights(path), `${root}.detector.`);
  const scope = frozenScope(weights, `${root}.detector`);
  const preprocessorFile = join(path, "preprocessor_config.json");
  const given = parseConfig(
    unpadded,
    await readConfig(path, z.unknown(), "preprocessor_config.json"),
    preprocessorFile,
  );
  const own = parsePreprocessor({ ...DEFAULT_PREPROCESSOR, ...given }, preprocessorFile);
  const edge = size === null ? own.shortestEdge?.edge : size;
  const longest = own.shortestEdge?.longest ?? DEFAULT_PREPROCESSOR.max_size;
  const model = architecture(parseConfig(modelType, json, file).model_type, json, { file, weights, root: scope.path });
  return {
    path,
    labels: model.labels,
    weights,
    detect(images) {
      const [, , height, width] = images.shape as [number, number, number, number];
      const [rows, columns] =
        edge === undefined ? (own.size ?? [height, width]) : sizeWithin(height, width, { shortest: edge, longest });
      const toMultiple = (extent: number) => Math.max(model.unit, Math.floor(extent / model.unit) * model.unit);
      const pixels = preprocess(
        images,
        {
          size: [toMultiple(rows), toMultiple(columns)],
          shortestEdge: undefined,
          crop: undefined,
          resize: own.resize ?? "bilinear",
          antialias: false,
          range: own.range ?? [0, 1],
          mean: own.mean ?? [0, 0, 0],
          std: own.std ?? [1, 1, 1],
          layout: "nchw",
          channels: "rgb",
        },
        path,
      );
      return softmax(model.logits(scope, pixels));
    },
  };
}

interface Architecture {
  readonly labels: readonly string[];
  /** Both sides of an image must be a multiple of this number of pixels. */
  readonly unit: number;
  logits(scope: Scope, pixels: Value): Value;
}

function architecture(
  type: z.output<typeof modelType>["model_type"],
  json: unknown,
  { file, weights, root }: { readonly file: string; readonly weights: WeightSource; readonly root: string },
): Architecture {
  switch (type) {
    case "yolos": {
      const config = parseYolosConfig(json, file);
      const logits = (scope: Scope, pixels: Value) => yolosLogits(scope, config, pixels);
      return { labels: config.labels, unit: config.patchSize, logits };
    }
    case "detr": {
      const config = parseDetrConfig(json, weights, root, file);
      const logits = (scope: Scope, pixels: Value) => detrLogits(scope, config, pixels);
      return { labels: config.labels, unit: 1, logits };
    }
  }
}

/** The size with a shorter side of `shortest` and a longer side of at most `longest`, rounded as in transformers. */
export function sizeWithin(
  height: number,
  width: number,
  { shortest, longest }: { readonly shortest: number; readonly longest: number },
): [number, number] {
  const shorter = Math.min(height, width);
  const scale = Math.min(shortest / shorter, longest / Math.max(height, width));
  const scaled = (extent: number) =>
    Math.max(1, extent === shorter ? Math.round(extent * scale) : Math.floor(extent * scale + 1e-9));
  return [scaled(height), scaled(width)];
}
