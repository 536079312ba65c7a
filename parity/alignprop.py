"""A training step of AlignProp in PyTorch, diffusers and PEFT, with which this project's trainer is compared.

It follows the algorithm of Prabhudesai et al. 2023, arXiv 2310.03739, as the published code runs it (see "Fidelity" in
docs/architecture.md):

    x_T ~ N(0, I)
    for i, t in timesteps:  ε = guidance(unet(x_t, t));  ε is detached where mask[i] is false;  x ← DDIM(x, ε, t)
    loss = scale · mean over the batch of |reward(decode(x_0)) - target|
    accumulate over micro-batches, clip the norm, AdamW on the LoRA factors

Only ε is detached. The gradient still passes a detached step through the linear term in x_t of DDIM.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, DiffusionPipeline
from peft import LoraConfig
from safetensors.torch import load_file
from torch.utils.checkpoint import checkpoint
from transformers import CLIPModel

LORA_TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]

Conditioning = dict[str, torch.Tensor]
"""`text` [b, tokens, d] and, in Stable Diffusion XL, `pooled` [b, p]."""


@dataclass(frozen=True)
class Settings:
    steps: int = 50
    guidance_scale: float = 7.5
    loss_form: str = "target"  # or "maximize"
    target: float = 10.0
    loss_scale: float = 0.01
    rank: int = 4
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    max_grad_norm: float = 5.0
    negative_prompt: str = ""
    checkpointing: bool = True
    """Recompute each U-Net call in the backward pass, as the reference does, instead of saving its activations."""


@dataclass
class Sample:
    """The results of one micro-batch. The loss still has its graph."""

    trajectory: list[torch.Tensor]
    image: torch.Tensor
    rewards: torch.Tensor
    loss: torch.Tensor


class Aesthetic(torch.nn.Module):
    """CLIP image embedding, L2-normalised, through an MLP without activations (LAION's aesthetic predictor).

    Layers 1, 3 and 5 are the dropouts of the published head. They have no weights, but they count in the names of weights.
    """

    def __init__(self, clip_folder: Path, head_file: Path):
        super().__init__()
        self.clip = CLIPModel.from_pretrained(clip_folder, dtype=torch.float32)
        weights = {name: x.float() for name, x in load_file(head_file).items()}
        self.layers = torch.nn.ModuleDict()
        for i in sorted(int(name.split(".")[1]) for name in weights if name.endswith(".weight")):
            features, inputs = weights[f"layers.{i}.weight"].shape
            self.layers[str(i)] = torch.nn.Linear(inputs, features)
        unknown = self.load_state_dict(weights, strict=False).unexpected_keys
        if unknown:
            raise ValueError(f"{head_file}: these tensors do not belong to an aesthetic head: {unknown}")
        self.size: int = self.clip.config.vision_config.image_size
        preprocessor = json.loads((Path(clip_folder) / "preprocessor_config.json").read_text())
        for name in ["mean", "std"]:
            values = torch.tensor(preprocessor[f"image_{name}"]).view(3, 1, 1)
            self.register_buffer(name, values, persistent=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Decoded image in about -1 … 1 [b, 3, h, w] → reward [b]."""
        unit = (image / 2 + 0.5).clamp(0, 1)
        pixels = (F.interpolate(unit, (self.size, self.size), mode="bilinear") - self.mean) / self.std
        x = F.normalize(self.clip.get_image_features(pixels).pooler_output, dim=-1)
        for layer in self.layers.values():
            x = layer(x)
        return x.squeeze(1)


class Trainer:
    def __init__(self, model: Path, reward: Aesthetic, settings: Settings):
        self.settings = settings
        self.pipeline = DiffusionPipeline.from_pretrained(model, dtype=torch.float32)
        self.pipeline.set_progress_bar_config(disable=True)
        self.unet, self.vae, self.reward = self.pipeline.unet, self.pipeline.vae, reward
        # DDIM without clipping, whatever the scheduler of the folder is
        self.scheduler = DDIMScheduler.from_config(self.pipeline.scheduler.config, clip_sample=False)
        self.models = [self.unet, self.vae, self.pipeline.text_encoder, self.reward]
        self.is_xl = hasattr(self.pipeline, "text_encoder_2")
        if self.is_xl:
            self.models.append(self.pipeline.text_encoder_2)
        for frozen in self.models:
            frozen.requires_grad_(False).eval()
        rank = settings.rank
        self.unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=LORA_TARGETS))
        with torch.no_grad():
            for name, factor in self.lora().items():
                if ".lora_A." in name:
                    factor.normal_(std=1 / rank)

    def to(self, target) -> "Trainer":
        """Converts all models to a dtype or a memory format."""
        options = {"memory_format": target} if isinstance(target, torch.memory_format) else {"dtype": target}
        for module in self.models:
            module.to(**options)
        return self

    def lora(self) -> dict[str, torch.nn.Parameter]:
        """The LoRA factors, by their names in pytorch_lora_weights.safetensors."""
        return {
            f"unet.{name.replace('.default', '')}": parameter
            for name, parameter in self.unet.named_parameters()
            if ".lora_" in name
        }

    def optimizer(self) -> torch.optim.AdamW:
        s = self.settings
        return torch.optim.AdamW(
            self.lora().values(), s.learning_rate, betas=s.betas, eps=s.epsilon, weight_decay=s.weight_decay
        )

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> tuple[Conditioning, Conditioning]:
        """Encodes the prompts, and the negative prompt for each of them, with the pipeline's own `encode_prompt`."""
        given = dict(device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True)
        negative = self.settings.negative_prompt
        if not self.is_xl:
            text, unconditional = self.pipeline.encode_prompt(
                list(prompts), negative_prompt=[negative] * len(prompts), **given
            )
            return {"text": text}, {"text": unconditional}
        # None instead of an empty negative prompt, so that force_zeros_for_empty_prompt applies
        text, unconditional, pooled, unconditional_pooled = self.pipeline.encode_prompt(
            list(prompts), negative_prompt=[negative] * len(prompts) if negative else None, **given
        )
        return {"text": text, "pooled": pooled}, {"text": unconditional, "pooled": unconditional_pooled}

    def time_ids(self, latents: torch.Tensor) -> torch.Tensor:
        """Time ids of Stable Diffusion XL for an image of the original size, not cropped [b, 6]."""
        size = [side * self.pipeline.vae_scale_factor for side in latents.shape[2:]]
        return torch.tensor([size + [0, 0] + size], dtype=latents.dtype).repeat(latents.shape[0], 1)

    def call_unet(self, latents: torch.Tensor, timestep: torch.Tensor, given: Conditioning) -> torch.Tensor:
        added = {"text_embeds": given["pooled"], "time_ids": self.time_ids(latents)} if self.is_xl else None
        arguments = dict(encoder_hidden_states=given["text"], added_cond_kwargs=added)
        if self.settings.checkpointing and torch.is_grad_enabled():
            return checkpoint(self.unet, latents, timestep, use_reentrant=False, **arguments).sample
        return self.unet(latents, timestep, **arguments).sample

    def sample(self, prompts: Sequence[str], noise: torch.Tensor, mask: Sequence[bool]) -> Sample:
        """Noise [b, c, h, w] → images, rewards and loss. Step i is differentiated if `mask[i]` is true."""
        self.scheduler.set_timesteps(self.settings.steps)
        conditional, unconditional = self.encode(prompts)
        both = {name: torch.cat([unconditional[name], x]) for name, x in conditional.items()}
        latents, trajectory = noise, [noise]
        for timestep, differentiated in zip(self.scheduler.timesteps, mask, strict=True):
            with torch.set_grad_enabled(differentiated):
                predicted = self.predict(latents, timestep, both)
            latents = self.scheduler.step(predicted, timestep, latents, eta=0.0).prev_sample
            trajectory.append(latents.detach())
        image = self.vae.decode(latents / self.vae.config.scaling_factor).sample
        rewards = self.reward(image)
        return Sample(trajectory, image.detach(), rewards.detach(), self.loss(rewards))

    def predict(self, latents: torch.Tensor, timestep: torch.Tensor, both: Conditioning) -> torch.Tensor:
        noise = self.call_unet(torch.cat([latents, latents]), timestep, both)
        unconditional, conditional = noise.chunk(2)
        return unconditional + self.settings.guidance_scale * (conditional - unconditional)

    def loss(self, rewards: torch.Tensor) -> torch.Tensor:
        each = -rewards if self.settings.loss_form == "maximize" else (rewards - self.settings.target).abs()
        return each.mean() * self.settings.loss_scale

    def clip_gradients(self) -> torch.Tensor:
        """Clips in place. Returns the norm before clipping."""
        return torch.nn.utils.clip_grad_norm_(self.lora().values(), self.settings.max_grad_norm)


def differentiated_steps(draws: Sequence[int]) -> list[bool]:
    """The mask of a trajectory: step i is detached if i is less than its draw."""
    return [i >= draw for i, draw in enumerate(draws)]
