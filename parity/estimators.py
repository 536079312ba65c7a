"""Writes test/goldens/estimators.{json,safetensors}: one training step of each estimator with stored random numbers.

Each estimator is implemented a second time, from its paper, with autograd instead of the project's vector-Jacobian products, on
the tiny model and reward of `reference_loop.py`. If an estimator computes its gradient from stored trajectories (ddpo, rwr), the
adapter changes after sampling, so that the importance ratios are not all 1 and some are clipped.
"""

import math
from collections import defaultdict, deque
from collections.abc import Callable

import torch
from alignprop import Aesthetic, Conditioning, Settings, Trainer
from golden import GOLDENS, Tensors, normal, storable, versions, write_json
from reference_loop import initial_lora
from safetensors.torch import save_file
from tiny_sd import MODEL, REWARD_CLIP, REWARD_HEAD, make_tiny_sd

STEPS, SAMPLES, NOISES = 5, 4, 2
PROMPTS = ["a cat", "a dog", "a cat", "two cats"]
SETTINGS = Settings(steps=STEPS, rank=2, checkpointing=False)
MOVED = 1.2
"""Factor of the adapter after sampling."""
DDPO = dict(clip_range=2e-4, advantage_clip=1.03, buffer_size=3, min_count=2)
TEMPERATURE = 0.5
KL_WEIGHT = 3.0
LAMBDA = 100.0
JUMPS = [2, 4, 3, 2]
K = 3


class Estimators:
    def __init__(self, dtype: torch.dtype):
        self.trainer = Trainer(MODEL, Aesthetic(REWARD_CLIP, REWARD_HEAD), SETTINGS).to(dtype)
        self.dtype = dtype
        self.scheduler = self.trainer.scheduler
        self.scheduler.set_timesteps(STEPS)
        self.initial = initial_lora(self.trainer, fresh=False)
        conditional, unconditional = self.trainer.encode(PROMPTS)
        self.both: Conditioning = {name: torch.cat([unconditional[name], x]) for name, x in conditional.items()}
        self.noise = noises()["initial"].to(dtype)
        self.move(1)

    def move(self, factor: float) -> None:
        with torch.no_grad():
            for name, parameter in self.trainer.lora().items():
                parameter.copy_(factor * self.initial[name])

    def output(self, x: torch.Tensor, step: int) -> torch.Tensor:
        return self.trainer.predict(x, self.scheduler.timesteps[step], self.both)

    def noise_of(self, output: torch.Tensor, x: torch.Tensor, step: int) -> torch.Tensor:
        """The predicted noise ε̂, for any prediction type."""
        alpha_bar = self.scheduler.alphas_cumprod[self.scheduler.timesteps[step]].to(self.dtype)
        original = self.step(output, x, step).pred_original_sample
        return (x - alpha_bar.sqrt() * original) / (1 - alpha_bar).sqrt()

    def step(self, output: torch.Tensor, x: torch.Tensor, step: int, eta: float = 0.0, noise=None):
        return self.scheduler.step(output, self.scheduler.timesteps[step], x, eta=eta, variance_noise=noise)

    def rewards(self, latents: torch.Tensor) -> torch.Tensor:
        return self.trainer.reward(self.trainer.vae.decode(latents / self.trainer.vae.config.scaling_factor).sample)

    def base(self, x: torch.Tensor, step: int) -> torch.Tensor:
        """The output of the base model."""
        self.trainer.unet.disable_adapters()
        with torch.no_grad():
            output = self.output(x, step)
        self.trainer.unet.enable_adapters()
        return output

    def draft(self, k: int, kl_weight: float = 0.0) -> dict:
        """Differentiates the last k steps. The latent before them is a constant."""
        x, divergence = self.noise, torch.zeros((), dtype=self.dtype)
        for i in range(STEPS):
            differentiated = i >= STEPS - k
            with torch.set_grad_enabled(differentiated):
                output = self.output(x, i)
                if differentiated and kl_weight > 0:
                    difference = self.noise_of(output, x.detach(), i) - self.noise_of(self.base(x, i), x.detach(), i)
                    divergence = divergence + difference.square().mean((1, 2, 3)).mean()
                x = self.step(output, x, i).prev_sample
        rewards = self.rewards(x)
        loss = self.trainer.loss(rewards) + kl_weight * divergence
        loss.backward()
        return {"loss": loss.item(), "rewards": rewards.tolist(), "kl": divergence.item()}

    def draft_lv(self) -> dict:
        last = STEPS - 1
        with torch.no_grad():
            x = self.noise
            for i in range(last):
                x = self.step(self.output(x, i), x, i).prev_sample
        sampled = self.step(self.output(x, last), x, last).prev_sample
        rewards = self.rewards(sampled)
        losses = [self.trainer.loss(rewards)]
        for noise in noises()["again"].to(self.dtype):
            x = self.scheduler.add_noise(sampled.detach(), noise, self.scheduler.timesteps[last])
            losses.append(self.trainer.loss(self.rewards(self.step(self.output(x, last), x, last).pred_original_sample)))
        loss = torch.stack(losses).mean()
        loss.backward()
        return {"loss": loss.item(), "rewards": rewards.tolist()}

    def refl(self) -> dict:
        jumped = []
        for sample, jump in enumerate(JUMPS):
            with torch.no_grad():
                x = self.noise
                for i in range(jump):
                    x = self.step(self.output(x, i), x, i).prev_sample
            jumped.append(self.step(self.output(x, jump), x, jump).pred_original_sample[sample])
        rewards = self.rewards(torch.stack(jumped))
        loss = self.trainer.loss(rewards)
        loss.backward()
        return {"loss": loss.item(), "rewards": rewards.tolist()}

    @torch.no_grad()
    def rollout(self, eta: float) -> tuple[list[torch.Tensor], torch.Tensor]:
        latents = [self.noise]
        for i in range(STEPS):
            z = noises()["steps"][i].to(self.dtype)
            latents.append(self.step(self.output(latents[-1], i), latents[-1], i, eta, z).prev_sample)
        return latents, self.rewards(latents[-1])

    def log_probability(self, x: torch.Tensor, following: torch.Tensor, i: int) -> torch.Tensor:
        """log p(x_{t-1} | x_t), mean over the elements [b]."""
        deviation = self.deviation(i)
        mean = self.step(self.output(x, i), x, i, 1.0, torch.zeros_like(x)).prev_sample
        each = -((following - mean) ** 2) / (2 * deviation**2) - deviation.log() - math.log(math.sqrt(2 * math.pi))
        return each.mean((1, 2, 3))

    def advantages(self, rewards: list[float], buffers: dict[str, deque]) -> list[float]:
        """Normalizes by the statistics of each prompt, or of all prompts if it has too few rewards, as DDPO's tracker does."""
        for prompt, reward in zip(PROMPTS, rewards, strict=True):
            buffers[prompt].append(reward)
        found = []
        for prompt, reward in zip(PROMPTS, rewards, strict=True):
            known = buffers[prompt] if len(buffers[prompt]) >= DDPO["min_count"] else rewards
            values = torch.tensor(list(known), dtype=torch.float64)
            advantage = (reward - values.mean()) / (values.std(correction=0) + 1e-6)
            found.append(advantage.clamp(-DDPO["advantage_clip"], DDPO["advantage_clip"]).item())
        return found

    def adjoint_matching(self) -> dict:
        """The regression of the paper with autograd: the control is fitted to the adjoint of the base model."""
        latents, rewards = self.rollout(eta=1.0)
        final = latents[-1].clone().requires_grad_()
        loss = self.trainer.loss(self.rewards(final)) * SAMPLES
        (adjoint,) = torch.autograd.grad(loss * LAMBDA, final)
        terms = []
        for i in reversed(range(STEPS)):
            deviation, z = self.deviation(i), noises()["steps"][i].to(self.dtype)
            x = latents[i].clone().requires_grad_()
            self.trainer.unet.disable_adapters()
            output = self.output(x, i)
            self.trainer.unet.enable_adapters()
            following = self.step(output, x, i, 1.0, z).prev_sample
            steered = self.step(self.output(latents[i], i), latents[i], i, 1.0, z).prev_sample
            control = (steered - following.detach()) / deviation
            terms.append((control + deviation * adjoint).square().sum() / 2)
            (adjoint,) = torch.autograd.grad(following, x, adjoint)
        (torch.stack(terms).sum() / (LAMBDA * SAMPLES)).backward()
        return {"loss": loss.item() / SAMPLES, "rewards": rewards.tolist()}

    def deviation(self, i: int) -> torch.Tensor:
        """σ of a step with eta = 1."""
        timestep = self.scheduler.timesteps[i]
        previous = timestep - self.scheduler.config.num_train_timesteps // STEPS
        return self.scheduler._get_variance(timestep, previous).to(self.dtype).sqrt()

    def ddpo(self, by_noise: bool = False) -> dict:
        latents, rewards = self.rollout(eta=1.0)
        buffers: dict[str, deque] = defaultdict(lambda: deque(maxlen=DDPO["buffer_size"]))
        advantages = self.advantages(rewards.tolist(), buffers)
        with torch.no_grad():
            before = [self.log_probability(latents[i], latents[i + 1], i) for i in range(STEPS)]
        self.move(MOVED)
        a = torch.tensor(advantages, dtype=self.dtype)
        losses, ratios = [], []
        for i in range(STEPS):
            ratio = (self.log_probability(latents[i], latents[i + 1], i) - before[i]).exp()
            clipped = ratio.clamp(1 - DDPO["clip_range"], 1 + DDPO["clip_range"])
            losses.append(torch.maximum(-a * ratio, -a * clipped).mean())
            ratios.append(ratio.tolist())
        deviations = torch.stack([self.deviation(i) for i in range(STEPS)])
        weights = deviations / deviations.mean() if by_noise else torch.ones_like(deviations)
        loss = (weights * torch.stack(losses)).mean()
        loss.backward()
        return {"loss": loss.item(), "rewards": rewards.tolist(), "weights": advantages, "ratios": ratios}

    def rwr(self) -> dict:
        latents, rewards = self.rollout(eta=0.0)
        advantages = (rewards - rewards.mean()) / (rewards.std(correction=0) + 1e-6)
        weights = (advantages / TEMPERATURE).softmax(0) * SAMPLES
        self.move(MOVED)
        losses = []
        for i in range(STEPS):
            noise = noises()["levels"][i].to(self.dtype)
            x = self.scheduler.add_noise(latents[-1], noise, self.scheduler.timesteps[i])
            error = self.noise_of(self.output(x, i), x, i) - noise
            losses.append((weights * error.square().mean((1, 2, 3))).mean())
        loss = torch.stack(losses).mean()
        loss.backward()
        return {"loss": loss.item(), "rewards": rewards.tolist(), "weights": weights.tolist()}


def noises() -> Tensors:
    shape = [SAMPLES, 4, 8, 8]
    return {
        "initial": normal(211, *shape),
        "steps": normal(212, STEPS, *shape),
        "again": normal(213, NOISES, *shape),
        "levels": normal(214, STEPS, *shape),
    }


ESTIMATORS: dict[str, Callable[[Estimators], dict]] = {
    "draft": lambda estimators: estimators.draft(STEPS),
    "draft-k": lambda estimators: estimators.draft(K),
    "draft-lv": Estimators.draft_lv,
    "refl": Estimators.refl,
    "adjoint-matching": Estimators.adjoint_matching,
    "ddpo": Estimators.ddpo,
    "ddpo-noise": lambda estimators: estimators.ddpo(by_noise=True),
    "rwr": Estimators.rwr,
    "kl": lambda estimators: estimators.draft(K, KL_WEIGHT),
}


def make_estimators() -> None:
    make_tiny_sd()
    tensors = dict(noises()) | {f"lora.{name}": x for name, x in Estimators(torch.float32).initial.items()}
    described = {}
    for name, run in ESTIMATORS.items():
        gradients = {}
        for dtype in [torch.float64, torch.float32]:
            estimators = Estimators(dtype)
            described[name] = run(estimators)
            gradients[dtype] = {key: x.grad for key, x in estimators.trainer.lora().items()}
        flat = {dtype: torch.cat([x.double().flatten() for x in g.values()]) for dtype, g in gradients.items()}
        distance = ((flat[torch.float32] - flat[torch.float64]).norm() / flat[torch.float64].norm()).item()
        described[name]["float32_from_float64"] = distance
        tensors |= {f"{name}.gradient.{key}": x for key, x in gradients[torch.float32].items()}
        print(f"estimators: {name}, error of float32: {distance:.1e}")
    write_json(
        GOLDENS / "estimators.json",
        {
            "about": "one update of each estimator in PyTorch float32, with noise, prompts and draws given",
            "prompts": PROMPTS,
            "steps": STEPS,
            "jumps": JUMPS,
            "k": K,
            "moved": MOVED,
            "ddpo": DDPO,
            "lambda": LAMBDA,
            "temperature": TEMPERATURE,
            "kl_weight": KL_WEIGHT,
            "guidance_scale": SETTINGS.guidance_scale,
            "target": SETTINGS.target,
            "loss_scale": SETTINGS.loss_scale,
            "rank": SETTINGS.rank,
            "updates": described,
            "made_with": versions(),
        },
    )
    save_file(storable(tensors), GOLDENS / "estimators.safetensors")
