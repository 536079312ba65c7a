"""Writes DoRA, LoHa, LoKr and LoCon with PEFT and LyCORIS: goldens for src/weights/adapter-module.ts.

    pip install --no-deps lycoris-lora==4.1.3 einops toml
    python parity/adapter_variants.py
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from adapters import open_unet, save
from golden import GOLDENS, Tensors, differentiate, generator, normal, write_golden
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model

FOLDER = GOLDENS / "adapter-variants"

# A Linear of each side, a 1x1 and a 3x3 convolution
LAYERS = [
    "up_blocks.0.attentions.1.transformer_blocks.0.attn2.to_k",
    "up_blocks.0.attentions.1.transformer_blocks.0.ff.net.0.proj",
    "mid_block.attentions.0.proj_in",
    "up_blocks.0.resnets.0.conv1",
]


def randomize(named: list[tuple[str, torch.Tensor]], seed: int) -> None:
    random = generator(seed)
    with torch.no_grad():
        for name, x in sorted(named):
            noise = torch.randn(x.shape, generator=random)
            # Magnitudes are positive numbers near the norm of the weight.
            is_magnitude = "magnitude" in name or "dora_scale" in name
            x.copy_(x * (1 + 0.3 * noise.abs()) if is_magnitude else 0.4 * noise)


def by_peft(folder: Path, seed: int, config) -> torch.nn.Module:
    model = get_peft_model(open_unet(), config)
    marks = ("lora_", "hada_", "lokr_")
    randomize([(name, x) for name, x in model.named_parameters() if any(mark in name for mark in marks)], seed)
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    return model.base_model.model.eval()


def peft_dora(folder: Path) -> torch.nn.Module:
    """PEFT's DoRA, with another alpha in one layer."""
    return by_peft(
        folder, 31, LoraConfig(r=2, lora_alpha=3, target_modules=LAYERS, use_dora=True, alpha_pattern={"to_k": 1})
    )


def peft_loha(folder: Path) -> torch.nn.Module:
    """PEFT's LoHa, with another rank in one layer, and a core in the 3x3 convolution."""
    return by_peft(
        folder,
        32,
        LoHaConfig(r=2, alpha=3, target_modules=LAYERS, rank_pattern={"to_k": 1}, use_effective_conv2d=True),
    )


def peft_lokr(folder: Path) -> torch.nn.Module:
    """PEFT's LoKr: products where the rank is small enough, otherwise whole matrices, which are scaled as well."""
    return by_peft(
        folder,
        33,
        LoKrConfig(
            r=2,
            alpha=3,
            target_modules=LAYERS,
            rank_pattern={"to_k": 8, "conv1": 1},
            decompose_both=True,
            decompose_factor=4,
            use_effective_conv2d=True,
        ),
    )


def by_lycoris(folder: Path, seed: int, make: Callable) -> torch.nn.Module:
    unet = open_unet()
    tensors: Tensors = {}
    for i, path in enumerate(LAYERS):
        module = make(f"lora_unet_{path.replace('.', '_')}", unet.get_submodule(path))
        # state_dict() may return products with a scalar, which is 1 here, and not the parameters themselves.
        parameters = {name: x for name, x in module.named_parameters() if not name.startswith("org_module")}
        if isinstance(getattr(module, "dora_scale", None), torch.Tensor):
            parameters["dora_scale"] = module.dora_scale
        randomize(list(parameters.items()), seed + i)
        named = {name: x for name, x in module.state_dict().items() if name in module.weight_list}
        missing = parameters.keys() - named.keys()
        assert not missing, missing
        module.apply_to()
        module.eval()
        tensors |= {f"{module.lora_name}.{name}": x for name, x in named.items()}
    save(tensors, folder / "variant.safetensors")
    return unet


def lycoris_loha(folder: Path) -> torch.nn.Module:
    """LyCORIS's LoHa, the 3x3 convolution as a matrix."""
    from lycoris.modules.loha import LohaModule

    return by_lycoris(folder, 41, lambda name, layer: LohaModule(name, layer, lora_dim=2, alpha=1.5))


def lycoris_loha_tucker(folder: Path) -> torch.nn.Module:
    """LyCORIS's LoHa with a core (Tucker) in the 3x3 convolution, and DoRA's magnitudes."""
    from lycoris.modules.loha import LohaModule

    return by_lycoris(
        folder,
        42,
        lambda name, layer: LohaModule(name, layer, lora_dim=2, alpha=1, use_tucker=True, weight_decompose=True),
    )


def lycoris_lokr(folder: Path) -> torch.nn.Module:
    """LyCORIS's LoKr of rank 1 with a core, both matrices as products."""
    from lycoris.modules.lokr import LokrModule

    return by_lycoris(
        folder,
        43,
        lambda name, layer: LokrModule(name, layer, lora_dim=1, alpha=3, factor=4, use_tucker=True, decompose_both=True),
    )


def lycoris_lokr_whole(folder: Path) -> torch.nn.Module:
    """LyCORIS's LoKr of whole matrices, whose alpha has no effect."""
    from lycoris.modules.lokr import LokrModule

    return by_lycoris(
        folder, 44, lambda name, layer: LokrModule(name, layer, lora_dim=4, alpha=1, factor=2, full_matrix=True)
    )


def lycoris_locon(folder: Path) -> torch.nn.Module:
    """LyCORIS's LoCon with a middle factor in the 3x3 convolution."""
    from lycoris.modules.locon import LoConModule

    return by_lycoris(folder, 45, lambda name, layer: LoConModule(name, layer, lora_dim=2, alpha=3, use_tucker=True))


def lycoris_dora(folder: Path) -> torch.nn.Module:
    """LyCORIS's DoRA with a magnitude per output feature."""
    from lycoris.modules.locon import LoConModule

    return by_lycoris(folder, 46, lambda name, layer: LoConModule(name, layer, lora_dim=2, alpha=3, weight_decompose=True))


def lycoris_dora_in(folder: Path) -> torch.nn.Module:
    """LyCORIS's older DoRA with a magnitude per input feature."""
    from lycoris.modules.locon import LoConModule

    return by_lycoris(
        folder,
        47,
        lambda name, layer: LoConModule(name, layer, lora_dim=2, alpha=3, weight_decompose=True, wd_on_out=False),
    )


WRITERS = {
    "peft-dora": peft_dora,
    "peft-loha": peft_loha,
    "peft-lokr": peft_lokr,
    "lycoris-loha": lycoris_loha,
    "lycoris-loha-tucker": lycoris_loha_tucker,
    "lycoris-lokr": lycoris_lokr,
    "lycoris-lokr-whole": lycoris_lokr_whole,
    "lycoris-locon": lycoris_locon,
    "lycoris-dora": lycoris_dora,
    "lycoris-dora-in": lycoris_dora_in,
}


def make_adapter_variants() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    inputs = {
        "sample": normal(51, 1, 4, 8, 8),
        "timestep": torch.tensor([401]),
        "encoder_hidden_states": normal(52, 1, 5, 12),
    }
    tensors: Tensors = {f"input.{key}": x for key, x in inputs.items()}
    worst = 0.0
    for name, write in WRITERS.items():
        (FOLDER / name).mkdir(parents=True)
        unet = write(FOLDER / name).requires_grad_(False)

        def call(x: Tensors, unet=unet) -> Tensors:
            return {"sample": unet(**x).sample}

        found, error = differentiate(unet, call, inputs, wrt=["sample"], seed=53)
        worst = max(worst, error)
        exact = found["output.sample"]
        with torch.no_grad():
            base = open_unet()(**inputs).sample
        change = ((exact - base).norm() / base.norm()).item()
        print(f"  {name}: changes the output by {change:.0%}")
        assert change > 0.02, "the adapter must change the output visibly"
        tensors["upstream.sample"] = found["upstream.sample"]
        tensors[f"{name}.output.sample"] = exact
    write_golden(
        "adapter-variants",
        "variants of LoRA on layers of tiny-sd's U-Net, as PEFT and LyCORIS write them",
        tensors,
        {
            "input.*": "the U-Net's inputs",
            "upstream.sample": "gradient of the loss by output.sample",
            **{f"{name}.output.*": f"predicted noise with {write.__doc__}" for name, write in WRITERS.items()},
        },
        float32_error=worst,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    make_adapter_variants()
