"""Times one call of a U-Net alone, or of its gradient, in PyTorch and diffusers: the peer of bench/unet-call.ts.

It reads the same folder, and the inputs and results that bench/unet-call.ts wrote, and prints how far those results are from
its own. A process measures one variant, because the peak memory is measured per process. Prints one JSON object.
"""

import argparse
import json
import time
from pathlib import Path

from peer import memory, since_start, torch_with


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="a folder with a U-Net's config.json and weights")
    parser.add_argument("--mode", choices=["forward", "gradient"], required=True)
    parser.add_argument("--results", type=Path, required=True, help="what bench/unet-call.ts wrote")
    parser.add_argument("--memory-format", choices=["contiguous", "channels_last"], default="contiguous")
    parser.add_argument("--checkpointing", action="store_true", help="recompute each block in the backward pass")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    return parser.parse_args()


def main() -> None:
    given = arguments()
    torch = torch_with(given.threads)
    from diffusers import UNet2DConditionModel
    from peft import LoraConfig
    from safetensors.torch import load_file

    model = UNet2DConditionModel.from_pretrained(given.folder, torch_dtype=torch.float32)
    model.requires_grad_(False).eval()
    theirs = load_file(given.results)
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    rank = next(x.shape[0] for name, x in theirs.items() if name.startswith("lora.") and ".lora_A." in name)
    model.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=targets))
    lora = {f"unet.{name.replace('.default', '')}": x for name, x in model.named_parameters() if ".lora_" in name}
    with torch.no_grad():
        for name, factor in lora.items():
            factor.copy_(theirs[f"lora.{name}"])
    if given.memory_format == "channels_last":
        model.to(memory_format=torch.channels_last)
    if given.checkpointing:
        # diffusers recomputes only in training mode. These U-Nets have no dropout, so both modes compute the same.
        model.train()
        model.enable_gradient_checkpointing()
    added = {"text_embeds": theirs["pooled"], "time_ids": theirs["time_ids"]} if "pooled" in theirs else None
    latents = theirs["latents"].requires_grad_(given.mode == "gradient")

    def call():
        return model(latents, theirs["timestep"], theirs["text"], added_cond_kwargs=added).sample

    def gradient():
        output = call()
        found = torch.autograd.grad(output, [latents, *lora.values()], theirs["upstream"])
        return output.detach(), found[0], dict(zip(lora, found[1:], strict=True))

    loaded_rss = memory("VmRSS")
    load_seconds = since_start()
    seconds = []
    for _ in range(1 + given.repeat):
        start = time.perf_counter()
        if given.mode == "forward":
            with torch.no_grad():
                output = call()
        else:
            output, by_latents, by_lora = gradient()
        seconds.append(time.perf_counter() - start)
    report = {
        "seconds": seconds[1:],
        "load_seconds": load_seconds,
        "loaded_rss_bytes": loaded_rss,
        "peak_rss_bytes": memory("VmHWM"),
        "output_error": error(theirs["output"], output),
    }
    if given.mode == "gradient":
        ours = torch.cat([theirs[f"gradient.{name}"].flatten() for name in lora])
        own = torch.cat([by_lora[name].flatten() for name in lora])
        report |= {
            "latents_gradient_error": error(theirs["dLatents"], by_latents),
            "lora_gradient_error": error(ours, own),
            "lora_gradient_relative_norm": ((ours - own).norm() / own.norm()).item(),
        }
    print(json.dumps(report))


def error(found, expected) -> float:
    """The largest difference, divided by the largest expected value."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


if __name__ == "__main__":
    main()
