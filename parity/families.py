"""Makes a tiny pipeline of each model family, and computes results of it in PyTorch, diffusers and PEFT.

The folder of a family holds

    model/                  a pipeline as save_pretrained writes it, with random weights
    adapter.safetensors     a LoRA of its U-Net under PEFT's names, both factors random
    reference.json          prompts, sizes and settings of the computation
    reference.safetensors   inputs and results; `MEANING` describes each tensor

`make_families()` writes the goldens under test/goldens/families. As a program it writes families with other random
weights, for `npm run parity`:

    python parity/families.py --out FOLDER [--seed N] [family …]
"""

import argparse
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
from alignprop import Aesthetic, Settings, Trainer
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from golden import GOLDENS, Tensors, generator, randomize, relative_error, storable, versions, write_json
from safetensors.torch import save_file
from tiny_sd import END, MERGES, REWARD_CLIP, REWARD_HEAD, START, make_reward, save_tokenizer, vocabulary
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

FAMILIES = GOLDENS / "families"

PROMPTS = ["a cat!", "two dogs and a horse"]
BATCH = len(PROMPTS)
TIMESTEP = 481
RANK = 2

MEANING = {
    "text.text": "the prompts as the U-Net attends to them [2, 77, d]",
    "text.pooled": "the prompts as one vector each [2, p] (XL)",
    "text.unconditional": "the same of the negative prompt [1, 77, d]; zeros where the pipeline forces them",
    "text.unconditional_pooled": "[1, p] (XL)",
    "unet.latents": "input of one U-Net call with the adapter, without guidance [2, 4, h, w]",
    "unet.time_ids": "original size, crop and target size [2, 6] (XL)",
    "unet.output": "its output",
    "unet.upstream": "gradient of the loss by its output",
    "unet.gradient.latents": "gradient by its input",
    "unet.gradient.lora": "gradient by the adapter: its factors' gradients one after another, sorted by name",
    "ddim.noise": "where DDIM starts [2, 4, h, w]; it goes on with guidance and the adapter",
    "ddim.trajectory": "the latents after each step [steps, 2, 4, h, w]",
    "vae.image": "a picture in -1 … 1 [1, 3, H, W]",
    "vae.mean": "mean of what it is encoded to, not scaled",
    "vae.latents": "latents as the U-Net knows them, scaled [1, 4, h, w]",
    "vae.decoded": "their picture, not clamped",
    "update.noise": "where an AlignProp update starts, which keeps the gradient of every step [2, 4, h, w]",
    "update.loss": "its loss",
    "update.gradient": "the adapter's gradient, in the same order",
}


@dataclass(frozen=True)
class Family:
    about: str
    unet: dict
    vae: dict
    text: tuple[dict, ...]
    scheduler: type
    schedule: dict
    height: int
    width: int
    """Height and width of the latents."""
    dtype: torch.dtype = torch.float32
    """The type in the files. All results are computed in float64."""
    pad: str = END
    """Padding token of the last tokenizer; "!" for OpenCLIP."""
    prefixed: bool = True
    """True if tensor names of text encoders begin with `text_model.`, as in published files. transformers 5 omits it."""
    steps: int = 4
    guidance_scale: float = 3.0
    negative: str = ""
    options: dict = field(default_factory=dict)


QUICK = dict(hidden_size=8, num_attention_heads=2, hidden_act="quick_gelu")
OPEN_CLIP = dict(hidden_size=12, num_attention_heads=3, hidden_act="gelu")

TWO_LEVELS = dict(
    block_out_channels=[8, 8],
    down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"],
    up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"],
    layers_per_block=1,
    norm_num_groups=4,
    attention_head_dim=2,
)

XL = dict(
    block_out_channels=[4, 8],
    down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"],
    up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
    layers_per_block=1,
    norm_num_groups=2,
    cross_attention_dim=20,
    attention_head_dim=[1, 4],
    transformer_layers_per_block=[1, 2],
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=4,
    projection_class_embeddings_input_dim=6 * 4 + 6,
)

VAE = dict(
    block_out_channels=[4, 6],
    down_block_types=["DownEncoderBlock2D"] * 2,
    up_block_types=["UpDecoderBlock2D"] * 2,
    layers_per_block=1,
    norm_num_groups=2,
)

SCALED_LINEAR = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)

FAMILY: dict[str, Family] = {
    "sd1": Family(
        "Stable Diffusion 1.5's kind",
        unet=TWO_LEVELS | dict(cross_attention_dim=8),
        vae=VAE | dict(scaling_factor=0.18215),
        text=(QUICK,),
        scheduler=PNDMScheduler,
        schedule=SCALED_LINEAR | dict(skip_prk_steps=True, set_alpha_to_one=False),
        height=8,
        width=8,
        negative="a dog",
    ),
    "sd2": Family(
        "Stable Diffusion 2.1's kind: velocities, linear projections, heads by level, a text encoder of OpenCLIP; bfloat16",
        unet=TWO_LEVELS
        | dict(
            cross_attention_dim=12, use_linear_projection=True, attention_head_dim=[2, 4], upcast_attention=True
        ),
        vae=VAE | dict(scaling_factor=0.18215),
        text=(OPEN_CLIP,),
        scheduler=DDIMScheduler,
        schedule=SCALED_LINEAR | dict(clip_sample=False, set_alpha_to_one=False, prediction_type="v_prediction"),
        height=8,
        width=8,
        dtype=torch.bfloat16,
        pad="!",
        prefixed=False,
    ),
    "sdxl": Family(
        "Stable Diffusion XL's kind: two text encoders, pooled prompt and sizes; float16",
        unet=XL,
        vae=VAE | dict(scaling_factor=0.13025, force_upcast=True),
        text=(QUICK, OPEN_CLIP),
        scheduler=EulerDiscreteScheduler,
        schedule=SCALED_LINEAR,
        height=8,
        width=12,
        dtype=torch.float16,
        pad="!",
        options={"force_zeros_for_empty_prompt": True},
    ),
    "sdxl-distilled": Family(
        "distilled forms of XL: no middle block, transformer layers by layer, zero terminal signal, a negative prompt",
        unet=XL
        | dict(
            mid_block_type=None,
            layers_per_block=[2, 1],
            transformer_layers_per_block=[0, [2]],
            reverse_transformer_layers_per_block=[[1, 0], 1],
        ),
        vae=VAE | dict(scaling_factor=0.13025),
        text=(QUICK, OPEN_CLIP),
        scheduler=DDIMScheduler,
        schedule=SCALED_LINEAR
        | dict(
            clip_sample=False,
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            timestep_spacing="trailing",
            steps_offset=0,
        ),
        height=8,
        width=8,
        dtype=torch.float16,
        pad="!",
        negative="a dog",
        options={"force_zeros_for_empty_prompt": True},
    ),
    "odd": Family(
        "options that no published model has together: uneven layers, one ResNet block in the middle, scale and shift by "
        "the timestep, cross-attention only, wide kernels; a VAE without attention and without quant_conv; float16",
        unet=dict(
            block_out_channels=[8, 6],
            down_block_types=["CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            mid_block_type="UNetMidBlock2D",
            up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"],
            layers_per_block=[2, 1],
            norm_num_groups=2,
            norm_eps=1e-4,
            cross_attention_dim=[8, 8],
            attention_head_dim=[4, 3],
            only_cross_attention=[True, False],
            resnet_time_scale_shift="scale_shift",
            time_embedding_dim=20,
            act_fn="gelu",
            center_input_sample=True,
            flip_sin_to_cos=False,
            freq_shift=1,
            conv_in_kernel=5,
            conv_out_kernel=1,
            downsample_padding=0,
        ),
        vae=VAE
        | dict(
            block_out_channels=[4, 4, 6],
            down_block_types=["DownEncoderBlock2D"] * 3,
            up_block_types=["UpDecoderBlock2D"] * 3,
            act_fn="gelu",
            mid_block_add_attention=False,
            use_quant_conv=False,
            use_post_quant_conv=False,
            scaling_factor=0.5,
        ),
        text=(QUICK,),
        scheduler=DDIMScheduler,
        schedule=dict(
            clip_sample=False,
            beta_schedule="squaredcos_cap_v2",
            timestep_spacing="linspace",
            steps_offset=1,
            prediction_type="sample",
        ),
        height=6,
        width=4,
        dtype=torch.float16,
    ),
}


def build(family: Family, folder: Path, seed: int) -> None:
    """Writes the folder of a pipeline with random weights."""
    shutil.rmtree(folder, ignore_errors=True)
    vocab = vocabulary()
    sizes = dict(
        vocab_size=len(vocab),
        intermediate_size=16,
        num_hidden_layers=2,
        projection_dim=6,
        bos_token_id=vocab[START],
        eos_token_id=vocab[END],
    )
    configs = [CLIPTextConfig(**sizes | text) for text in family.text]
    encoders = [CLIPTextModel(configs[0]), *(CLIPTextModelWithProjection(config) for config in configs[1:])]
    unet = UNet2DConditionModel(**family.unet, sample_size=[family.height, family.width])
    vae = AutoencoderKL(**family.vae, sample_size=family.height)
    for i, module in enumerate([unet, vae, *encoders]):
        randomize(module, seed + i)
        module.to(family.dtype)

    tokenizers = [CLIPTokenizer(vocab=vocab, merges=MERGES, model_max_length=77) for _ in encoders]
    parts = dict(unet=unet, vae=vae, scheduler=family.scheduler(**family.schedule))
    parts |= dict(text_encoder=encoders[0], tokenizer=tokenizers[0], feature_extractor=None)
    if len(encoders) == 1:
        pipeline = StableDiffusionPipeline(**parts, safety_checker=None, requires_safety_checker=False)
    else:
        pipeline = StableDiffusionXLPipeline(
            **parts, text_encoder_2=encoders[1], tokenizer_2=tokenizers[1], **family.options
        )
    pipeline.save_pretrained(folder)
    for i, encoder in enumerate(encoders):
        part = "text_encoder" if i == 0 else f"text_encoder_{i + 1}"
        save_tokenizer(
            folder / part.replace("text_encoder", "tokenizer"), vocab, pad=family.pad if i == len(encoders) - 1 else END
        )
        if family.prefixed:
            stored = {
                name if name.startswith(("text_model.", "text_projection.")) else f"text_model.{name}": x
                for name, x in encoder.state_dict().items()
            }
            save_file(stored, folder / part / "model.safetensors", metadata={"format": "pt"})


def compute(family: Family, model: Path, reward: tuple[Path, Path], seed: int) -> tuple[Tensors, Tensors]:
    """Returns the adapter and the tensors of `MEANING`, computed in float64."""
    settings = Settings(
        steps=family.steps,
        guidance_scale=family.guidance_scale,
        rank=RANK,
        loss_scale=1.0,
        checkpointing=False,
        negative_prompt=family.negative,
    )
    trainer = Trainer(model, Aesthetic(*reward), settings).to(torch.float64)
    random = generator(seed)

    def normal(*shape: int) -> torch.Tensor:
        """Random numbers that float32 represents exactly."""
        return torch.randn(*shape, generator=random).double()

    lora = dict(sorted(trainer.lora().items()))
    with torch.no_grad():
        for name, factor in lora.items():
            factor.copy_(((0.5 if ".lora_A." in name else 0.2) * normal(*factor.shape)).float())
    adapter = {name: factor.detach().clone() for name, factor in lora.items()}
    latents_shape = (BATCH, trainer.unet.config.in_channels, family.height, family.width)

    conditional, unconditional = trainer.encode(PROMPTS)
    found = {"text.text": conditional["text"], "text.unconditional": unconditional["text"][:1]}
    if trainer.is_xl:
        found |= {"text.pooled": conditional["pooled"], "text.unconditional_pooled": unconditional["pooled"][:1]}

    latents = normal(*latents_shape).requires_grad_()
    output = trainer.call_unet(latents, torch.tensor(TIMESTEP), conditional)
    upstream = normal(*latents_shape)
    by_latents, *by_lora = torch.autograd.grad([output], [latents, *lora.values()], [upstream])
    found |= {"unet.latents": latents, "unet.output": output, "unet.upstream": upstream}
    found |= {"unet.gradient.latents": by_latents, "unet.gradient.lora": flat(by_lora)}
    if trainer.is_xl:
        found["unet.time_ids"] = trainer.time_ids(latents)

    noise = normal(*latents_shape)
    with torch.no_grad():
        sample = trainer.sample(PROMPTS, noise, [False] * family.steps)
    check_against_pipeline(trainer, family, noise, sample.trajectory[-1])
    found |= {"ddim.noise": noise, "ddim.trajectory": torch.stack(sample.trajectory[1:])}

    vae = trainer.vae
    pixels = trainer.pipeline.vae_scale_factor
    image = normal(1, 3, family.height * pixels, family.width * pixels) / 2
    given = normal(1, *latents_shape[1:])
    with torch.no_grad():
        found |= {"vae.image": image, "vae.mean": vae.encode(image).latent_dist.mean}
        found |= {"vae.latents": given, "vae.decoded": vae.decode(given / vae.config.scaling_factor).sample}

    noise = normal(*latents_shape)
    sample = trainer.sample(PROMPTS, noise, [True] * family.steps)
    sample.loss.backward()
    gradient = flat([factor.grad for factor in lora.values()])
    return adapter, found | {"update.noise": noise, "update.loss": sample.loss, "update.gradient": gradient}


def check_against_pipeline(trainer: Trainer, family: Family, noise: torch.Tensor, final: torch.Tensor) -> None:
    """Checks that a call of diffusers' pipeline gives the same latents as the trainer's sampling."""
    pipeline = trainer.pipeline
    pipeline.scheduler = trainer.scheduler
    with torch.no_grad():
        latents = pipeline(
            PROMPTS,
            negative_prompt=[family.negative] * BATCH if family.negative else None,
            height=family.height * pipeline.vae_scale_factor,
            width=family.width * pipeline.vae_scale_factor,
            num_inference_steps=family.steps,
            guidance_scale=family.guidance_scale,
            latents=noise.clone(),
            output_type="latent",
        ).images
    difference = relative_error(latents, final)
    if difference > 1e-6:
        raise ValueError(f"diffusers' pipeline and the trainer's sampling differ by {difference}")


def flat(tensors: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([x.flatten() for x in tensors])


def make_family(name: str, folder: Path, reward: tuple[Path, Path], seed: int) -> None:
    family = FAMILY[name]
    folder.mkdir(parents=True, exist_ok=True)
    build(family, folder / "model", seed)
    adapter, tensors = compute(family, folder / "model", reward, seed + 100)
    unexplained = [key for key in tensors if key not in MEANING]
    if unexplained:
        raise ValueError(f"{name}: MEANING does not describe {unexplained}")
    if not all(x.isfinite().all() for x in tensors.values()):
        raise ValueError(f"{name}: {[key for key, x in tensors.items() if not x.isfinite().all()]} are not finite")
    save_file(storable(adapter), folder / "adapter.safetensors")
    save_file(storable(tensors), folder / "reference.safetensors")
    write_json(
        folder / "reference.json",
        {
            "about": f"{family.about}; random weights (seed {seed}), computed in float64",
            "prompts": PROMPTS,
            "negative": family.negative,
            "timestep": TIMESTEP,
            "steps": family.steps,
            "guidance_scale": family.guidance_scale,
            "rank": RANK,
            "loss": {"form": "target", "target": 10, "scale": 1},
            "tensors": MEANING,
            "made_with": versions(),
        },
    )
    print(f"{name}: {len(tensors)} tensors")


def make_families() -> None:
    """All families except Stable Diffusion 1, which has other goldens (tiny-sd, reference-loop)."""
    for i, name in enumerate(name for name in FAMILY if name != "sd1"):
        make_family(name, FAMILIES / name, (REWARD_CLIP, REWARD_HEAD), seed=1000 * (i + 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="a new folder for the folders of families and for reward/")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("families", nargs="*", metavar="family", help=", ".join(FAMILY))
    given = parser.parse_args()
    chosen = given.families or list(FAMILY)
    unknown = [name for name in chosen if name not in FAMILY]
    if unknown:
        parser.error(f"no family is named {', '.join(unknown)}; the families are {', '.join(FAMILY)}")
    torch.set_num_threads(1)
    reward = make_reward(vocabulary(), given.out / "reward", seed=given.seed + 7)
    for i, name in enumerate(chosen):
        make_family(name, given.out / name, reward, seed=given.seed + 1000 * (i + 1))


if __name__ == "__main__":
    main()
