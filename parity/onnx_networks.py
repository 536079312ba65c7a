"""Exports networks of torchvision, transformers and timm with both ONNX exporters of PyTorch, and stores autograd's gradient.

    pip install -r parity/requirements.txt torchvision timm
    python parity/onnx_networks.py FOLDER [NAME …]
    npm run build && node dist/bench/onnx.js FOLDER

They are beside those of onnx_models.py, whose weights, goldens and exports they use: detectors, segmenters, depth networks,
text and image towers, and backbones. Those of transformers are tiny, those of timm have their published sizes. All weights
are random.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import timm
import torch
import torchvision
import transformers
from golden import normal, storable
from onnx_models import export, weighted
from safetensors.torch import save_file
from torch import nn

EXPORTS = [("torchscript", 17), ("dynamo", 20)]


class Apply(nn.Module):
    """What `f` takes from a model and an image."""

    def __init__(self, model: nn.Module, f: Callable[[nn.Module, torch.Tensor], torch.Tensor]):
        super().__init__()
        self.model = model
        self.f = f

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.f(self.model, image)


LAYERS = dict(num_hidden_layers=2, num_attention_heads=2, hidden_size=16, intermediate_size=32)
TOWER = dict(**LAYERS, image_size=64, patch_size=16)
TEXT = dict(**LAYERS, vocab_size=50, max_position_embeddings=8, eos_token_id=49, bos_token_id=48, pad_token_id=0)
IDS = torch.tensor([[48, 3, 4, 49]])
FOUR = ["stage1", "stage2", "stage3", "stage4"]


def clip() -> nn.Module:
    config = transformers.CLIPConfig(text_config=TEXT, vision_config=TOWER, projection_dim=16)
    return Apply(
        transformers.CLIPModel(config),
        lambda model, image: model(input_ids=IDS, pixel_values=image).logits_per_image,
    )


def owl_vit() -> nn.Module:
    config = transformers.OwlViTConfig(text_config=TEXT, vision_config=TOWER, projection_dim=16)
    mask = torch.ones_like(IDS)
    return Apply(
        transformers.OwlViTForObjectDetection(config),
        lambda model, image: model(input_ids=IDS, pixel_values=image, attention_mask=mask).logits,
    )


def siglip() -> nn.Module:
    model = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**TOWER))
    return Apply(model, lambda model, image: model(image).pooler_output)


def yolos() -> nn.Module:
    config = transformers.YolosConfig(**{**TOWER, "image_size": [64, 64]}, num_detection_tokens=5)
    return Apply(transformers.YolosForObjectDetection(config), lambda model, image: model(image).logits)


def deformable_detr() -> nn.Module:
    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1] * 4, layer_type="basic", out_features=FOUR[1:]
    )
    config = transformers.DeformableDetrConfig(
        use_timm_backbone=False,
        backbone=None,
        use_pretrained_backbone=False,
        backbone_config=backbone,
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_queries=4,
        num_feature_levels=3,
    )
    return Apply(transformers.DeformableDetrModel(config), lambda model, image: model(image).last_hidden_state)


def segformer() -> nn.Module:
    config = transformers.SegformerConfig(
        depths=[1] * 4, hidden_sizes=[8, 8, 16, 16], num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=16
    )
    return Apply(transformers.SegformerForSemanticSegmentation(config), lambda model, image: model(image).logits)


def dpt() -> nn.Module:
    config = transformers.DPTConfig(
        **{**TOWER, "num_hidden_layers": 4},
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=8,
    )
    return Apply(transformers.DPTForDepthEstimation(config), lambda model, image: model(image).predicted_depth)


def depth_anything() -> nn.Module:
    backbone = transformers.Dinov2Config(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=56,
        patch_size=14,
        out_features=FOUR,
        reshape_hidden_states=False,
    )
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=16,
        neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=8,
        head_hidden_size=8,
    )
    return Apply(transformers.DepthAnythingForDepthEstimation(config), lambda model, image: model(image).predicted_depth)


def deeplab() -> nn.Module:
    model = torchvision.models.segmentation.deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None)
    return Apply(model, lambda model, image: model(image)["out"])


def maxvit() -> nn.Module:
    return torchvision.models.maxvit.MaxVit((64, 64), 8, 2, [8, 16], [1, 1], 8, 0.0, num_classes=5)


def of_timm(name: str) -> tuple[Callable[[], nn.Module], int]:
    size = timm.get_pretrained_cfg(name).input_size[-1]
    return lambda: timm.create_model(name, pretrained=False, num_classes=10), size


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "clip-text-and-image": (clip, 64),
    "owl-vit": (owl_vit, 64),
    "siglip": (siglip, 64),
    "yolos": (yolos, 64),
    "deformable-detr": (deformable_detr, 64),
    "segformer": (segformer, 64),
    "dpt": (dpt, 64),
    "depth-anything": (depth_anything, 56),
    "deeplab-v3": (deeplab, 64),
    "maxvit": (maxvit, 64),
    "shufflenet-v2": (lambda: torchvision.models.shufflenet_v2_x0_5(), 64),
    "regnet": (lambda: torchvision.models.regnet_y_400mf(), 64),
    **{
        f"timm-{name}": of_timm(name)
        for name in [
            "coatnet_nano_rw_224",
            "convnextv2_atto",
            "davit_tiny",
            "edgenext_xx_small",
            "efficientformerv2_s0",
            "eva02_tiny_patch14_224",
            "fastvit_t8",
            "ghostnetv2_100",
            "hgnetv2_b0",
            "mobilevitv2_050",
            "poolformer_s12",
            "repvit_m0_9",
            "tiny_vit_5m_224",
        ]
    },
}


def main(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or NETWORKS:
        build, size = NETWORKS[name]
        image = normal(7, 1, 3, size, size)
        try:
            model, found = weighted(build, image)
        except ValueError as error:
            print(f"{name}: {error}", flush=True)
            continue
        save_file(storable({"image": image, **found}), folder / f"{name}.safetensors")
        for exporter, opset in EXPORTS:
            try:
                export(model, image, exporter, opset, folder / f"{name}.{exporter}-{opset}.onnx", strip=False)
                print(f"{name}: {exporter}", flush=True)
            except Exception as error:  # noqa: BLE001 — the exporters raise anything
                print(f"{name}: {exporter} refuses it: {str(error).splitlines()[0][:100]}", flush=True)


main(Path(sys.argv[1]), sys.argv[2:])
