import type { Value } from "../../graph/value.js";
import { activations, conv2d, layerNorm, linear } from "../../nn/layers.js";
import { NORMAL, type Scope } from "../../nn/scope.js";
import { add, attention, broadcastTo, constant, reshape, transpose, zeros } from "../../ops/index.js";
import { BACKBONE, type DetrConfig, type DetrStackConfig } from "./config.js";
import { resNet } from "./resnet.js";

/** DetrForObjectDetection's class scores: normalized pixels [b, 3, h, w] → logits [b, queries, labels + 1] */
export function detrLogits(scope: Scope, config: DetrConfig, pixels: Value): Value {
  const { dModel, queries, labels } = config;
  const model = scope.at("model");
  const features = resNet(scope.at(BACKBONE), config.backbone, pixels);
  const projected = conv2d(model.at("input_projection"), features, { outChannels: dModel, kernel: 1 });
  const [batch, , height, width] = projected.shape as [number, number, number, number];
  const positions = sinePositions(height, width, dModel);
  let memory = transpose(reshape(projected, [batch, dModel, height * width]), [0, 2, 1]);
  for (let i = 0; i < config.encoder.layers; i++) {
    memory = encoderLayer(model.at("encoder").at("layers").at(i), config, memory, positions);
  }

  // The learned queries act as position embeddings. The decoder's state starts at zero.
  const embedded = model.at("query_position_embeddings").parameter("weight", [queries, dModel], NORMAL);
  const query = broadcastTo(reshape(embedded, [1, queries, dModel]), [batch, queries, dModel]);
  const memoryKeys = add(memory, positions);
  let h = zeros([batch, queries, dModel]);
  for (let i = 0; i < config.decoder.layers; i++) {
    h = decoderLayer(model.at("decoder").at("layers").at(i), config, h, { query, memory, memoryKeys });
  }
  h = layerNorm(model.at("decoder").at("layernorm"), h);
  return linear(scope.at("class_labels_classifier"), h, labels.length + 1);
}

/** x [b, n, c], positions [1, n, c] → [b, n, c] */
function encoderLayer(scope: Scope, config: DetrConfig, x: Value, positions: Value): Value {
  const { heads } = config.encoder;
  const positioned = add(x, positions);
  const attended = attend(scope.at("self_attn"), heads, { query: positioned, key: positioned, value: x });
  const h = layerNorm(scope.at("self_attn_layer_norm"), add(x, attended));
  return layerNorm(scope.at("final_layer_norm"), add(h, feedForward(scope, config, config.encoder, h)));
}

/**
 * x [b, q, c] → same shape. `query` [b, q, c] is the position embedding of the queries, `memoryKeys` [b, n, c] is the
 * memory plus its position embedding.
 */
function decoderLayer(
  scope: Scope,
  config: DetrConfig,
  x: Value,
  { query, memory, memoryKeys }: { readonly query: Value; readonly memory: Value; readonly memoryKeys: Value },
): Value {
  const { heads } = config.decoder;
  const positioned = add(x, query);
  const attended = attend(scope.at("self_attn"), heads, { query: positioned, key: positioned, value: x });
  let h = layerNorm(scope.at("self_attn_layer_norm"), add(x, attended));
  const crossed = attend(scope.at("encoder_attn"), heads, { query: add(h, query), key: memoryKeys, value: memory });
  h = layerNorm(scope.at("encoder_attn_layer_norm"), add(h, crossed));
  return layerNorm(scope.at("final_layer_norm"), add(h, feedForward(scope, config, config.decoder, h)));
}

/** Multi-head attention: query [b, q, c], key and value [b, n, c] → [b, q, c] */
function attend(
  scope: Scope,
  heads: number,
  { query, key, value }: { readonly query: Value; readonly key: Value; readonly value: Value },
): Value {
  const features = query.shape[2] as number;
  const project = (name: string, x: Value) => linear(scope.at(name), x, features);
  const y = attention(project("q_proj", query), project("k_proj", key), project("v_proj", value), heads);
  return project("out_proj", y);
}

function feedForward(scope: Scope, { activation, dModel }: DetrConfig, { ffnDim }: DetrStackConfig, x: Value): Value {
  return linear(scope.at("fc2"), activations[activation](linear(scope.at("fc1"), x, ffnDim)), dModel);
}

const TEMPERATURE = 10000;

/**
 * Sinusoidal position embedding (Vaswani et al. 2017, section 3.5) of the row in the first half of the features and of
 * the column in the second half. Positions are scaled so that the last row and column are at 2π.
 * → [1, height · width, features]
 */
function sinePositions(height: number, width: number, features: number): Value {
  const half = features / 2;
  const data = new Float64Array(height * width * features);
  const wave = (position: number, extent: number, feature: number) => {
    const angle = ((position + 1) / (extent + 1e-6)) * 2 * Math.PI;
    const slowed = angle / TEMPERATURE ** ((2 * Math.floor(feature / 2)) / half);
    return feature % 2 === 0 ? Math.sin(slowed) : Math.cos(slowed);
  };
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      const start = (row * width + column) * features;
      for (let feature = 0; feature < half; feature++) {
        data[start + feature] = wave(row, height, feature);
        data[start + half + feature] = wave(column, width, feature);
      }
    }
  }
  return constant(data, [1, height * width, features]);
}
