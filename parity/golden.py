"""Shared by all goldens: seeded weights, results in float64 with the error of float32, and the files.

A golden is a folder under test/goldens:

    golden.json          description: the call, the meaning of each tensor, the float32 error of PyTorch itself
    inputs.safetensors   inputs, upstream gradients, expected outputs and expected gradients
    config.json, *.safetensors   the model, as diffusers' or transformers' save_pretrained writes it
"""

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # no advice about optional packages

import diffusers
import peft
import torch
import transformers
from safetensors.torch import save_file

diffusers.logging.set_verbosity_error()
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
diffusers.logging.disable_progress_bar()

GOLDENS = Path(__file__).resolve().parent.parent / "test" / "goldens"

Tensors = dict[str, torch.Tensor]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed))


def randomize(module: torch.nn.Module, seed: int) -> None:
    """Weights that keep activations near unit size, with no bias at 0 and no norm at 1.

    The defaults of the libraries would hide mistakes: CLIP's weights are near 0.02, and a bias of 0 looks like a missing one.
    """
    random = generator(seed)
    with torch.no_grad():
        for name, parameter in sorted(module.named_parameters()):
            if parameter.ndim == 0:  # CLIP's logit scale
                continue
            noise = torch.randn(parameter.shape, generator=random)
            if parameter.ndim > 1:
                parameter.copy_(noise / math.sqrt(parameter[0].numel()))
            elif name.endswith("weight"):
                parameter.copy_(1 + 0.2 * noise)
            else:
                parameter.copy_(0.2 * noise)


def differentiate(
    module: torch.nn.Module,
    call: Callable[[Tensors], Tensors],
    inputs: Tensors,
    *,
    wrt: list[str],
    parameters: Mapping[str, torch.nn.Parameter] | None = None,
    seed: int,
) -> tuple[Tensors, float]:
    """Outputs and vector-Jacobian products of `call`, which runs `module` on `inputs`.

    The upstream gradient of each output is random and fixed. All results are computed in float64 from the float32
    weights, so that an implementation is not compared with another rounding. The second result is the error of PyTorch's
    own float32.
    """
    parameters = parameters or {}

    def evaluate(dtype: torch.dtype) -> Tensors:
        module.to(dtype)
        given = {name: x.to(dtype) if x.is_floating_point() else x for name, x in inputs.items()}
        for name in wrt:
            given[name] = given[name].clone().requires_grad_()
        for parameter in parameters.values():
            parameter.requires_grad_()
        outputs = call(given)
        upstream = {name: normal(seed + i, *y.shape).to(dtype) for i, (name, y) in enumerate(outputs.items())}
        targets = [given[name] for name in wrt] + list(parameters.values())
        gradients = torch.autograd.grad([*outputs.values()], targets, [*upstream.values()])
        names = [f"gradient.{name}" for name in wrt] + [f"gradient.parameter.{name}" for name in parameters]
        return (
            {f"upstream.{name}": x for name, x in upstream.items()}
            | {f"output.{name}": y.detach() for name, y in outputs.items()}
            | dict(zip(names, gradients, strict=True))
        )

    single = evaluate(torch.float32)
    double = evaluate(torch.float64)
    module.to(torch.float32)
    error = max(relative_error(single[name], double[name]) for name in double)
    return {f"input.{name}": x for name, x in inputs.items()} | double, error


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference, divided by the largest expected value."""
    expected = expected.double()
    return ((actual.double() - expected).abs().max() / expected.abs().max()).item()


def storable(tensors: Tensors) -> Tensors:
    return {
        name: (x.detach().float() if x.is_floating_point() else x.detach().long()).contiguous().clone()
        for name, x in tensors.items()
    }


def versions() -> dict[str, str]:
    return {
        "torch": torch.__version__.split("+")[0],
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
    }


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_golden(name: str, about: str, tensors: Tensors, meaning: Mapping[str, str], **facts: object) -> None:
    """`meaning` maps a tensor's name, or a prefix that ends in `*`, to a sentence; each tensor must have one."""
    prefixes = tuple(key[:-1] for key in meaning if key.endswith("*"))
    unexplained = [key for key in tensors if key not in meaning and not key.startswith(prefixes)]
    if unexplained:
        raise ValueError(f"{name}: `meaning` does not describe {unexplained}")
    described = {"about": about, **facts, "tensors": dict(meaning), "made_with": versions()}
    write_json(GOLDENS / name / "golden.json", described)
    save_file(storable(tensors), GOLDENS / name / "inputs.safetensors")
    print(f"{name}: {len(tensors)} tensors")
