"""Times the generation of an image from a prompt in PyTorch and diffusers: the peer of bench/generate-image.ts.

DDIM without clipping, guidance 7.5, float32. Loading is timed on its own. Prints one JSON object.
"""

import argparse
import json
import time
from pathlib import Path

from peer import memory, since_start, torch_with


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="a Stable Diffusion folder in the diffusers layout")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--size", type=int, help="pixels along each side; left out, those that the model was trained at")
    parser.add_argument("--memory-format", choices=["contiguous", "channels_last"], default="contiguous")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=2)
    return parser.parse_args()


def main() -> None:
    given = arguments()
    torch = torch_with(given.threads)
    from diffusers import DDIMScheduler, DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(given.model, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    if given.memory_format == "channels_last":
        for module in [pipeline.unet, pipeline.vae, pipeline.text_encoder]:
            module.to(memory_format=torch.channels_last)
    loaded_rss = memory("VmRSS")
    load_seconds = since_start()
    seconds = []
    for i in range(1 + given.repeat):
        start = time.perf_counter()
        image = pipeline(
            "a photo of a cat",
            height=given.size,
            width=given.size,
            num_inference_steps=given.steps,
            guidance_scale=7.5,
            generator=torch.Generator("cpu").manual_seed(i),
            output_type="np",
        ).images
        seconds.append(time.perf_counter() - start)
    report = {
        "seconds": seconds[1:],
        "first_seconds": seconds[0],
        "load_seconds": load_seconds,
        "loaded_rss_bytes": loaded_rss,
        "peak_rss_bytes": memory("VmHWM"),
        "image": list(image.shape),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
