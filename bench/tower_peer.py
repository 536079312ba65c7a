"""Times the value and the image gradient of a reward in PyTorch and transformers: the peer of bench/tower.ts.

It reads the same folder, and the inputs and results that bench/tower.ts wrote. A process measures one variant,
because the peak memory is measured per process. Prints one JSON object.
"""

import argparse
import json
import os
import time
from pathlib import Path

from peer import memory, since_start, torch_with


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--tower", choices=["vit-l-14", "vit-h-14"], required=True)
    parser.add_argument("--results", type=Path, required=True, help="what bench/tower.ts wrote")
    parser.add_argument("--attention", choices=["sdpa", "eager"], default="sdpa")
    parser.add_argument("--checkpointing", action="store_true", help="recompute each layer in the backward pass")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    return parser.parse_args()


def main() -> None:
    given = arguments()
    torch = torch_with(given.threads)
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"

    from safetensors.torch import load_file
    from torch.nn import functional as F
    from transformers import CLIPModel, CLIPVisionModelWithProjection

    kind = CLIPVisionModelWithProjection if given.tower == "vit-l-14" else CLIPModel
    model = kind.from_pretrained(given.folder / "clip", attn_implementation=given.attention, dtype=torch.float32)
    model.eval().requires_grad_(False)
    if given.checkpointing:
        # transformers recomputes only in training mode, and CLIP computes the same in both modes.
        model.train()
        model.gradient_checkpointing_enable({"use_reentrant": False})
    normalization = json.loads((given.folder / "clip" / "preprocessor_config.json").read_text())
    mean, std = (torch.tensor(normalization[f"image_{name}"])[:, None, None] for name in ["mean", "std"])
    ours = load_file(given.results)
    if given.tower == "vit-l-14":
        head = load_file(given.folder / "head" / "model.safetensors")
    else:
        ids = ours["ids"]
    images = ours["images"].requires_grad_()
    side = (model.config.vision_config if given.tower == "vit-h-14" else model.config).image_size
    unit = lambda x: x / x.norm(dim=-1, keepdim=True)

    def rewards() -> torch.Tensor:
        pixels = (F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False) - mean) / std
        if given.tower == "vit-l-14":
            h = unit(model(pixels).image_embeds)
            for layer in [0, 2, 4, 6, 7]:
                h = F.linear(h, head[f"layers.{layer}.weight"], head[f"layers.{layer}.bias"])
            return h[:, 0]
        with torch.no_grad():
            text = unit(model.get_text_features(ids).pooler_output)
        return (unit(model.get_image_features(pixels).pooler_output) * text).sum(-1)

    loaded_rss = memory("VmRSS")
    load_seconds = since_start()
    seconds = []
    for _ in range(1 + given.repeat):
        start = time.perf_counter()
        value = rewards()
        (gradient,) = torch.autograd.grad(value.sum(), images)
        seconds.append(time.perf_counter() - start)
    error = lambda x, y: ((x - y).abs().max() / y.abs().max()).item()
    print(
        json.dumps(
            {
                "seconds": seconds[1:],
                "load_seconds": load_seconds,
                "loaded_rss_bytes": loaded_rss,
                "peak_rss_bytes": memory("VmHWM"),
                "value_error": error(ours["rewards"], value.detach()),
                "gradient_error": error(ours["gradient"], gradient),
            }
        )
    )


if __name__ == "__main__":
    main()
