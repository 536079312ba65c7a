/** The keys of published config files that differ from the defaults of diffusers and transformers. */

const DOWN = "CrossAttnDownBlock2D";
const UP = "CrossAttnUpBlock2D";

/** Stable Diffusion 1.5, as in `stable-diffusion-v1-5/stable-diffusion-v1-5`. */
export const SD15 = {
  unet: {
    _class_name: "UNet2DConditionModel",
    sample_size: 64,
    block_out_channels: [320, 640, 1280, 1280],
    down_block_types: [DOWN, DOWN, DOWN, "DownBlock2D"],
    up_block_types: ["UpBlock2D", UP, UP, UP],
    layers_per_block: 2,
    cross_attention_dim: 768,
    attention_head_dim: 8,
  },
  vae: {
    _class_name: "AutoencoderKL",
    block_out_channels: [128, 256, 512, 512],
    down_block_types: new Array<string>(4).fill("DownEncoderBlock2D"),
    up_block_types: new Array<string>(4).fill("UpDecoderBlock2D"),
    layers_per_block: 2,
    latent_channels: 4,
    sample_size: 512,
    scaling_factor: 0.18215,
  },
  text: {
    architectures: ["CLIPTextModel"],
    model_type: "clip_text_model",
    hidden_size: 768,
    intermediate_size: 3072,
    num_attention_heads: 12,
    num_hidden_layers: 12,
    max_position_embeddings: 77,
    vocab_size: 49408,
    hidden_act: "quick_gelu",
  },
  scheduler: {
    _class_name: "DDIMScheduler",
    beta_schedule: "scaled_linear",
    beta_start: 0.00085,
    beta_end: 0.012,
    clip_sample: false,
    num_train_timesteps: 1000,
    set_alpha_to_one: false,
    steps_offset: 1,
  },
};

/** The U-Net of Stable Diffusion XL, as in `stabilityai/stable-diffusion-xl-base-1.0`. */
export const SDXL_UNET = {
  _class_name: "UNet2DConditionModel",
  sample_size: 128,
  block_out_channels: [320, 640, 1280],
  down_block_types: ["DownBlock2D", DOWN, DOWN],
  up_block_types: [UP, UP, "UpBlock2D"],
  layers_per_block: 2,
  transformer_layers_per_block: [1, 2, 10],
  cross_attention_dim: 2048,
  attention_head_dim: [5, 10, 20],
  use_linear_projection: true,
  addition_embed_type: "text_time",
  addition_time_embed_dim: 256,
  projection_class_embeddings_input_dim: 2816,
};

/** The towers of `openai/clip-vit-large-patch14`, and of the model in `HPS_v2_compressed.pt`. */
export const CLIPS = {
  "vit-l-14": {
    projection_dim: 768,
    vision_config: {
      projection_dim: 768,
      hidden_size: 1024,
      intermediate_size: 4096,
      num_attention_heads: 16,
      num_hidden_layers: 24,
      image_size: 224,
      patch_size: 14,
      hidden_act: "quick_gelu",
    },
    text_config: {
      hidden_size: 768,
      intermediate_size: 3072,
      num_attention_heads: 12,
      num_hidden_layers: 12,
      vocab_size: 49408,
      max_position_embeddings: 77,
      hidden_act: "quick_gelu",
    },
  },
  "vit-h-14": {
    projection_dim: 1024,
    vision_config: {
      projection_dim: 1024,
      hidden_size: 1280,
      intermediate_size: 5120,
      num_attention_heads: 16,
      num_hidden_layers: 32,
      image_size: 224,
      patch_size: 14,
      hidden_act: "gelu",
    },
    text_config: {
      hidden_size: 1024,
      intermediate_size: 4096,
      num_attention_heads: 16,
      num_hidden_layers: 24,
      vocab_size: 49408,
      max_position_embeddings: 77,
      hidden_act: "gelu",
    },
  },
} as const;

/** Widths of the published aesthetic head on ViT-L/14. */
export const AESTHETIC_WIDTHS = [768, 1024, 128, 64, 16, 1] as const;

export const CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073];
export const CLIP_STD = [0.26862954, 0.26130258, 0.27577711];
