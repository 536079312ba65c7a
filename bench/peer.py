"""Times a training step of AlignProp in PyTorch, diffusers and PEFT: the peer of `npm run bench`.

It reads the same folders as this project and runs the training step of parity/alignprop.py: text encoding, sampling with
guidance, VAE, reward, backward pass, clipping and AdamW. Prints one JSON object. A process measures one variant, because
the peak memory is measured per process; take the best of

    --checkpointing step|none          recompute each differentiated U-Net call in the backward pass, or save its activations
    --memory-format contiguous|channels_last
    --compile                          the U-Net through torch.compile, which is not timed, as warmup steps are not

`--load-only` stops when everything is loaded. Denoising steps before the last k run without a graph. Attention is PyTorch's fused scaled_dot_product_attention.
"""

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "parity"))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="a Stable Diffusion folder in the diffusers layout")
    parser.add_argument("--reward-clip", type=Path, required=True, help="a CLIPModel folder")
    parser.add_argument("--reward-head", type=Path, required=True, help="the aesthetic head's safetensors file")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--k", type=int, default=1, help="number of last denoising steps that are differentiated")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--warmup", type=int, default=1, help="training steps before the timed ones")
    parser.add_argument("--repeat", type=int, default=5, help="timed training steps")
    parser.add_argument("--checkpointing", choices=["step", "none"], default="step")
    parser.add_argument("--memory-format", choices=["contiguous", "channels_last"], default="contiguous")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--size", type=int, help="pixels along each side; left out, those that the model was trained at")
    parser.add_argument("--load-only", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if not 1 <= given.k <= given.steps:
        parser.error(f"--k {given.k} must be between 1 and {given.steps}, the number of denoising steps")
    return given


def torch_with(threads: int):
    """Imports torch with this many threads. The variables are read once, when it is imported."""
    for variable in ["OMP_NUM_THREADS", "MKL_NUM_THREADS"]:
        os.environ[variable] = str(threads)
    import torch

    torch.set_num_threads(threads)
    return torch


def main() -> None:
    given = arguments()
    torch = torch_with(given.threads)
    from alignprop import Aesthetic, Settings, Trainer

    torch.manual_seed(given.seed)
    settings = Settings(steps=given.steps, checkpointing=given.checkpointing == "step")
    trainer = Trainer(given.model, Aesthetic(given.reward_clip, given.reward_head), settings)
    if given.memory_format == "channels_last":
        trainer.to(torch.channels_last)
    optimizer = trainer.optimizer()
    mask = [i >= given.steps - given.k for i in range(given.steps)]
    prompts = [f"a photo of a {animal}" for animal in ["cat", "dog", "horse", "fox"]]
    prompts = [prompts[i % len(prompts)] for i in range(given.batch)]
    config = trainer.unet.config
    side = given.size // trainer.pipeline.vae_scale_factor if given.size else config.sample_size
    noise = torch.randn(given.batch, config.in_channels, side, side)
    if given.compile:
        # The adapter is in place, so its layers are compiled too. `compile` keeps the module and its attributes.
        trainer.unet.compile()
    loaded_rss = memory("VmRSS")
    load_seconds = since_start()
    if given.load_only:
        print(json.dumps({"load_seconds": load_seconds, "loaded_rss_bytes": loaded_rss, "peak_rss_bytes": memory("VmHWM")}))
        return

    seconds, losses = [], []
    for _ in range(given.warmup + given.repeat):
        start = time.perf_counter()
        sample = trainer.sample(prompts, noise, mask)
        sample.loss.backward()
        trainer.clip_gradients()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(sample.loss.item())
        del sample
        seconds.append(time.perf_counter() - start)
    peak_rss = memory("VmHWM")

    report = {
        "batch": given.batch,
        "steps": given.steps,
        "k": given.k,
        "threads": given.threads,
        "checkpointing": given.checkpointing,
        "memory_format": given.memory_format,
        "compile": given.compile,
        "load_seconds": load_seconds,
        "seconds": seconds[given.warmup :],
        "seconds_warmup": seconds[: given.warmup],
        "peak_rss_bytes": peak_rss,
        "loaded_rss_bytes": loaded_rss,
        "matmul_gflops": matmul_gflops(torch),
        "losses": losses,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    print(json.dumps(report, indent=2))


def memory(field: str) -> int:
    """Bytes of VmRSS (now) or VmHWM (peak)."""
    status = Path("/proc/self/status")
    line = next(line for line in status.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


def since_start() -> float:
    """Seconds since this process started."""
    started = int(Path("/proc/self/stat").read_text().rpartition(") ")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")


def matmul_gflops(torch, size: int = 2048, repeat: int = 7) -> float:
    """The best of a few square float32 products. Measured last, so that its matrices do not count in the peak memory."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    best = float("inf")
    with torch.no_grad():
        for _ in range(repeat):
            start = time.perf_counter()
            a @ b
            best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best / 1e9


if __name__ == "__main__":
    main()
