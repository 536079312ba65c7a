import { z } from "zod";
import { count, depth, only, parseConfig, upTo } from "../../io/config-schema.js";
import { type Activation, activations } from "../../nn/layers.js";
import type { WeightSource } from "../../weights/source.js";
import { labelsOf } from "../labels.js";
import { type ResNetConfig, timmResNet, transformersResNet } from "./resnet.js";

/**
 * DETR (Carion et al. 2020, arXiv 2005.12872): a ResNet and a transformer. Each query of the decoder is a detection.
 */
export interface DetrConfig {
  readonly backbone: ResNetConfig;
  readonly dModel: number;
  readonly encoder: DetrStackConfig;
  readonly decoder: DetrStackConfig;
  readonly activation: Activation;
  readonly queries: number;
  /** The class names by index. The class "no object" comes after the last one. */
  readonly labels: readonly string[];
}

export interface DetrStackConfig {
  readonly layers: number;
  readonly heads: number;
  readonly ffnDim: number;
}

const activation = z.enum(Object.keys(activations) as Activation[]).default("relu");

const schema = z
  .object({
    num_channels: only(3),
    d_model: count.multipleOf(4).default(256),
    encoder_layers: depth.default(6),
    encoder_attention_heads: count.default(8),
    encoder_ffn_dim: count.default(2048),
    decoder_layers: depth.default(6),
    decoder_attention_heads: count.default(8),
    decoder_ffn_dim: count.default(2048),
    activation_function: activation,
    num_queries: upTo(4096).default(100),
    position_embedding_type: z.literal("sine").default("sine"),
    id2label: z.record(z.string(), z.string()).default({}),
    dilation: z.boolean().default(false),
    use_timm_backbone: z.boolean().default(true),
    backbone_config: z.looseObject({ model_type: z.enum(["timm_backbone", "resnet"]) }).nullish(),
  })
  .superRefine(({ d_model, ...config }, context) => {
    for (const key of ["encoder_attention_heads", "decoder_attention_heads"] as const) {
      if (d_model % config[key] !== 0) {
        context.addIssue({
          code: "custom",
          path: [key],
          message: `${config[key]} does not divide d_model (${d_model})`,
        });
      }
    }
  });

/** Plain ResNets. Other models of the family (resnet50d, seresnet50, …) have another stem or more layers. */
const timmName = z
  .string()
  .regex(/^resnet(18|34|50|101|152)(\.|$)/, "supported: resnet18, resnet34, resnet50, resnet101, resnet152");
/** A list that ends with the last stage, which DETR reads. timm counts the stages from 1. */
const lastOf = (stages: number) =>
  z
    .array(z.int())
    .refine((indices) => [stages, -1].includes(indices.at(-1) ?? 0), `must end with ${stages}, the last stage`)
    .nullish();
const outputStride = z.union([z.literal(32), z.literal(16)]).nullish();

/** Before transformers 5, the backbone's settings were at the top level. */
const flatBackbone = z.object({
  backbone: timmName.nullish(),
  backbone_kwargs: z.object({ in_chans: only(3), out_indices: lastOf(4), output_stride: outputStride }).nullish(),
});
const timmBackbone = z.object({
  backbone_config: z.object({
    backbone: timmName,
    num_channels: only(3),
    out_indices: lastOf(4),
    output_stride: outputStride,
  }),
});

const ownBackbone = z.object({
  dilation: only(false),
  backbone_config: z
    .object({
      num_channels: only(3),
      embedding_size: count.default(64),
      hidden_sizes: z.array(count.multipleOf(4)).min(1).max(16).default([256, 512, 1024, 2048]),
      depths: z.array(depth).default([3, 4, 6, 3]),
      layer_type: z.enum(["bottleneck", "basic"]).default("bottleneck"),
      hidden_act: activation,
      downsample_in_first_stage: z.boolean().default(false),
      downsample_in_bottleneck: z.boolean().default(false),
      out_features: z.array(z.string()).nullish(),
    })
    .refine(({ hidden_sizes, depths }) => hidden_sizes.length === depths.length, {
      path: ["depths"],
      error: "must be as long as hidden_sizes",
    })
    .refine(({ depths, out_features }) => !out_features || out_features.at(-1) === `stage${depths.length}`, {
      path: ["out_features"],
      error: "must end with the last stage, which DETR reads",
    }),
});

/**
 * Parses a DETR's config.json. It has only the name of a timm backbone, so the backbone's sizes come from the tensors
 * of `weights` under `path`.
 * @throws InputError if the config is invalid or if the weights do not belong to it
 */
export function parseDetrConfig(json: unknown, weights: WeightSource, path: string, file = "config.json"): DetrConfig {
  const config = parseConfig(schema, json, file);
  return {
    backbone: parseBackbone(json, config, { weights, path, file }),
    dModel: config.d_model,
    encoder: {
      layers: config.encoder_layers,
      heads: config.encoder_attention_heads,
      ffnDim: config.encoder_ffn_dim,
    },
    decoder: {
      layers: config.decoder_layers,
      heads: config.decoder_attention_heads,
      ffnDim: config.decoder_ffn_dim,
    },
    activation: config.activation_function,
    queries: config.num_queries,
    labels: labelsOf(config.id2label),
  };
}

function parseBackbone(
  json: unknown,
  { dilation, use_timm_backbone, backbone_config }: z.output<typeof schema>,
  { weights, path, file }: { readonly weights: WeightSource; readonly path: string; readonly file: string },
): ResNetConfig {
  if (backbone_config?.model_type === "resnet" || !use_timm_backbone) {
    return transformersResNet(parseConfig(ownBackbone, json, file).backbone_config);
  }
  const { output_stride } = backbone_config
    ? parseConfig(timmBackbone, json, file).backbone_config
    : (parseConfig(flatBackbone, json, file).backbone_kwargs ?? {});
  // In DETR-DC5, the last stage is dilated and does not downsample.
  return timmResNet(weights, `${path}.${BACKBONE}`, { dilated: dilation || output_stride === 16 });
}

/** The backbone's prefix in the checkpoint, for both libraries. */
export const BACKBONE = "model.backbone.conv_encoder.model";
