"""Writes every golden under test/goldens: `python parity/make_goldens.py [name …]`."""

import sys

import torch
from adapters import make_adapters
from clip import make_clip
from ddim import make_ddim
from estimators import make_estimators
from families import make_families
from image import make_image
from ldm import make_ldm
from noise import make_noise
from reference_loop import make_reference_loop
from rewards import make_rewards
from unet import make_unets
from vae import make_vae

MAKERS = {
    "unet": make_unets,
    "vae": make_vae,
    "clip": make_clip,
    "ddim": make_ddim,
    "image": make_image,
    "ldm": make_ldm,
    "noise": make_noise,
    "reference-loop": make_reference_loop,
    "estimators": make_estimators,
    "rewards": make_rewards,
    "families": make_families,
    "adapters": make_adapters,
}


if __name__ == "__main__":
    torch.set_num_threads(1)  # a fixed order of summation, so that a second run writes the same bytes
    chosen = sys.argv[1:] or list(MAKERS)
    unknown = [name for name in chosen if name not in MAKERS]
    if unknown:
        sys.exit(f"make_goldens: no golden is named {', '.join(unknown)}; the goldens are {', '.join(MAKERS)}")
    for name in chosen:
        MAKERS[name]()
