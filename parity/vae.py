"""AutoencoderKL: encoder and decoder, and their gradients."""

from diffusers import AutoencoderKL
from golden import GOLDENS, Tensors, differentiate, normal, randomize, write_golden

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


def make_vae() -> None:
    name = "vae"
    vae = AutoencoderKL(**TINY).eval().requires_grad_(False)
    randomize(vae, seed=11)
    vae.save_pretrained(GOLDENS / name)
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
    )
