"""The noise of a seeded CPU generator, and images that a pipeline generates from it."""

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from golden import generator, write_golden
from tiny_sd import MODEL

# torch.randn draws fewer than 16 elements one by one, and more in blocks of 16, of which the last one overlaps.
SIZES = [1, 3, 5, 15, 16, 17, 20, 31, 32, 64, 250, 1, 2]
SEEDS = [0, 1, 42, 2**32 - 1]

# Longer than the generator's state of 624 words.
LONG = 4 * 64 * 64

IMAGES = [
    {"prompt": "a photo of a cat", "negative": "", "seed": 0, "eta": 0.0, "height": 32, "width": 32},
    {"prompt": "a photo of a cat", "negative": "", "seed": 1, "eta": 0.0, "height": 32, "width": 32},
    {"prompt": "two dogs", "negative": "horse", "seed": 2**32 - 1, "eta": 0.5, "height": 32, "width": 48},
]
STEPS, GUIDANCE = 10, 7.5


def make_noise() -> None:
    tensors = {}
    for seed in SEEDS:
        random = generator(seed)
        drawn = [torch.randn(size, generator=random) for size in SIZES]
        tensors[f"randn.{seed}"] = torch.cat(drawn)
    long = torch.randn(1, 4, 64, 64, generator=generator(7)).flatten()
    tensors["long"] = torch.cat([long[:32], long[-32:]])

    pipeline = StableDiffusionPipeline.from_pretrained(MODEL)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    for i, request in enumerate(IMAGES):
        image = pipeline(
            request["prompt"],
            negative_prompt=request["negative"],
            generator=torch.Generator("cpu").manual_seed(request["seed"]),
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            eta=request["eta"],
            height=request["height"],
            width=request["width"],
            output_type="pt",
        ).images[0]
        tensors[f"picture.{i}"] = (image.permute(1, 2, 0) * 255).round().flatten()

    write_golden(
        "noise",
        "torch.randn from torch.Generator('cpu').manual_seed(seed), and StableDiffusionPipeline with such a generator",
        tensors,
        {
            "randn.*": "for the seed in the name, draws of the sizes in turn from one generator, one after another",
            "long": f"the first and the last 32 of {LONG} elements from seed 7",
            "picture.*": "8-bit RGB of the picture of that number, row by row, by the model tiny-sd",
        },
        sizes=SIZES,
        seeds=SEEDS,
        long=LONG,
        pictures=IMAGES,
        steps=STEPS,
        guidance=GUIDANCE,
    )
