import type { Value } from "../../graph/value.js";
import { embedding, layerNorm, linear } from "../../nn/layers.js";
import { NORMAL, type Scope } from "../../nn/scope.js";
import { add, constant, matmul, reshape, slice } from "../../ops/index.js";
import { fromNumbers, type HostTensor } from "../../tensor/host.js";
import type { ClipTextConfig } from "./config.js";
import { clipEncoder } from "./encoder.js";

/** CLIPTextModel: ids [b, n] int64 → last hidden state [b, n, c], the context of Stable Diffusion 1 and 2 */
export function clipText(scope: Scope, config: ClipTextConfig, ids: Value): Value {
  return clipTextStates(scope, config, ids).last;
}

export interface ClipTextStates {
  /** The state after the last layer and the final norm [b, n, c]. */
  readonly last: Value;
  /**
   * The state before the last layer, without norm [b, n, c]: transformers' `hidden_states[-2]`, the context of Stable
   * Diffusion XL.
   */
  readonly penultimate: Value;
}

/** ids [b, n] int64 → two hidden states [b, n, c] */
export function clipTextStates(scope: Scope, config: ClipTextConfig, ids: Value): ClipTextStates {
  const tokens = ids.shape[1] as number;
  if (tokens > config.maxPositions) {
    throw new TypeError(
      `clip: the input has ${tokens} tokens, but the text model has ${config.maxPositions} positions`,
    );
  }
  // transformers 5 saves a separate text model without the level "text_model". Older files and CLIPModel have it.
  const model = scope.has("embeddings.token_embedding.weight") ? scope : scope.at("text_model");
  const embeddings = model.at("embeddings");
  const words = embedding(embeddings.at("token_embedding"), ids, config.vocabSize, config.hiddenSize);
  const positions = embeddings
    .at("position_embedding")
    .parameter("weight", [config.maxPositions, config.hiddenSize], NORMAL);
  const embedded = add(words, slice(positions, 0, [0, tokens]));
  const states = clipEncoder(model.at("encoder"), config, embedded, causalMask(tokens));
  const [penultimate, final] = states.slice(-2) as [Value, Value];
  return { last: layerNorm(model.at("final_layer_norm"), final, config.layerNormEps), penultimate };
}

/** CLIPTextModelWithProjection's `text_embeds`: last [b, n, c], endOfText [b, n] one-hot → [b, projectionDim] */
export function projectedText(scope: Scope, config: ClipTextConfig, last: Value, endOfText: Value): Value {
  return linear(scope.at("text_projection"), pooledText(last, endOfText), config.projectionDim, { bias: false });
}

/** The state at the end of each text: hidden [b, n, c], endOfText [b, n] one-hot → [b, c] */
export function pooledText(hidden: Value, endOfText: Value): Value {
  const [batch, tokens, features] = hidden.shape as [number, number, number];
  return reshape(matmul(reshape(endOfText, [batch, 1, tokens]), hidden), [batch, features]);
}

/**
 * The end of each text, one-hot [b, n] as `pooledText` takes it: the position of the first end-of-text token. Old
 * configs have the wrong end-of-text id 2; for these the greatest id marks the end, as in transformers.
 */
export function endOfText(ids: readonly (readonly number[])[], { eosTokenId }: ClipTextConfig): HostTensor {
  const tokens = ids[0]?.length ?? 0;
  const rows = ids.flatMap((row) => {
    const end = row.indexOf(eosTokenId === 2 ? Math.max(...row) : eosTokenId);
    // transformers takes the argmax of "is the end", which is 0 if there is no end.
    return row.map((_, i) => (i === Math.max(end, 0) ? 1 : 0));
  });
  return fromNumbers(rows, [ids.length, tokens]);
}

/** [n, n]: 0 for a token itself and those before it, far below any attention score for those after it. */
function causalMask(tokens: number): Value {
  const values = Array.from({ length: tokens * tokens }, (_, i) => (i % tokens > Math.floor(i / tokens) ? -1e9 : 0));
  return constant(values, [tokens, tokens]);
}
