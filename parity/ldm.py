"""Single files in the layout of the original Stable Diffusion code, made from folders in the diffusers layout.

The mapping from diffusers' names to the original ones follows the original modules (openaimodel.py, model.py, open_clip's
transformer.py). It is checked with diffusers' own converters, which convert in the other direction.

    sd1.safetensors, sd2.safetensors, sdxl.safetensors    tiny-sd and families/sd2 and sdxl
    published.json.gz    names and shapes of SD 1.5, 2.1 and SDXL base in both layouts, and their configurations
"""

import gzip
import json
import re
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders import single_file_utils as reference
from golden import GOLDENS, Tensors, versions
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

LDM = GOLDENS / "ldm"

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def unet_to_ldm(tensors: Tensors, config: dict) -> Tensors:
    levels = len(config["block_out_channels"])
    layers = config["layers_per_block"]
    attends_up = [kind.startswith("CrossAttn") for kind in config["up_block_types"]]

    def place(name: str) -> str:
        ends = {
            "time_embedding.linear_1.": "time_embed.0.",
            "time_embedding.linear_2.": "time_embed.2.",
            "add_embedding.linear_1.": "label_emb.0.0.",
            "add_embedding.linear_2.": "label_emb.0.2.",
            "conv_in.": "input_blocks.0.0.",
            "conv_norm_out.": "out.0.",
            "conv_out.": "out.2.",
        }
        for new, old in ends.items():
            if name.startswith(new):
                return old + name.removeprefix(new)
        if found := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", name):
            kind, i, rest = found.groups()
            return f"middle_block.1.{rest}" if kind == "attentions" else f"middle_block.{2 * int(i)}.{resnet(rest)}"
        side, level, kind, i, rest = re.fullmatch(
            r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", name
        ).groups()
        level, i = int(level), int(i)
        # Input block 0 is conv_in. An input level ends with a downsampler; the last block of an output level has the upsampler.
        block = 1 + level * (layers + 1) + i if side == "down" else level * (layers + 1) + i
        root = f"{'input' if side == 'down' else 'output'}_blocks"
        if kind == "resnets":
            return f"{root}.{block}.0.{resnet(rest)}"
        if kind == "attentions":
            return f"{root}.{block}.1.{rest}"
        if kind == "downsamplers":
            return f"{root}.{(level + 1) * (layers + 1)}.0.{rest.replace('conv.', 'op.')}"
        return f"{root}.{level * (layers + 1) + layers}.{2 if attends_up[level] else 1}.{rest}"

    def resnet(rest: str) -> str:
        layer, parameter = rest.rsplit(".", 1)
        return f"{RESNET[layer]}.{parameter}"

    assert levels == len(config["down_block_types"])
    return {f"model.diffusion_model.{place(name)}": x for name, x in tensors.items()}


def vae_to_ldm(tensors: Tensors, levels: int) -> Tensors:
    attention = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}

    def place(name: str) -> str:
        name = name.replace("conv_norm_out.", "norm_out.").replace("conv_shortcut.", "nin_shortcut.")
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        name = re.sub(
            r"mid_block\.attentions\.0\.(.*)\.(weight|bias)", lambda m: f"mid.attn_1.{attention[m[1]]}.{m[2]}", name
        )
        name = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", name)
        name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(r"up_blocks\.(\d+)\.resnets", lambda m: f"up.{levels - 1 - int(m[1])}.block", name)
        return re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", name)

    def convolution(name: str, x: torch.Tensor) -> torch.Tensor:
        return x[:, :, None, None] if ".mid.attn_1." in name and x.ndim == 2 else x

    places = {f"first_stage_model.{place(name)}": x for name, x in tensors.items()}
    return {name: convolution(name, x) for name, x in places.items()}


def clip_to_ldm(tensors: Tensors, prefix: str) -> Tensors:
    return {f"{prefix}{name}": x for name, x in tensors.items()}


def open_clip_to_ldm(tensors: Tensors, prefix: str, *, extra_block: bool) -> Tensors:
    """transformers' text model as OpenCLIP names it. `extra_block` adds the unused last block of 2.x files."""
    layers = 1 + max(int(m[1]) for name in tensors if (m := re.search(r"layers\.(\d+)", name)))
    old: Tensors = {
        "positional_embedding": tensors["text_model.embeddings.position_embedding.weight"],
        "token_embedding.weight": tensors["text_model.embeddings.token_embedding.weight"],
        "ln_final.weight": tensors["text_model.final_layer_norm.weight"],
        "ln_final.bias": tensors["text_model.final_layer_norm.bias"],
    }
    parts = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    for i in range(layers):
        new, block = f"text_model.encoder.layers.{i}", f"transformer.resblocks.{i}"
        for parameter in ["weight", "bias"]:
            for here, there in (parts | {"self_attn.out_proj": "attn.out_proj"}).items():
                old[f"{block}.{there}.{parameter}"] = tensors[f"{new}.{here}.{parameter}"]
            fused = [tensors[f"{new}.self_attn.{which}_proj.{parameter}"] for which in "qkv"]
            old[f"{block}.attn.in_proj_{parameter}"] = torch.cat(fused)
    if extra_block:
        spare = {name: torch.ones_like(x) for name, x in old.items() if f"resblocks.{layers - 1}." in name}
        old |= {name.replace(f"resblocks.{layers - 1}.", f"resblocks.{layers}."): x for name, x in spare.items()}
    if "text_projection.weight" in tensors:
        old["text_projection"] = tensors["text_projection.weight"].T
    else:
        width = old["positional_embedding"].shape[1]
        old["text_projection"] = torch.ones_like(old["positional_embedding"][:1]).expand(width, width)
    old["logit_scale"] = torch.ones_like(old["ln_final.bias"][0])
    return {f"{prefix}{name}": x for name, x in old.items()}


@dataclass(frozen=True)
class Model:
    """A model of one family: tensors and configuration of each part, as in its folder."""

    family: str
    parts: dict[str, Tensors]
    configs: dict[str, dict]

    @staticmethod
    def of_folder(family: str, folder: Path) -> "Model":
        names = ["unet", "vae", *sorted(path.name for path in folder.glob("text_encoder*"))]
        return Model(
            family,
            {name: with_text_level(name, load_file(next((folder / name).glob("*.safetensors")))) for name in names},
            {name: json.loads((folder / name / "config.json").read_text()) for name in names},
        )

    @staticmethod
    def of_modules(family: str, unet: UNet2DConditionModel, vae: AutoencoderKL, *texts: torch.nn.Module) -> "Model":
        modules = {"unet": unet, "vae": vae}
        modules |= {"text_encoder" if i == 0 else f"text_encoder_{i + 1}": text for i, text in enumerate(texts)}
        configs = {name: plain(module.config) for name, module in modules.items()}
        return Model(
            family, {name: with_text_level(name, module.state_dict()) for name, module in modules.items()}, configs
        )

    def to_ldm(self) -> Tensors:
        parts = self.parts
        single = unet_to_ldm(parts["unet"], self.configs["unet"])
        single |= vae_to_ldm(parts["vae"], len(self.configs["vae"]["block_out_channels"]))
        match self.family:
            case "sd1":
                single |= clip_to_ldm(parts["text_encoder"], "cond_stage_model.transformer.")
                like = single["cond_stage_model.transformer.text_model.embeddings.position_embedding.weight"]
                ids = torch.arange(like.shape[0], device=like.device)[None]
                single["cond_stage_model.transformer.text_model.embeddings.position_ids"] = ids
            case "sd2":
                single |= open_clip_to_ldm(parts["text_encoder"], "cond_stage_model.model.", extra_block=True)
            case "sdxl":
                single |= clip_to_ldm(parts["text_encoder"], "conditioner.embedders.0.transformer.")
                single |= open_clip_to_ldm(parts["text_encoder_2"], "conditioner.embedders.1.model.", extra_block=False)
        return single


def with_text_level(part: str, tensors: Tensors) -> Tensors:
    """Adds the level `text_model`, which older files have. transformers 5 saves CLIPTextModel without it."""
    tensors = {name: x for name, x in tensors.items() if not name.endswith("position_ids")}
    if not part.startswith("text_encoder") or any(name.startswith("text_model.") for name in tensors):
        return tensors
    return {f"text_model.{name}": x for name, x in tensors.items()}


def plain(config: object) -> dict:
    values = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    # Keys that begin with an underscore belong to the libraries.
    return {
        key: value
        for key, value in values.items()
        if not key.startswith("_") and isinstance(value, int | float | str | list | tuple)
    }


def check_with_diffusers(model: Model, single: Tensors) -> None:
    """Checks that diffusers' converters return the tensors from which the file was made."""
    parts, configs = model.parts, model.configs
    expect_same(reference.convert_ldm_unet_checkpoint(dict(single), configs["unet"]), parts["unet"])
    expect_same(reference.convert_ldm_vae_checkpoint(dict(single), configs["vae"]), parts["vae"])
    if model.family != "sd2":
        converted = reference.convert_ldm_clip_checkpoint(dict(single))
        expect_same(with_text_level("text_encoder", converted), parts["text_encoder"])
    if model.family != "sd1":
        part, prefix = {
            "sd2": ("text_encoder", "cond_stage_model.model."),
            "sdxl": ("text_encoder_2", "conditioner.embedders.1.model."),
        }[model.family]
        # The converter uses the text width as the projection width. They are equal in the published models.
        text = SimpleNamespace(config=SimpleNamespace(hidden_size=configs[part]["hidden_size"]))
        # The converter omits block 23, which 2.x does not use in the published model.
        spare = f"{prefix}transformer.resblocks.{configs[part]['num_hidden_layers']}."
        kept = {name: x for name, x in single.items() if not name.startswith(spare)}
        if model.family == "sd2":
            kept.pop(f"{prefix}text_projection")
        expect_same(reference.convert_open_clip_checkpoint(text, kept, prefix=prefix), parts[part])


def expect_same(converted: Tensors, expected: Tensors) -> None:
    assert converted.keys() == expected.keys(), sorted(converted.keys() ^ expected.keys())[:10]
    for name, x in expected.items():
        assert torch.equal(converted[name], x), name


def make_ldm() -> None:
    LDM.mkdir(parents=True, exist_ok=True)
    for model in [
        Model.of_folder("sd1", GOLDENS / "tiny-sd"),
        Model.of_folder("sd2", GOLDENS / "families" / "sd2" / "model"),
        Model.of_folder("sdxl", GOLDENS / "families" / "sdxl" / "model"),
    ]:
        single = {name: x.contiguous().clone() for name, x in model.to_ldm().items()}
        check_with_diffusers(model, single)
        # Left over from training; readers ignore it
        single |= {"model_ema.decay": torch.tensor(0.9999), "betas": torch.zeros(2)}
        save_file(single, LDM / f"{model.family}.safetensors")
        (LDM / f"{model.family}.safetensors").chmod(0o644)
        print(f"ldm: {model.family}, {len(single)} tensors")
    published = {
        model.family: {
            "configs": model.configs,
            "single_file": {name: list(x.shape) for name, x in model.to_ldm().items()},
            "folder": {
                f"{part}.{name}": list(x.shape) for part, tensors in model.parts.items() for name, x in tensors.items()
            },
        }
        for model in published_models()
    }
    described = json.dumps({"made_with": versions(), **published}, separators=(",", ":"))
    (LDM / "published.json.gz").write_bytes(gzip.compress(described.encode(), mtime=0))
    counts = [f"{family} {len(of['single_file'])}" for family, of in published.items()]
    print(f"ldm: published models: {', '.join(counts)}")


def published_models() -> list[Model]:
    """The published architectures, without weights."""
    vae = dict(
        block_out_channels=[128, 256, 512, 512],
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        layers_per_block=2,
    )
    unet = dict(layers_per_block=2, norm_num_groups=32)
    four = dict(
        block_out_channels=[320, 640, 1280, 1280],
        down_block_types=["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        up_block_types=["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    )
    three = dict(
        block_out_channels=[320, 640, 1280],
        down_block_types=["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2,
        up_block_types=["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"],
        transformer_layers_per_block=[1, 2, 10],
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )
    clip_l = dict(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, hidden_act="quick_gelu"
    )
    clip_h = dict(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16, hidden_act="gelu"
    )
    clip_g = dict(
        hidden_size=1280,
        intermediate_size=5120,
        num_hidden_layers=32,
        num_attention_heads=20,
        hidden_act="gelu",
        projection_dim=1280,
    )
    with torch.device("meta"):
        return [
            Model.of_modules(
                "sd1",
                UNet2DConditionModel(**unet, **four, sample_size=64, cross_attention_dim=768, attention_head_dim=8),
                AutoencoderKL(**vae, scaling_factor=0.18215),
                CLIPTextModel(CLIPTextConfig(**clip_l)),
            ),
            Model.of_modules(
                "sd2",
                UNet2DConditionModel(
                    **unet,
                    **four,
                    sample_size=96,
                    cross_attention_dim=1024,
                    attention_head_dim=[5, 10, 20, 20],
                    use_linear_projection=True,
                ),
                AutoencoderKL(**vae, scaling_factor=0.18215),
                CLIPTextModel(CLIPTextConfig(**clip_h)),
            ),
            Model.of_modules(
                "sdxl",
                UNet2DConditionModel(
                    **unet,
                    **three,
                    sample_size=128,
                    cross_attention_dim=2048,
                    attention_head_dim=[5, 10, 20],
                    use_linear_projection=True,
                ),
                AutoencoderKL(**vae, scaling_factor=0.13025),
                CLIPTextModel(CLIPTextConfig(**clip_l)),
                CLIPTextModelWithProjection(CLIPTextConfig(**clip_g)),
            ),
        ]
