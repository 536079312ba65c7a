"""Writes adapters as other tools do, for the goldens and for the exchange of adapters (check_adapters.py)."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.training_utils import _collate_lora_metadata
from golden import GOLDENS, Tensors, differentiate, generator, normal, write_golden, write_json
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from tiny_sd import MODEL

FOLDER = GOLDENS / "adapters"

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
FEED_FORWARD = ["ff.net.0.proj", "ff.net.2"]
PROJECTIONS = ["proj_in", "proj_out"]
CONVOLUTIONS = ["conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv"]

# Some modules have another rank or alpha, so that a reader that uses one for all modules fails.
EVERYWHERE = dict(
    r=2,
    lora_alpha=3,
    target_modules=ATTENTION + FEED_FORWARD + PROJECTIONS + CONVOLUTIONS,
    rank_pattern={"conv1": 1, "attn2.to_k": 3},
    alpha_pattern={"ff.net.2": 5, "conv1": 2},
)


def open_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel.from_pretrained(MODEL / "unet").eval().requires_grad_(False)


def randomize_factors(unet: torch.nn.Module, seed: int) -> None:
    random = generator(seed)
    with torch.no_grad():
        for name, factor in sorted(unet.named_parameters()):
            if ".lora_" in name:
                factor.copy_(0.2 * torch.randn(factor.shape, generator=random))


def with_adapter(seed: int, **config) -> UNet2DConditionModel:
    unet = open_unet()
    unet.add_adapter(LoraConfig(**config))
    randomize_factors(unet, seed)
    return unet


# Each function writes an adapter into a folder and returns the U-Net with the adapter. The docstrings are part of the golden.


def by_diffusers(folder: Path) -> torch.nn.Module:
    """`save_lora_weights` with the LoraConfig in the header, on every kind of layer."""
    unet = with_adapter(11, **EVERYWHERE)
    StableDiffusionPipeline.save_lora_weights(
        folder, unet_lora_layers=get_peft_model_state_dict(unet), **_collate_lora_metadata({"unet": unet})
    )
    return unet


def by_peft(folder: Path) -> torch.nn.Module:
    """PEFT's own `save_pretrained`: adapter_model.safetensors, adapter_config.json; rank-stabilised."""
    config = LoraConfig(r=4, lora_alpha=2, target_modules=["to_v", "conv2", "ff.net.0.proj"], use_rslora=True)
    model = get_peft_model(open_unet(), config)
    randomize_factors(model, 12)
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    return model.base_model.model


def by_state_dict(folder: Path) -> torch.nn.Module:
    """`get_peft_model_state_dict` in half precision: no `unet.` before the names, no alpha."""
    unet = with_adapter(13, r=2, lora_alpha=2, target_modules=ATTENTION)
    factors = {key: x.half() for key, x in get_peft_model_state_dict(unet).items()}
    with torch.no_grad():
        for name, factor in unet.named_parameters():
            if ".lora_" in name:
                factor.copy_(factor.half())
    save(factors, folder / "pytorch_lora_weights.safetensors")
    return unet


def by_kohya(folder: Path) -> torch.nn.Module:
    """sd-scripts' names with an alpha for each module and their metadata, written by hand."""
    unet = with_adapter(14, r=2, lora_alpha=2, target_modules=ATTENTION + PROJECTIONS + ["conv1"])
    tensors = {}
    for key, x in get_peft_model_state_dict(unet).items():
        module, factor = key.removesuffix(".weight").rsplit(".", 1)
        name = "lora_unet_" + module.replace(".", "_")
        tensors[f"{name}.lora_{'down' if factor == 'lora_A' else 'up'}.weight"] = x
        tensors[f"{name}.alpha"] = torch.tensor(0.5 if module.endswith("conv1") else 1.0)
    for module, layer in unet.named_modules():
        if hasattr(layer, "scaling") and layer.scaling:
            layer.scaling["default"] = 0.25 if module.endswith("conv1") else 0.5
    metadata = {"ss_network_module": "networks.lora", "ss_network_dim": "2", "ss_network_alpha": "1"}
    save(tensors, folder / "pytorch_lora_weights.safetensors", metadata)
    return unet


def by_processors(folder: Path) -> torch.nn.Module:
    """The names that diffusers' attention processors had: `save_attn_procs` of versions before 0.21."""
    unet = with_adapter(15, r=2, lora_alpha=2, target_modules=ATTENTION)
    tensors = {}
    for key, x in get_peft_model_state_dict(unet).items():
        module, factor = key.removesuffix(".weight").rsplit(".", 1)
        attention, projection = module.removesuffix(".0").rsplit(".", 1)
        side = "down" if factor == "lora_A" else "up"
        tensors[f"{attention}.processor.{projection}_lora.{side}.weight"] = x
    save(tensors, folder / "pytorch_lora_weights.safetensors")
    return unet


WRITERS: dict[str, Callable[[Path], torch.nn.Module]] = {
    "diffusers": by_diffusers,
    "peft": by_peft,
    "state-dict": by_state_dict,
    "kohya": by_kohya,
    "processors": by_processors,
}


def save(tensors: Tensors, path: Path, metadata: dict[str, str] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: x.detach().contiguous() for key, x in tensors.items()}, path, metadata=metadata)


def make_adapters() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    inputs = {
        "sample": normal(21, 2, 4, 8, 8),
        "timestep": torch.tensor([401, 21]),
        "encoder_hidden_states": normal(22, 2, 5, 12),
    }
    tensors: Tensors = {f"input.{key}": x for key, x in inputs.items()}
    worst = 0.0
    for name, write in WRITERS.items():
        (FOLDER / name).mkdir(parents=True)
        unet = write(FOLDER / name).requires_grad_(False)

        def call(x: Tensors, unet=unet) -> Tensors:
            return {"sample": unet(x["sample"], x["timestep"], x["encoder_hidden_states"]).sample}

        # Gradients of the factors, for the adapter that has every kind of layer
        factors = {
            f"unet.{key.replace('.default', '')}": factor
            for key, factor in unet.named_parameters()
            if ".lora_" in key and name == "diffusers"
        }
        found, error = differentiate(unet, call, inputs, wrt=["sample"], parameters=factors, seed=23)
        worst = max(worst, error)
        tensors["upstream.sample"] = found["upstream.sample"]
        tensors[f"{name}.output.sample"] = found["output.sample"]
        tensors |= {
            f"{name}.{key.replace('gradient.parameter.', 'gradient.')}": x
            for key, x in found.items()
            if key.startswith("gradient.parameter.")
        }
    gradients = every_gradient(inputs)
    write_golden(
        "adapters",
        "adapters of tiny-sd's U-Net as diffusers, PEFT and sd-scripts write them",
        tensors,
        {
            "input.*": "the U-Net's inputs",
            "upstream.sample": "gradient of the loss by output.sample",
            **{f"{name}.output.*": f"predicted noise with {write.__doc__}" for name, write in WRITERS.items()},
            "diffusers.gradient.*": "gradient by the adapter's factor of that name",
        },
        float32_error=worst,
    )
    write_json(FOLDER / "every-weight.json", gradients)


def every_gradient(inputs: Tensors) -> dict:
    """For each weight of the U-Net, the norm of its gradient and the inner product of gradient and weight."""
    unet = open_unet()

    def call(x: Tensors) -> Tensors:
        return {"sample": unet(x["sample"], x["timestep"], x["encoder_hidden_states"]).sample}

    weights = dict(unet.named_parameters())
    found, _ = differentiate(unet, call, inputs, wrt=["sample"], parameters=weights, seed=23)
    return {
        key: [x.norm().item(), (x * weights[key].double()).sum().item()]
        for key, x in ((key, found[f"gradient.parameter.{key}"]) for key in weights)
    }
