/** Recognizes models and adapters of other architectures, by a part of the names of their tensors. */

const ARCHITECTURES: readonly (readonly [RegExp, string])[] = [
  [/(^|[._])(double_blocks|single_blocks|single_transformer_blocks)[._]/, "FLUX"],
  [/(^|[._])joint_blocks[._]/, "Stable Diffusion 3"],
  [/(^|[._])transformer_blocks[._]\d+[._](attn[._]add_[qkv]_proj|norm1_context)\b/, "Stable Diffusion 3"],
  [/(^|[._])(adaln_single|scale_shift_table|caption_projection)\b/, "PixArt"],
  [/(^|[._])(noise_refiner|context_refiner)[._]/, "Lumina"],
  [/(^|\.)(down_blocks|up_blocks)\.\d+\.\d+\.(channelwise|kv_mapper)\b/, "Stable Cascade"],
  [/(^|[._])blocks[._]\d+[._](cross_attn|self_attn)[._][qkvo]\b/, "Wan"],
];

/** The name of the architecture; undefined if no name of another one is found. */
export function architectureOf(names: readonly string[]): string | undefined {
  return ARCHITECTURES.find(([pattern]) => names.some((name) => pattern.test(name)))?.[1];
}
