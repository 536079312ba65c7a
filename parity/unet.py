"""UNet2DConditionModel: whole models, single blocks, and the gradients of LoRA factors."""

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

from golden import GOLDENS, Tensors, differentiate, generator, normal, randomize, storable, write_golden

LORA_TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]

# A smaller form of the embedded model: attention only at the two inner levels, and a resolution for each width.
EMBEDDED = dict(
    sample_size=8,
    block_out_channels=[8, 16, 16],
    down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    layers_per_block=1,
    norm_num_groups=4,
    cross_attention_dim=12,
    attention_head_dim=2,
)

# The blocks of Stable Diffusion 1.5. As in its config, attention_head_dim is the number of heads.
SD15 = dict(
    sample_size=16,
    block_out_channels=[8, 8, 8, 8],
    down_block_types=["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    up_block_types=["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    layers_per_block=2,
    norm_num_groups=2,
    cross_attention_dim=12,
    attention_head_dim=2,
)

# Stable Diffusion 2: linear projections around the transformer, and a number of heads for each level.
SD2 = EMBEDDED | dict(
    block_out_channels=[4, 8, 8], norm_num_groups=2, use_linear_projection=True, attention_head_dim=[1, 2, 4]
)

MEANING = {
    "input.sample": "noisy latents [b, 4, h, w]",
    "input.timestep": "training timestep of each sample [b]",
    "input.encoder_hidden_states": "text embeddings [b, tokens, cross_attention_dim]",
    "upstream.sample": "gradient of the loss by output.sample",
    "output.sample": "predicted noise [b, 4, h, w]",
    "gradient.sample": "gradient by input.sample",
    "gradient.encoder_hidden_states": "gradient by input.encoder_hidden_states",
    "gradient.parameter.*": "gradient by the parameter of that name in diffusion_pytorch_model.safetensors",
}

LORA_MEANING = {
    "lora.output.sample": "predicted noise with the adapter lora/pytorch_lora_weights.safetensors (scale 1)",
    "lora.gradient.sample": "gradient by input.sample with the adapter, same upstream gradient",
    "lora.gradient.encoder_hidden_states": "gradient by input.encoder_hidden_states with the adapter",
    "lora.gradient.unet.*": "gradient by the adapter's tensor of that name",
}

BLOCK_MEANING = {
    "block.*": "one module alone, block.<path>.<input|upstream|output|gradient>.<name>; the arguments are those that "
    "the whole model gave it",
}


def make_unets() -> None:
    make_unet("unet-embedded", "the embedded model's shape in miniature", EMBEDDED, timesteps=[481, 21], blocks=True)
    make_unet("unet-sd15", "Stable Diffusion 1.5's blocks in miniature", SD15, timesteps=[981, 981])
    make_unet("unet-sd2", "Stable Diffusion 2's options in miniature", SD2, timesteps=[1, 999])


def make_unet(name: str, about: str, config: dict, *, timesteps: list[int], blocks: bool = False) -> None:
    unet = UNet2DConditionModel(**config).eval().requires_grad_(False)
    randomize(unet, seed=1)
    unet.save_pretrained(GOLDENS / name)

    size = config["sample_size"]
    inputs = {
        "sample": normal(2, 2, 4, size, size),
        "timestep": torch.tensor(timesteps),
        "encoder_hidden_states": normal(3, 2, 5, config["cross_attention_dim"]),
    }
    wrt = ["sample", "encoder_hidden_states"]
    weights = dict(unet.named_parameters())
    trained = [
        "conv_in.weight",
        "time_embedding.linear_1.bias",
        "down_blocks.0.downsamplers.0.conv.weight",
        "mid_block.resnets.0.norm1.weight",
        "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight",
        "conv_out.bias",
    ]

    def call(x: Tensors) -> Tensors:
        return {"sample": unet(x["sample"], x["timestep"], x["encoder_hidden_states"]).sample}

    tensors, error = differentiate(
        unet, call, inputs, wrt=wrt, parameters={key: weights[key] for key in trained}, seed=4
    )
    meaning = dict(MEANING)
    if blocks:
        tensors |= make_blocks(unet, inputs)
        meaning |= BLOCK_MEANING

    with_lora, lora_error = differentiate_lora(name, unet, call, inputs, wrt)
    tensors |= with_lora
    write_golden(
        name,
        f"UNet2DConditionModel: {about}",
        tensors,
        meaning | LORA_MEANING,
        float32_error=max(error, lora_error),
        lora={"rank": 2, "alpha": 2, "targets": LORA_TARGETS},
    )


def differentiate_lora(name: str, unet, call, inputs: Tensors, wrt: list[str]) -> tuple[Tensors, float]:
    """Adds a PEFT adapter to `unet`. Its B is not zero, so that A has a gradient as well."""
    unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=LORA_TARGETS))
    factors = {peft_key(key): p for key, p in unet.named_parameters() if "lora_" in key}
    random = generator(5)
    with torch.no_grad():
        for _, factor in sorted(factors.items()):
            factor.copy_(0.3 * torch.randn(factor.shape, generator=random))

    # Checks the names against PEFT's own export, which diffusers' save_lora_adapter writes.
    assert {f"unet.{key}" for key in get_peft_model_state_dict(unet, adapter_name="default")} == set(factors)
    folder = GOLDENS / name / "lora"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(storable(factors), folder / "pytorch_lora_weights.safetensors")

    tensors, error = differentiate(unet, call, inputs, wrt=wrt, parameters=factors, seed=4)
    kept = {
        f"lora.{key.replace('gradient.parameter.', 'gradient.')}": value
        for key, value in tensors.items()
        if key.startswith(("output.", "gradient."))
    }
    return kept, error


def peft_key(parameter: str) -> str:
    """`down_blocks…to_q.lora_A.default.weight` → `unet.down_blocks…to_q.lora_A.weight`."""
    return f"unet.{parameter.replace('.default', '')}"


# The arguments of each block, in the order in which the U-Net passes them
BLOCKS = {
    "time_embedding": ["sample"],
    "down_blocks.0.resnets.0": ["hidden_states", "temb"],
    "down_blocks.1.resnets.0": ["hidden_states", "temb"],  # 8 → 16 channels: with conv_shortcut
    "down_blocks.0.downsamplers.0": ["hidden_states"],
    "down_blocks.1.attentions.0": ["hidden_states", "encoder_hidden_states"],
    "up_blocks.0.upsamplers.0": ["hidden_states"],
}


def make_blocks(unet, inputs: Tensors) -> Tensors:
    unet.to(torch.float64)
    seen: dict[str, Tensors] = {}
    time_projection: Tensors = {}

    def capture(path: str, names: list[str]):
        def hook(_module, args, kwargs):
            given = dict(zip(names, args, strict=False)) | {k: v for k, v in kwargs.items() if k in names}
            seen[path] = {key: given[key].detach().float() for key in names}

        return hook

    modules = dict(unet.named_modules())
    handles = [
        modules[path].register_forward_pre_hook(capture(path, names), with_kwargs=True)
        for path, names in BLOCKS.items()
    ]
    handles.append(unet.time_proj.register_forward_hook(lambda _m, _a, y: time_projection.update(output=y)))
    unet(inputs["sample"].double(), inputs["timestep"], inputs["encoder_hidden_states"].double())
    for handle in handles:
        handle.remove()

    tensors = {
        "block.time_proj.input.timesteps": inputs["timestep"],
        "block.time_proj.output": time_projection["output"],
    }
    for path, names in BLOCKS.items():
        block = modules[path]

        def call(x: Tensors, block=block) -> Tensors:
            y = block(**x) if "encoder_hidden_states" in x else block(*x.values())
            return {"hidden_states": y[0] if isinstance(y, tuple) else getattr(y, "sample", y)}

        recorded, _ = differentiate(block, call, seen[path], wrt=names, seed=6)
        tensors |= {f"block.{path}.{key}": value for key, value in recorded.items()}
    unet.to(torch.float32)
    return tensors
