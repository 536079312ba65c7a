"""CLIP: the text encoder alone (as Stable Diffusion uses it) and both towers with their projections."""

import torch
from golden import GOLDENS, Tensors, differentiate, normal, randomize, storable, write_golden
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel

TEXT = dict(
    vocab_size=20,
    hidden_size=12,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_position_embeddings=7,
    projection_dim=8,
    bos_token_id=0,
)
VISION = dict(
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    image_size=12,
    patch_size=4,
    projection_dim=8,
)

# 19 is the highest id, so it is the end token under both rules. 3 is not the highest, so only the exact rule finds it.
INPUT_IDS = [[0, 5, 11, 19, 19, 19, 19], [0, 7, 3, 18, 4, 9, 19]]

POOLING = {
    "highest_id": "eos_token_id is 2, as in the configs of Stable Diffusion 1.5 and of OpenAI's CLIP before "
    "transformers' pull request 24773: pool at the first position of the highest id",
    "first_eos": "pool at the first position of eos_token_id",
}


def make_clip() -> None:
    make_text("clip-text-quick-gelu", hidden_act="quick_gelu", eos_token_id=2, prefix="text_model.")
    make_text("clip-text-gelu", hidden_act="gelu", eos_token_id=3, prefix="")
    make_model("clip-quick-gelu", hidden_act="quick_gelu", eos_token_id=2)
    make_model("clip-gelu", hidden_act="gelu", eos_token_id=19)


def make_text(name: str, *, hidden_act: str, eos_token_id: int, prefix: str) -> None:
    """In published Stable Diffusion folders, tensor names begin with `text_model.`, and there are unused position_ids.
    transformers 5 loads both, but does not save them. There is a golden of each form."""
    config = CLIPTextConfig(**TEXT, hidden_act=hidden_act, eos_token_id=eos_token_id)
    model = CLIPTextModel(config).eval().requires_grad_(False)
    randomize(model, seed=21)
    model.save_pretrained(GOLDENS / name)
    stored = {f"{prefix}{key}": value for key, value in model.state_dict().items()}
    if prefix:
        stored[f"{prefix}embeddings.position_ids"] = torch.arange(config.max_position_embeddings)[None]
    save_file(storable(stored), GOLDENS / name / "model.safetensors", metadata={"format": "pt"})
    reloaded = CLIPTextModel.from_pretrained(GOLDENS / name).state_dict()
    assert all(torch.equal(value, reloaded[key]) for key, value in model.state_dict().items())

    input_ids = torch.tensor(INPUT_IDS)
    if eos_token_id == 3:
        input_ids[0, 3] = 3

    def call(x: Tensors) -> Tensors:
        y = model(x["input_ids"])
        return {"last_hidden_state": y.last_hidden_state, "pooled": y.pooler_output}

    weights = dict(model.named_parameters())
    trained = ["embeddings.token_embedding.weight", "encoder.layers.0.self_attn.q_proj.weight", "final_layer_norm.bias"]
    tensors, error = differentiate(
        model,
        call,
        {"input_ids": input_ids},
        wrt=[],
        parameters={f"{prefix}{key}": weights[key] for key in trained},
        seed=22,
    )
    write_golden(
        name,
        f"CLIPTextModel with {hidden_act}; names in model.safetensors begin with '{prefix}'",
        tensors,
        {
            "input.input_ids": "token ids, padded [b, 7]",
            "output.last_hidden_state": "after final_layer_norm [b, 7, 12]",
            "output.pooled": "last_hidden_state at the end of the text [b, 12]",
            "upstream.*": "gradient of the loss by the output of that name",
            "gradient.parameter.*": "gradient by the parameter of that name in model.safetensors",
        },
        float32_error=error,
        pooling=POOLING["highest_id" if eos_token_id == 2 else "first_eos"],
    )


def make_model(name: str, *, hidden_act: str, eos_token_id: int) -> None:
    config = CLIPConfig(
        text_config=TEXT | dict(hidden_act=hidden_act, eos_token_id=eos_token_id),
        vision_config=VISION | dict(hidden_act=hidden_act),
        projection_dim=8,
    )
    model = CLIPModel(config).eval().requires_grad_(False)
    randomize(model, seed=23)
    model.save_pretrained(GOLDENS / name)

    def call(x: Tensors) -> Tensors:
        y = model(input_ids=x["input_ids"], pixel_values=x["pixel_values"])
        return {
            "image_features": y.vision_model_output.pooler_output,  # transformers 5 projects in place
            "text_features": y.text_model_output.pooler_output,
            "image_embeds": y.image_embeds,
            "text_embeds": y.text_embeds,
            "logits_per_image": y.logits_per_image,
        }

    weights = dict(model.named_parameters())
    trained = ["logit_scale", "visual_projection.weight", "text_projection.weight"] + [
        f"vision_model.embeddings.{key}" for key in ["class_embedding", "patch_embedding.weight"]
    ]
    tensors, error = differentiate(
        model,
        call,
        {"input_ids": torch.tensor(INPUT_IDS), "pixel_values": normal(24, 2, 3, 12, 12)},
        wrt=["pixel_values"],
        parameters={key: weights[key] for key in trained},
        seed=25,
    )
    write_golden(
        name,
        f"CLIPModel with {hidden_act}",
        tensors,
        {
            "input.input_ids": "token ids, padded [b, 7]",
            "input.pixel_values": "normalised image [b, 3, 12, 12]",
            "output.image_features": "after visual_projection [b, 8]; CLIPVisionModelWithProjection's image_embeds",
            "output.text_features": "after text_projection [b, 8]",
            "output.image_embeds": "image_features over their L2 norm",
            "output.text_embeds": "text_features over their L2 norm",
            "output.logits_per_image": "exp(logit_scale) · image_embeds · text_embedsᵀ [images, texts]",
            "gradient.pixel_values": "gradient by input.pixel_values of the sum of all outputs times their upstreams",
            "upstream.*": "gradient of the loss by the output of that name",
            "gradient.parameter.*": "gradient by the parameter of that name in model.safetensors",
        },
        float32_error=error,
        pooling=POOLING["highest_id" if eos_token_id == 2 else "first_eos"],
    )
