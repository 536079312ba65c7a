"""Writes test/goldens/reference-loop.{json,safetensors}: whole runs of AlignProp with stored random numbers.

Makes the tiny model and reward (test/goldens/tiny-sd, tiny-reward). Then runs 3 training steps of 2 micro-batches for each
truncation, in float32, and again in float64 to measure the effect of rounding.
"""

import dataclasses
import random
from collections.abc import Callable

import torch
from alignprop import Aesthetic, Settings, Trainer, differentiated_steps
from golden import GOLDENS, Tensors, generator, normal, relative_error, storable, versions, write_json
from safetensors.torch import save_file
from tiny_sd import MODEL, REWARD_CLIP, REWARD_HEAD, make_tiny_sd

TRAINING_STEPS, MICRO_BATCHES, BATCH, STEPS = 3, 2, 2, 5
PROMPTS = ["a cat", "a dog", "horse", "two cats"]

SETTINGS = Settings(steps=STEPS, rank=2, checkpointing=False, max_grad_norm=0.02)

Draws = list[list[list[int]]]
"""[training step][micro-batch][denoising step]: step i is detached if i is less than its draw."""


@dataclasses.dataclass(frozen=True)
class Run:
    about: str
    draws: Draws
    settings: Settings = SETTINGS
    fresh: bool = True
    """True if B starts at 0, as in a real run. Then A has no gradient in the first training step."""


def every_micro_batch(make: Callable[[], list[int]]) -> Draws:
    return [[make() for _ in range(MICRO_BATCHES)] for _ in range(TRAINING_STEPS)]


def runs() -> dict[str, Run]:
    draw = random.Random(7).randint
    return {
        "per_step": Run(
            "a new draw at every step, the published behaviour",
            every_micro_batch(lambda: [draw(0, STEPS) for _ in range(STEPS)]),
        ),
        "k1": Run("K=1: only the last step", every_micro_batch(lambda: [STEPS - 1] * STEPS)),
        "full": Run("every step", every_micro_batch(lambda: [0] * STEPS), fresh=False),
        "maximize": Run(
            "one draw a trajectory, and the loss is minus the reward",
            every_micro_batch(lambda: [draw(0, STEPS - 1)] * STEPS),
            dataclasses.replace(SETTINGS, loss_form="maximize"),
            fresh=False,
        ),
    }


def initial_lora(trainer: Trainer, fresh: bool) -> Tensors:
    random_numbers = generator(111)
    factors = {}
    for name, factor in sorted(trainer.lora().items()):
        x = torch.randn(factor.shape, generator=random_numbers)
        if ".lora_A." in name:
            factors[name] = x / SETTINGS.rank
        else:
            factors[name] = torch.zeros_like(x) if fresh else 0.1 * x
    return factors


def noises() -> torch.Tensor:
    return normal(112, TRAINING_STEPS, MICRO_BATCHES, BATCH, 4, 8, 8)


def prompts(step: int, micro_batch: int) -> list[str]:
    first = (step * MICRO_BATCHES + micro_batch) * BATCH
    return [PROMPTS[(first + i) % len(PROMPTS)] for i in range(BATCH)]


def execute(run: Run, dtype: torch.dtype) -> tuple[Tensors, list[dict]]:
    reward = Aesthetic(REWARD_CLIP, REWARD_HEAD)
    trainer = Trainer(MODEL, reward, run.settings).to(dtype)
    lora = trainer.lora()
    with torch.no_grad():
        for name, value in initial_lora(trainer, run.fresh).items():
            lora[name].copy_(value)
    optimizer = trainer.optimizer()
    noise = noises().to(dtype)

    gradients: dict[str, list[torch.Tensor]] = {name: [] for name in lora}
    weights: dict[str, list[torch.Tensor]] = {name: [] for name in lora}
    first: Tensors = {}
    steps = []
    for step in range(TRAINING_STEPS):
        micro_batches = []
        for micro_batch in range(MICRO_BATCHES):
            draws = run.draws[step][micro_batch]
            given = prompts(step, micro_batch)
            sample = trainer.sample(given, noise[step, micro_batch], differentiated_steps(draws))
            (sample.loss / MICRO_BATCHES).backward()
            first = first or {"trajectory": torch.stack(sample.trajectory), "image": sample.image}
            micro_batches.append(
                {
                    "prompts": given,
                    "draws": draws,
                    "mask": differentiated_steps(draws),
                    "rewards": sample.rewards.tolist(),
                    "loss": sample.loss.item(),
                }
            )
        for name, factor in lora.items():
            # There is no gradient if all steps of all micro-batches were detached
            gradients[name].append(torch.zeros_like(factor) if factor.grad is None else factor.grad.clone())
        norm = trainer.clip_gradients().item()
        optimizer.step()
        optimizer.zero_grad()
        for name, factor in lora.items():
            weights[name].append(factor.detach().clone())
        loss = sum(m["loss"] for m in micro_batches) / MICRO_BATCHES
        steps.append({"loss": loss, "grad_norm": norm, "micro_batches": micro_batches})
    tensors = dict(first)
    tensors |= {f"gradient.{name}": torch.stack(x) for name, x in gradients.items()}
    tensors |= {f"weight.{name}": torch.stack(x) for name, x in weights.items()}
    return tensors, steps


def rounding(single: Tensors, double: Tensors, kind: str) -> float:
    """L2 distance divided by L2 norm, over all tensors of `kind` together, as in the parity test."""
    flat = [torch.cat([x.double().flatten() for key, x in t.items() if key.startswith(kind)]) for t in (single, double)]
    return ((flat[0] - flat[1]).norm() / flat[1].norm()).item()


def changes(tensors: Tensors, initial: Tensors) -> Tensors:
    """The changes of the weights. Three steps change a weight by at most 0.003, so an error would be small beside the weight."""
    return {f"weight.{name}": tensors[f"weight.{name}"] - x for name, x in initial.items()}


def make_reference_loop() -> None:
    make_tiny_sd()
    any_trainer = Trainer(MODEL, Aesthetic(REWARD_CLIP, REWARD_HEAD), SETTINGS)
    tensors = {"noise": noises()}
    for kind, fresh in [("fresh", True), ("started", False)]:
        tensors |= {f"lora.{kind}.{name}": x for name, x in initial_lora(any_trainer, fresh).items()}

    described = {}
    for name, run in runs().items():
        initial = initial_lora(any_trainer, run.fresh)
        single, steps = execute(run, torch.float32)
        double, exact = execute(run, torch.float64)
        tensors |= {f"{name}.{key}": value for key, value in single.items()}
        described[name] = {
            "about": run.about,
            "lora": "fresh" if run.fresh else "started",
            "settings": dataclasses.asdict(run.settings),
            "updates": steps,
            "float64": {
                "losses": [step["loss"] for step in exact],
                "grad_norms": [step["grad_norm"] for step in exact],
                "relative_distance": {
                    "trajectory": relative_error(single["trajectory"], double["trajectory"]),
                    "gradients": rounding(single, double, "gradient."),
                    "weight_changes": rounding(changes(single, initial), changes(double, initial), "weight."),
                },
            },
        }
        print(f"reference-loop: {name}, error of float32: {described[name]['float64']['relative_distance']}")

    write_json(
        GOLDENS / "reference-loop.json",
        {
            "about": "3 updates of AlignProp in PyTorch float32, with the noise, the prompts and the draws given",
            "model": "tiny-sd",
            "reward": "tiny-reward",
            "tensors": {
                "noise": "[update, micro-batch, sample, 4, 8, 8]",
                "lora.fresh.*": "initial adapter with B = 0",
                "lora.started.*": "initial adapter with B not 0",
                "<run>.trajectory": "the first micro-batch's x_T … x_0 [steps + 1, b, 4, 8, 8]",
                "<run>.image": "its decoded images, not clamped",
                "<run>.gradient.*": "each update's accumulated gradient before clipping [update, …]",
                "<run>.weight.*": "the adapter after each update [update, …]",
            },
            "runs": described,
            "made_with": versions(),
        },
    )
    save_file(storable(tensors), GOLDENS / "reference-loop.safetensors")
