import { z } from "zod";
import { count, depth, only, parseConfig, upTo } from "../../io/config-schema.js";
import { type Activation, activations } from "../../nn/layers.js";
import { labelsOf } from "../labels.js";

/** YOLOS (Fang et al. 2021, arXiv 2106.00666): a ViT with extra tokens for detections. */
export interface YolosConfig {
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly layers: number;
  readonly heads: number;
  readonly activation: Activation;
  readonly layerNormEps: number;
  /** Image height and width that the position embeddings were trained for. */
  readonly imageSize: readonly [number, number];
  readonly patchSize: number;
  readonly detectionTokens: number;
  readonly midPositions: boolean;
  readonly qkvBias: boolean;
  /** The class names by index. The class "no object" comes after the last one. */
  readonly labels: readonly string[];
}

const schema = z
  .object({
    hidden_size: count.default(768),
    intermediate_size: count.default(3072),
    num_hidden_layers: depth.default(12),
    num_attention_heads: count.default(12),
    hidden_act: z.enum(Object.keys(activations) as Activation[]).default("gelu"),
    layer_norm_eps: z.number().positive().default(1e-12),
    image_size: z.tuple([upTo(8192), upTo(8192)]).default([512, 864]),
    patch_size: upTo(256).default(16),
    num_channels: only(3),
    num_detection_tokens: upTo(4096).default(100),
    use_mid_position_embeddings: z.boolean().default(true),
    qkv_bias: z.boolean().default(true),
    id2label: z.record(z.string(), z.string()).default({}),
  })
  .refine(({ hidden_size, num_attention_heads }) => hidden_size % num_attention_heads === 0, {
    path: ["num_attention_heads"],
    error: "must divide hidden_size",
  });

/**
 * Parses the config.json of a YOLOS. `file` names it in messages.
 * @throws InputError `config-invalid`
 */
export function parseYolosConfig(json: unknown, file = "config.json"): YolosConfig {
  const config = parseConfig(schema, json, file);
  return {
    hiddenSize: config.hidden_size,
    intermediateSize: config.intermediate_size,
    layers: config.num_hidden_layers,
    heads: config.num_attention_heads,
    activation: config.hidden_act,
    layerNormEps: config.layer_norm_eps,
    imageSize: config.image_size,
    patchSize: config.patch_size,
    detectionTokens: config.num_detection_tokens,
    midPositions: config.use_mid_position_embeddings,
    qkvBias: config.qkv_bias,
    labels: labelsOf(config.id2label),
  };
}
