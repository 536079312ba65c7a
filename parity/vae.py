"""AutoencoderKL: encoder and decoder, and their gradients."""

import tempfile
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from golden import GOLDENS, Tensors, differentiate, normal, randomize, storable, write_golden
from safetensors.torch import save_file

TINY = dict(
    sample_size=16,
    block_out_channels=[8, 8, 16],
    down_block_types=["DownEncoderBlock2D"] * 3,
    up_block_types=["UpDecoderBlock2D"] * 3,
    layers_per_block=1,
    norm_num_groups=4,
    latent_channels=4,
    scaling_factor=0.18215,
)

# The published file of Stable Diffusion 1.5 has attention weights under the names of diffusers 0.10 and earlier.
FORMER_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def make_vae() -> None:
    name = "vae"
    vae = AutoencoderKL(**TINY).eval().requires_grad_(False)
    randomize(vae, seed=11)
    vae.save_pretrained(GOLDENS / name)
    check_former_names(vae)
    weights = dict(vae.named_parameters())

    def encode(x: Tensors) -> Tensors:
        posterior = vae.encode(x["image"]).latent_dist
        return {"mean": posterior.mean, "logvar": posterior.logvar}

    def decode(x: Tensors) -> Tensors:
        return {"decoded": vae.decode(x["latents"]).sample}

    encoder, encoder_error = differentiate(
        vae,
        encode,
        {"image": normal(12, 2, 3, 16, 16)},
        wrt=["image"],
        parameters={
            key: weights[key] for key in ["encoder.down_blocks.0.downsamplers.0.conv.weight", "quant_conv.weight"]
        },
        seed=13,
    )
    decoder, decoder_error = differentiate(
        vae,
        decode,
        {"latents": normal(14, 2, 4, 4, 4)},
        wrt=["latents"],
        parameters={
            key: weights[key] for key in ["post_quant_conv.weight", "decoder.mid_block.attentions.0.to_q.weight"]
        },
        seed=15,
    )
    write_golden(
        name,
        "AutoencoderKL by 4 in miniature: attention in the middle, as in Stable Diffusion's",
        encoder | decoder,
        {
            "input.image": "image in -1 … 1 [b, 3, 16, 16]",
            "output.mean": "posterior mean, not scaled [b, 4, 4, 4]",
            "output.logvar": "posterior log variance, clamped to -30 … 20",
            "gradient.image": "gradient by input.image of upstream.mean · mean + upstream.logvar · logvar",
            "input.latents": "latents, already divided by scaling_factor [b, 4, 4, 4]",
            "output.decoded": "decoded image, not clamped [b, 3, 16, 16]",
            "gradient.latents": "gradient by input.latents",
            "upstream.*": "gradient of the loss by the output of that name",
            "gradient.parameter.*": "gradient by the parameter of that name in diffusion_pytorch_model.safetensors",
        },
        float32_error=max(encoder_error, decoder_error),
        former_names=FORMER_NAMES,
    )


def check_former_names(vae: AutoencoderKL) -> None:
    """Writes the same model under the former names, which diffusers reads as well."""
    former = {}
    for name, x in vae.state_dict().items():
        for now, before in FORMER_NAMES.items():
            name = name.replace(f"attentions.0.{now}.", f"attentions.0.{before}.")
        former[name] = x
    with tempfile.TemporaryDirectory() as folder:
        vae.save_config(folder)
        save_file(storable(former), Path(folder) / "diffusion_pytorch_model.safetensors")
        loaded = AutoencoderKL.from_pretrained(folder).state_dict()
    assert all(torch.equal(x, loaded[name]) for name, x in vae.state_dict().items())
