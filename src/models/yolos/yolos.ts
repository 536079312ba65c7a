import type { Value } from "../../graph/value.js";
import { activations, layerNorm, linear } from "../../nn/layers.js";
import { NORMAL, type Scope } from "../../nn/scope.js";
import {
  add,
  attention,
  bicubicMatrix,
  broadcastTo,
  concat,
  matmul,
  relu,
  reshape,
  slice,
  transpose,
} from "../../ops/index.js";
import { patchEmbedding } from "../patches.js";
import type { YolosConfig } from "./config.js";

/** YolosForObjectDetection's class scores: normalized pixels [b, 3, h, w] → logits [b, detections, labels + 1] */
export function yolosLogits(scope: Scope, config: YolosConfig, pixels: Value): Value {
  const { hiddenSize, patchSize, detectionTokens, layers, layerNormEps, midPositions } = config;
  const [batch, , height, width] = pixels.shape as [number, number, number, number];
  const grid = [height / patchSize, width / patchSize] as const;
  const model = scope.at("vit");
  const embeddings = model.at("embeddings");

  const patches = patchEmbedding(embeddings.at("patch_embeddings").at("projection"), pixels, {
    patchSize,
    features: hiddenSize,
    bias: true,
  });
  const tokens = (name: string, count: number) =>
    broadcastTo(embeddings.parameter(name, [1, count, hiddenSize], NORMAL), [batch, count, hiddenSize]);
  const all = concat([tokens("cls_token", 1), patches, tokens("detection_tokens", detectionTokens)], 1);

  const [trainedHeight, trainedWidth] = config.imageSize.map((extent) => Math.floor(extent / patchSize)) as [
    number,
    number,
  ];
  const positionCount = 1 + trainedHeight * trainedWidth + detectionTokens;
  const positions = embeddings.parameter("position_embeddings", [1, positionCount, hiddenSize], NORMAL);
  let h = add(all, interpolated(positions, config, grid));
  // One position embedding for each layer except the last.
  const middle = midPositions
    ? model.at("encoder").parameter("mid_position_embeddings", [layers - 1, 1, positionCount, hiddenSize], NORMAL)
    : undefined;
  for (let i = 0; i < layers; i++) {
    h = encoderLayer(model.at("encoder").at("layer").at(i), config, h);
    if (middle && i < layers - 1) {
      const own = reshape(slice(middle, 0, [i, i + 1]), [1, positionCount, hiddenSize]);
      h = add(h, interpolated(own, config, grid));
    }
  }
  h = layerNorm(model.at("layernorm"), h, layerNormEps);
  const count = h.shape[1] as number;
  return classScores(scope.at("class_labels_classifier"), config, slice(h, 1, [count - detectionTokens, count]));
}

/**
 * Resizes position embeddings [1, 1 + patches + detections, c] from the trained grid to another grid. Those of the
 * patches are interpolated bicubically, like `interpolate` with `align_corners=False` in PyTorch.
 */
function interpolated(positions: Value, config: YolosConfig, [rows, columns]: readonly [number, number]): Value {
  const { hiddenSize, patchSize, detectionTokens, imageSize } = config;
  const [fromRows, fromColumns] = imageSize.map((extent) => Math.floor(extent / patchSize)) as [number, number];
  if (rows === fromRows && columns === fromColumns) return positions;
  const patches = fromRows * fromColumns;
  // [c, rows, columns], so that the matrix products act on rows and columns.
  const plane = transpose(
    reshape(slice(positions, 1, [1, 1 + patches]), [fromRows, fromColumns, hiddenSize]),
    [2, 0, 1],
  );
  const tall = matmul(bicubicMatrix(fromRows, rows), plane);
  const resized = matmul(tall, bicubicMatrix(fromColumns, columns), { transposeB: true });
  const tokens = reshape(transpose(resized, [1, 2, 0]), [1, rows * columns, hiddenSize]);
  const detections = slice(positions, 1, [1 + patches, 1 + patches + detectionTokens]);
  return concat([slice(positions, 1, [0, 1]), tokens, detections], 1);
}

function encoderLayer(scope: Scope, config: YolosConfig, x: Value): Value {
  const { hiddenSize, intermediateSize, heads, activation, layerNormEps, qkvBias } = config;
  const normed = layerNorm(scope.at("layernorm_before"), x, layerNormEps);
  const projections = scope.at("attention").at("attention");
  const [query, key, value] = ["query", "key", "value"].map((name) =>
    linear(projections.at(name), normed, hiddenSize, { bias: qkvBias }),
  ) as [Value, Value, Value];
  const mixed = linear(scope.at("attention").at("output").at("dense"), attention(query, key, value, heads), hiddenSize);
  const h = add(x, mixed);
  const wide = linear(
    scope.at("intermediate").at("dense"),
    layerNorm(scope.at("layernorm_after"), h, layerNormEps),
    intermediateSize,
  );
  return add(h, linear(scope.at("output").at("dense"), activations[activation](wide), hiddenSize));
}

/** x [b, detections, c] → logits [b, detections, labels + 1] */
function classScores(scope: Scope, { hiddenSize, labels }: YolosConfig, x: Value): Value {
  let h = x;
  for (let i = 0; i < 2; i++) h = relu(linear(scope.at("layers").at(i), h, hiddenSize));
  return linear(scope.at("layers").at(2), h, labels.length + 1);
}
