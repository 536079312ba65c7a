"""Exports image models with both ONNX exporters of PyTorch, and stores the image gradient of autograd.

    python parity/onnx_models.py                          the tiny models of test/goldens/onnx
    python parity/onnx_models.py --folder FOLDER          the same, for more opsets
    python parity/onnx_models.py --folder FOLDER --full   the architectures at their published sizes, random weights

`node dist/bench/onnx.js FOLDER` prints the error of this project for each file.

Writes a file `<model>.safetensors` for each model (input, upstream gradient, output, gradient of the input, in float64 if the
model supports it) and an ONNX file for each exporter and opset: `<model>.<exporter>-<opset>.onnx`.
"""

import argparse
import contextlib
import io
import logging
import math
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import onnx
import torch
import torchvision
from golden import GOLDENS, normal, relative_error, storable
from safetensors.torch import save_file
from torch import nn
from torchvision.models import efficientnet, mobilenetv2, mobilenetv3, squeezenet
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    ConvNextConfig,
    ConvNextForImageClassification,
    DetrConfig,
    DetrForObjectDetection,
    Dinov2Config,
    Dinov2Model,
    ResNetConfig,
    ResNetForImageClassification,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)

# (exporter, opset), from the oldest opset that the exporter supports to one of the newest. PyTorch's fused attention needs
# opset 14.
EXPORTS = [("torchscript", 11), ("torchscript", 14), ("torchscript", 17), ("dynamo", 18), ("dynamo", 21), ("dynamo", 23)]
# For a golden, the first one of each exporter that works
GOLDEN_EXPORTS = [("torchscript", 11), ("torchscript", 14), ("dynamo", 21)]
FULL_EXPORTS = [("torchscript", 17), ("dynamo", 20)]


class Output(nn.Module):
    """One output tensor of a model that returns several."""

    def __init__(self, model: nn.Module, key: str):
        super().__init__()
        self.model = model
        self.key = key

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.model(image, return_dict=True)[self.key]


class Fires(nn.Module):
    """A narrow SqueezeNet, built from torchvision's parts."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, ceil_mode=True),
            squeezenet.Fire(8, 4, 8, 8),
            nn.MaxPool2d(3, stride=2, ceil_mode=True),
            squeezenet.Fire(16, 4, 8, 8),
            nn.Dropout(),
            nn.Conv2d(16, 5, 1),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d((1, 1)),
            nn.Flatten(),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.layers(image)


def tiny_mobilenet_v2() -> nn.Module:
    return mobilenetv2.MobileNetV2(5, 0.1, [[1, 8, 1, 1], [3, 8, 2, 2]])


def tiny_mobilenet_v3() -> nn.Module:
    config = mobilenetv3.InvertedResidualConfig
    blocks = [config(8, 3, 16, 8, True, "RE", 2, 1, 1), config(8, 5, 24, 8, True, "HS", 1, 2, 1)]
    return mobilenetv3.MobileNetV3(blocks, 16, 5)


def tiny_efficientnet() -> nn.Module:
    config = efficientnet.MBConvConfig
    blocks = [config(1, 3, 1, 8, 8, 1, 1.0, 1.0), config(4, 5, 2, 8, 12, 2, 1.0, 1.0)]
    return efficientnet.EfficientNet(blocks, 0.2, num_classes=5, last_channel=16)


def clip_vision(**options) -> nn.Module:
    return Output(CLIPVisionModelWithProjection(CLIPVisionConfig(attn_implementation="eager", **options)), "image_embeds")


def resnet_backbone(**options) -> ResNetConfig:
    return ResNetConfig(out_features=["stage2" if "depths" in options else "stage4"], **options)


def detr(backbone: ResNetConfig, **options) -> nn.Module:
    config = DetrConfig(use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, backbone_config=backbone, **options)
    return Output(DetrForObjectDetection(config), "logits")


TINY_LAYERS = dict(num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)

TINY: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet": (
        lambda: Output(
            ResNetForImageClassification(
                ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], num_labels=5)
            ),
            "logits",
        ),
        32,
    ),
    "mobilenet-v2": (tiny_mobilenet_v2, 32),
    "mobilenet-v3": (tiny_mobilenet_v3, 32),
    "efficientnet": (tiny_efficientnet, 32),
    "squeezenet": (Fires, 35),
    "convnext": (
        lambda: Output(
            ConvNextForImageClassification(ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, num_labels=5)),
            "logits",
        ),
        32,
    ),
    "vit": (
        lambda: Output(
            ViTForImageClassification(ViTConfig(hidden_size=16, image_size=24, patch_size=8, num_labels=5, **TINY_LAYERS)),
            "logits",
        ),
        24,
    ),
    # The images are larger than the position embedding, which is resized bicubically.
    "dinov2": (
        lambda: Output(
            Dinov2Model(Dinov2Config(hidden_size=16, image_size=16, patch_size=8, mlp_ratio=2, **TINY_LAYERS)),
            "pooler_output",
        ),
        24,
    ),
    # torchvision's, because PyTorch's newer exporter does not support the Swin of transformers
    "swin": (lambda: torchvision.models.SwinTransformer([4, 4], 8, [2, 2], [2, 2], [4, 4], mlp_ratio=2, num_classes=5), 32),
    "swin-transformers": (
        lambda: Output(
            SwinForImageClassification(
                SwinConfig(image_size=16, patch_size=4, embed_dim=8, depths=[2], num_heads=[2], window_size=2, num_labels=5)
            ),
            "logits",
        ),
        16,
    ),
    "clip": (lambda: clip_vision(hidden_size=16, image_size=24, patch_size=8, projection_dim=8, **TINY_LAYERS), 24),
    "detr": (
        lambda: detr(
            resnet_backbone(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"),
            d_model=16,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=24,
            decoder_ffn_dim=24,
            num_queries=6,
            num_labels=5,
        ),
        48,
    ),
}

FULL: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet-50": (lambda: torchvision.models.resnet50(), 96),
    "mobilenet-v2": (lambda: torchvision.models.mobilenet_v2(), 224),
    "mobilenet-v3": (lambda: torchvision.models.mobilenet_v3_large(), 224),
    "efficientnet-b0": (lambda: torchvision.models.efficientnet_b0(), 224),
    "squeezenet-1.1": (lambda: torchvision.models.squeezenet1_1(), 224),
    "convnext-tiny": (lambda: Output(ConvNextForImageClassification(ConvNextConfig()), "logits"), 224),
    "convnext-tiny-torchvision": (lambda: torchvision.models.convnext_tiny(), 224),
    "vit-base": (lambda: Output(ViTForImageClassification(ViTConfig()), "logits"), 224),
    "vit-base-torchvision": (lambda: torchvision.models.vit_b_32(), 224),
    "swin-tiny": (lambda: Output(SwinForImageClassification(SwinConfig()), "logits"), 224),
    "swin-v2-torchvision": (lambda: torchvision.models.swin_v2_t(), 256),
    "clip-vit-base": (lambda: clip_vision(), 224),
    "detr-resnet-50": (lambda: detr(resnet_backbone()), 224),
}


def randomize(model: nn.Module, seed: int) -> None:
    """Weights that keep activations near unit size, and batch norms whose statistics are not 0 and 1."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in sorted([*model.named_parameters(), *model.named_buffers()]):
            if not value.is_floating_point() or value.ndim == 0:
                continue
            noise = torch.randn(value.shape, generator=random)
            if name.endswith("running_var"):
                value.copy_(0.5 + noise.abs())
            elif value.ndim > 1 and name.endswith("weight"):
                value.copy_(noise / math.sqrt(value[0].numel()))
            elif name.endswith("weight"):
                value.copy_(1 + 0.2 * noise)
            elif isinstance(value, nn.Parameter) or name.endswith("running_mean"):
                value.copy_(0.2 * noise)


def differentiate(model: nn.Module, image: torch.Tensor) -> dict[str, torch.Tensor]:
    """The output, and the gradient of its product with a random upstream, in float64 if the model supports it.

    `float32_error` is the error of PyTorch's own float32 gradient.
    """

    def evaluate(dtype: torch.dtype) -> dict[str, torch.Tensor]:
        model.to(dtype)
        given = image.to(dtype).requires_grad_()
        output = model(given)
        upstream = normal(11, *output.shape).to(dtype)
        (gradient,) = torch.autograd.grad(output, given, upstream)
        return {"upstream": upstream, "output": output, "gradient": gradient}

    single = evaluate(torch.float32)
    try:
        double = evaluate(torch.float64)
    except RuntimeError:  # a buffer or a literal of the model is float32
        double = single
    finally:
        model.to(torch.float32)
    error = relative_error(single["gradient"], double["gradient"]) if double["gradient"].any() else math.inf
    return double | {"float32_error": torch.tensor([error])}


def weighted(build: Callable[[], nn.Module], image: torch.Tensor) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """The model with the first random weights whose gradient is well defined.

    A last ReLU may block all of it. If the input of a ReLU or a maximum is within rounding of the kink, float32 and float64
    take different sides of it, and both gradients are right.
    """
    torch.manual_seed(0)
    model = build().eval()
    for seed in range(5, 25):
        randomize(model, seed)
        found = differentiate(model, image)
        if found["float32_error"] < 1e-4:
            return model, found
    raise ValueError("found no weights that are away from all kinks")


def export(model: nn.Module, image: torch.Tensor, exporter: str, opset: int, path: Path, strip: bool) -> None:
    with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as scratch:
        raw = Path(scratch) / "model.onnx"
        torch.onnx.export(
            model,
            (image,),
            raw,
            dynamo=exporter == "dynamo",
            opset_version=opset,
            input_names=["image"],
            output_names=["output"],
            **({"external_data": False} if exporter == "dynamo" else {}),
        )
        proto = onnx.load(raw)
    if strip:  # metadata about the Python source is most of a tiny file
        forget(proto)
        if len(proto.SerializeToString()) > 90_000:
            shorten(proto)
    onnx.save(proto, path)


def forget(proto: onnx.ModelProto) -> None:
    for holder in [proto, proto.graph, *proto.functions, *proto.graph.value_info, *proto.graph.initializer]:
        holder.ClearField("metadata_props")
    for node in [*proto.graph.node, *(node for function in proto.functions for node in function.node)]:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    proto.graph.ClearField("value_info")


def shorten(proto: onnx.ModelProto) -> None:
    """Replaces the names of values by numbers. The names repeat the module's path and are most of a tiny file."""
    graph = proto.graph
    kept = {value.name for value in [*graph.input, *graph.output]} | {tensor.name for tensor in graph.initializer}
    numbered: dict[str, str] = {"": ""}
    for node in graph.node:
        node.name = ""
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = name if name in kept else numbered.setdefault(name, str(len(numbered)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--full", action="store_true")
    arguments = parser.parse_args()
    if arguments.full and not arguments.folder:
        parser.error("--full needs --folder: these files are large")
    golden = arguments.folder is None
    folder = arguments.folder or GOLDENS / "onnx"
    folder.mkdir(parents=True, exist_ok=True)
    models = FULL if arguments.full else TINY
    exports = FULL_EXPORTS if arguments.full else GOLDEN_EXPORTS if golden else EXPORTS
    for name in arguments.models or models:
        build, size = models[name]
        image = normal(7, 1, 3, size, size)
        model, found = weighted(build, image)
        save_file(storable({"image": image, **found}), folder / f"{name}.safetensors")
        done = set()
        for exporter, opset in exports:
            if exporter in done and golden:
                continue
            path = folder / f"{name}.{exporter}-{opset}.onnx"
            try:
                export(model, image, exporter, opset, path, strip=golden)
                print(f"{path.name}: {path.stat().st_size} bytes", flush=True)
                done.add(exporter)
            except Exception as error:
                reason = str(error).splitlines()[0][:200]
                print(f"{path.name}: not exported: {type(error).__name__}: {reason}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
