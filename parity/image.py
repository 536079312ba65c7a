"""The preprocessing of a decoded image for CLIP: clamp, resize, normalize."""

import torch
import torch.nn.functional as F
from golden import Tensors, differentiate, normal, write_golden

CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD = [0.26862954, 0.26130258, 0.27577711]

# name → (input size, output size, F.interpolate's options)
RESIZES = {
    "down": ((12, 10), (5, 7), {}),
    "up": ((5, 6), (9, 13), {}),
    "down_antialias": ((12, 10), (5, 7), {"antialias": True}),
    "up_antialias": ((5, 6), (9, 13), {"antialias": True}),
    "mixed_antialias": ((12, 5), (5, 9), {"antialias": True}),
    "down_align_corners": ((12, 10), (5, 7), {"align_corners": True}),
}


def make_image() -> None:
    nothing = torch.nn.Module()
    tensors, errors = {}, []
    for i, (case, (size, target, options)) in enumerate(RESIZES.items()):

        def resize(x: Tensors, target=target, options=options) -> Tensors:
            return {"image": F.interpolate(x["image"], target, mode="bilinear", **options)}

        recorded, error = differentiate(nothing, resize, {"image": normal(40 + i, 2, 3, *size)}, wrt=["image"], seed=50)
        tensors |= {f"resize.{case}.{key}": x for key, x in recorded.items()}
        errors.append(error)

    # With a standard deviation of 1.5, some pixels are clamped and have a gradient of 0.
    recorded, error = differentiate(
        nothing, preprocess, {"image": 1.5 * normal(60, 2, 3, 16, 16)}, wrt=["image"], seed=61
    )
    tensors |= {f"preprocess.{key}": x for key, x in recorded.items()}
    write_golden(
        "image",
        "torch.nn.functional.interpolate (bilinear), and the reward's input from a decoded image",
        tensors,
        {
            "resize.*": "resize.<case>.<input|upstream|output|gradient>.image [b, 3, h, w]",
            "preprocess.*": "decoded image in about -1 … 1, 16x16 → clamp(x/2 + 0.5, 0, 1) → bilinear 12x12, no "
            "antialiasing → CLIP's mean and deviation",
        },
        float32_error=max(*errors, error),
        resizes={
            case: {"from": size, "to": target, **options} for case, (size, target, options) in RESIZES.items()
        },
        mean=CLIP_MEAN,
        std=CLIP_STD,
    )


def preprocess(x: Tensors) -> Tensors:
    image = x["image"]
    mean, std = (torch.tensor(v, dtype=image.dtype).view(3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
    unit = (image / 2 + 0.5).clamp(0, 1)
    return {"pixel_values": (F.interpolate(unit, (12, 12), mode="bilinear") - mean) / std}
