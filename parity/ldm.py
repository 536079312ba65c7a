"""Single files in the layout of the original Stable Diffusion code, made from diffusers' modules.

The mapping here runs from diffusers' names to the original ones, was written from the original modules (openaimodel.py,
model.py, open_clip's transformer.py), and is checked against diffusers' own converters, which run the other way.

    sd1.safetensors    tiny-sd, float32
    sd2.safetensors    a tiny model of 2.x's kind: linear projections, OpenCLIP; float16
    sdxl.safetensors   a tiny model of SDXL's kind: two text encoders, added conditions; float16
    golden.json        configurations of these, and of SD 1.5, 2.1 and SDXL base as they are published
    tensors.json.gz    of the tiny ones, shape and SHA-256 of every tensor under its diffusers name; of the published
                       ones, names and shapes in both layouts
"""

import gzip
import hashlib
import json
import re
from types import SimpleNamespace

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders import single_file_utils as reference
from golden import GOLDENS, randomize, versions, write_json
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

LDM = GOLDENS / "ldm"
TINY_SD = GOLDENS / "tiny-sd"

Tensors = dict[str, torch.Tensor]

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
        # Block 0 of the inputs is conv_in, and each level ends with a downsampler or with its upsampler inside the last.
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
    """transformers' text model as OpenCLIP names it. `extra_block`: 2.x's files hold a last block that nobody uses."""
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


class Family:
    """A model of one family as diffusers' modules."""

    def __init__(self, name: str, unet: UNet2DConditionModel, vae: AutoencoderKL, texts: list) -> None:
        self.name, self.unet, self.vae, self.texts = name, unet, vae, texts

    def parts(self) -> dict[str, Tensors]:
        """Tensors of each part under the names that published folders have."""
        parts = {"unet": self.unet.state_dict(), "vae": self.vae.state_dict()}
        for i, text in enumerate(self.texts):
            states = {name: x for name, x in text.state_dict().items() if not name.endswith("position_ids")}
            # transformers 5 saves CLIPTextModel without the level that every older file has.
            flat = not any(name.startswith("text_model.") for name in states)
            parts["text_encoder" if i == 0 else f"text_encoder_{i + 1}"] = {
                f"text_model.{name}" if flat else name: x for name, x in states.items()
            }
        return parts

    def flat(self) -> Tensors:
        return {f"{part}.{name}": x for part, tensors in self.parts().items() for name, x in tensors.items()}

    def configs(self) -> dict[str, dict]:
        configs = {"unet": dict(self.unet.config), "vae": dict(self.vae.config)}
        for i, text in enumerate(self.texts):
            configs["text_encoder" if i == 0 else f"text_encoder_{i + 1}"] = text.config.to_dict()
        return {
            part: {k: v for k, v in config.items() if isinstance(v, int | float | str | list | tuple)}
            for part, config in configs.items()
        }

    def to_ldm(self) -> Tensors:
        parts = self.parts()
        single = unet_to_ldm(parts["unet"], dict(self.unet.config))
        single |= vae_to_ldm(parts["vae"], len(self.vae.config.block_out_channels))
        match self.name:
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


def check_with_diffusers(family: Family, single: Tensors) -> None:
    """diffusers' converters must give back what the file was made from."""
    parts = family.parts()
    expect_same(reference.convert_ldm_unet_checkpoint(dict(single), dict(family.unet.config)), parts["unet"])
    expect_same(reference.convert_ldm_vae_checkpoint(dict(single), dict(family.vae.config)), parts["vae"])
    if family.name != "sd2":
        converted = reference.convert_ldm_clip_checkpoint(dict(single))
        converted = {name: x for name, x in converted.items() if not name.endswith("position_ids")}
        expect_same(converted, parts["text_encoder"])
    if family.name != "sd1":
        text, prefix = {
            "sd2": ("text_encoder", "cond_stage_model.model."),
            "sdxl": ("text_encoder_2", "conditioner.embedders.1.model."),
        }[family.name]
        model = SimpleNamespace(config=family.texts[-1].config)
        # The spare block of 2.x is dropped by its number in the published model, 23.
        spare = f"{prefix}transformer.resblocks.{family.texts[-1].config.num_hidden_layers}."
        kept = {name: x for name, x in single.items() if not name.startswith(spare)}
        converted = reference.convert_open_clip_checkpoint(model, kept, prefix=prefix)
        if family.name == "sd2":
            converted.pop("text_projection.weight", None)
        expect_same(converted, parts[text])


def expect_same(converted: Tensors, expected: Tensors) -> None:
    assert converted.keys() == expected.keys(), sorted(converted.keys() ^ expected.keys())[:10]
    for name, x in expected.items():
        assert torch.equal(converted[name], x), name


def make_ldm() -> None:
    LDM.mkdir(parents=True, exist_ok=True)
    tiny, tensors = {}, {}
    for family in [tiny_sd1(), tiny_sd2(), tiny_sdxl()]:
        single = {name: x.detach().contiguous().clone() for name, x in family.to_ldm().items()}
        check_with_diffusers(family, single)
        # What training leaves behind and a reader passes over.
        single["model_ema.decay"] = torch.tensor(0.9999)
        single["betas"] = torch.zeros(2)
        save_file(single, LDM / f"{family.name}.safetensors")
        tiny[family.name] = family.configs()
        tensors[family.name] = {name: [list(x.shape), sha256(x)] for name, x in family.flat().items()}
        print(f"ldm: {family.name}, {len(single)} tensors")
    published = published_families()
    shapes = {
        family.name: {
            "single_file": {name: list(x.shape) for name, x in family.to_ldm().items()},
            "folder": {name: list(x.shape) for name, x in family.flat().items()},
        }
        for family in published
    }
    write_json(
        LDM / "golden.json",
        {
            "about": "single files in the original layout; tensors.json.gz says what they hold (see parity/ldm.py)",
            "tiny": tiny,
            "published": {family.name: family.configs() for family in published},
            "made_with": versions(),
        },
    )
    described = json.dumps({"tiny": tensors, "published": shapes}, separators=(",", ":"))
    (LDM / "tensors.json.gz").write_bytes(gzip.compress(described.encode(), mtime=0))
    counts = [f"{name} {len(shape['single_file'])}" for name, shape in shapes.items()]
    print(f"ldm: published, tensors of {', '.join(counts)}")


def sha256(x: torch.Tensor) -> str:
    """The first 16 digits, which are enough to tell tensors apart."""
    return hashlib.sha256(x.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()).hexdigest()[:16]


def tiny_sd1() -> Family:
    unet = UNet2DConditionModel.from_pretrained(TINY_SD / "unet")
    vae = AutoencoderKL.from_pretrained(TINY_SD / "vae")
    text = CLIPTextModel(CLIPTextConfig.from_pretrained(TINY_SD / "text_encoder"))
    stored = load_file(TINY_SD / "text_encoder" / "model.safetensors")
    wrapped = any(name.startswith("text_model.") for name in text.state_dict())
    text.load_state_dict(stored if wrapped else {k.removeprefix("text_model."): v for k, v in stored.items()})
    return Family("sd1", unet, vae, [text])


def tiny_sd2() -> Family:
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=[8, 16],
        down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"],
        layers_per_block=2,
        norm_num_groups=2,
        cross_attention_dim=12,
        attention_head_dim=[2, 4],
        use_linear_projection=True,
    )
    text = tiny_text(CLIPTextModel, width=12, activation="gelu")
    return randomized(Family("sd2", unet, tiny_vae(0.18215), [text]), seed=401)


def tiny_sdxl() -> Family:
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=[8, 8, 16],
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        layers_per_block=1,
        norm_num_groups=2,
        cross_attention_dim=20,
        attention_head_dim=[2, 2, 4],
        transformer_layers_per_block=[1, 2, 3],
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 + 6 * 4,
    )
    texts = [
        tiny_text(CLIPTextModel, width=8, activation="quick_gelu"),
        # A projection that is not square, so that one that was not transposed would not fit.
        tiny_text(CLIPTextModelWithProjection, width=12, activation="gelu", projection_dim=6),
    ]
    return randomized(Family("sdxl", unet, tiny_vae(0.13025), texts), seed=501)


def tiny_text(of: type, *, width: int, activation: str, projection_dim: int = 12):
    return of(
        CLIPTextConfig(
            vocab_size=64,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=77,
            projection_dim=projection_dim,
            hidden_act=activation,
        )
    )


def tiny_vae(scaling_factor: float) -> AutoencoderKL:
    return AutoencoderKL(
        sample_size=16,
        block_out_channels=[4, 8],
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        layers_per_block=1,
        norm_num_groups=2,
        scaling_factor=scaling_factor,
    )


def randomized(family: Family, *, seed: int) -> Family:
    for i, module in enumerate([family.unet, family.vae, *family.texts]):
        randomize(module, seed + i)
        module.half()
    return family


def published_families() -> list[Family]:
    """The published architectures without their weights."""
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
            Family(
                "sd1",
                UNet2DConditionModel(**unet, **four, sample_size=64, cross_attention_dim=768, attention_head_dim=8),
                AutoencoderKL(**vae, scaling_factor=0.18215),
                [CLIPTextModel(CLIPTextConfig(**clip_l))],
            ),
            Family(
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
                [CLIPTextModel(CLIPTextConfig(**clip_h))],
            ),
            Family(
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
                [CLIPTextModel(CLIPTextConfig(**clip_l)), CLIPTextModelWithProjection(CLIPTextConfig(**clip_g))],
            ),
        ]
