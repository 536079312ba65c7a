"""The Python side of the exchange of adapters. `node dist/parity/adapters.js --python …` runs it.

Generates images with the adapters that the other side has written (ours/<name>/), compares them with its images, and writes
adapters of other tools and their images (theirs/<name>/).
"""

import argparse
import json
from pathlib import Path

import torch
from adapters import MODEL, WRITERS, save
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file


def main() -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    task = json.loads((folder / "task.json").read_text())
    noise = load_file(folder / "noise.safetensors")["noise"]

    def generate(pipeline: StableDiffusionPipeline) -> torch.Tensor:
        pipeline.set_progress_bar_config(disable=True)
        images = pipeline(
            task["prompts"],
            latents=noise,
            num_inference_steps=task["steps"],
            guidance_scale=task["guidance_scale"],
            output_type="pt",
        )
        return images.images

    def opened(**parts) -> StableDiffusionPipeline:
        return StableDiffusionPipeline.from_pretrained(MODEL, dtype=torch.float32, **parts)

    rows = []
    base = generate(opened())
    for ours in sorted((folder / "ours").iterdir()):
        expected = load_file(ours / "image.safetensors")["image"]

        def compare(form: str, pipeline: StableDiffusionPipeline, name=ours.name, expected=expected) -> None:
            image = generate(pipeline)
            rows.append({"name": name, "form": form, "levels": levels(image, expected), "effect": levels(base, image)})

        if (ours / "unet").is_dir():
            compare("unet/", opened(unet=UNet2DConditionModel.from_pretrained(ours, subfolder="unet")))
            continue
        for form in ["pytorch_lora_weights.safetensors", f"{ours.name}.kohya.safetensors"]:
            pipeline = opened()
            pipeline.load_lora_weights(ours, weight_name=form)
            compare(form, pipeline)

    for name, write in WRITERS.items():
        theirs = folder / "theirs" / name
        theirs.mkdir(parents=True)
        image = generate(opened(unet=write(theirs)))
        save({"image": image}, theirs / "image.safetensors")
    print(json.dumps(rows))


def levels(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference between images in 0 … 1, in steps of 1/255."""
    return 255 * (a - b).abs().max().item()


if __name__ == "__main__":
    main()
