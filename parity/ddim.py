"""DDIMScheduler: alpha-bars, timesteps, whole 50-step sequences and their pullback, noising for training."""

import torch
from diffusers import DDIMScheduler
from golden import GOLDENS, Tensors, normal, write_golden

SD15 = dict(
    num_train_timesteps=1000,
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    steps_offset=1,
    clip_sample=False,
    set_alpha_to_one=False,
    timestep_spacing="leading",
    prediction_type="epsilon",
)

STEPS = 50
SHAPE = (2, 2, 2, 2)

# name → (change to Stable Diffusion 1.5's config, eta)
SEQUENCES = {
    "epsilon_eta0": ({}, 0.0),
    "epsilon_eta1": ({}, 1.0),
    "v_prediction_eta0": ({"prediction_type": "v_prediction"}, 0.0),
    "v_prediction_eta1": ({"prediction_type": "v_prediction"}, 1.0),
    "sample_eta0": ({"prediction_type": "sample"}, 0.0),
    "clipped_eta0": ({"clip_sample": True, "clip_sample_range": 1.0}, 0.0),
    "alpha_to_one_eta0": ({"set_alpha_to_one": True, "steps_offset": 0}, 0.0),
}

# name → a change to Stable Diffusion 1.5's config
SCHEDULES = {
    "scaled_linear": {},
    "linear": {"beta_schedule": "linear"},
    "squaredcos_cap_v2": {"beta_schedule": "squaredcos_cap_v2"},
    "zero_snr": {"rescale_betas_zero_snr": True},
}


def make_ddim() -> None:
    name = "ddim"
    DDIMScheduler(**SD15).save_pretrained(GOLDENS / name)
    tensors: Tensors = {
        "input.sample": normal(31, *SHAPE),
        "input.model_output": normal(32, STEPS, *SHAPE),
        "input.variance_noise": normal(33, STEPS, *SHAPE),
        "upstream.sample": normal(34, *SHAPE),
    }
    for case, (change, eta) in SEQUENCES.items():
        tensors |= {f"{case}.{key}": x for key, x in sequence(tensors, SD15 | change, eta).items()}
    for case, change in SCHEDULES.items():
        tensors[f"alphas_cumprod.{case}"] = DDIMScheduler(**SD15 | change).alphas_cumprod
    tensors |= noising()

    write_golden(
        name,
        "DDIMScheduler; scheduler_config.json is Stable Diffusion 1.5's",
        tensors,
        {
            "input.sample": "x_T",
            "input.model_output": "the model's output at each step, first step first [50, b, c, h, w]",
            "input.variance_noise": "the noise of each step where eta is 1",
            "upstream.sample": "gradient of the loss by the last sample of a sequence",
            **{
                f"{case}.*": f"50 steps with {change or 'the config as it is'}, eta {eta}: prev_samples after each "
                "step, gradient.sample by x_T and gradient.model_output by each step's model output"
                for case, (change, eta) in SEQUENCES.items()
            },
            "alphas_cumprod.*": "alpha-bar at each of the 1000 training timesteps for the schedule of that name",
            "noising.*": "add_noise and get_velocity at noising.timesteps",
        },
        sequences={case: {"config": change, "eta": eta} for case, (change, eta) in SEQUENCES.items()},
        schedules=SCHEDULES,
        timesteps=timesteps(),
    )


def sequence(given: Tensors, config: dict, eta: float) -> Tensors:
    scheduler = DDIMScheduler(**config)
    scheduler.set_timesteps(STEPS)
    first = given["input.sample"].double().requires_grad_()
    outputs = given["input.model_output"].double().requires_grad_()
    sample, prev_samples = first, []
    for i, t in enumerate(scheduler.timesteps):
        noise = given["input.variance_noise"][i].double() if eta > 0 else None
        sample = scheduler.step(outputs[i], t, sample, eta=eta, variance_noise=noise).prev_sample
        prev_samples.append(sample)
    by_sample, by_outputs = torch.autograd.grad(
        sample, [first, outputs], given["upstream.sample"].double(), materialize_grads=True
    )
    return {
        "prev_samples": torch.stack(prev_samples),
        "gradient.sample": by_sample,
        "gradient.model_output": by_outputs,
    }


def noising() -> Tensors:
    """Noising for the training of a diffusion model: x_t from x_0, and v for v-prediction."""
    scheduler = DDIMScheduler(**SD15)
    sample, noise, t = normal(35, 4, 1, 2, 2), normal(36, 4, 1, 2, 2), torch.tensor([0, 1, 500, 999])
    return {
        "noising.timesteps": t,
        "noising.original_samples": sample,
        "noising.noise": noise,
        "noising.noisy_samples": scheduler.add_noise(sample, noise, t),
        "noising.velocity": scheduler.get_velocity(sample, noise, t),
    }


def timesteps() -> list[dict]:
    cases = []
    for spacing in ["leading", "trailing", "linspace"]:
        for steps in [1, 7, 10, 50]:
            scheduler = DDIMScheduler(**SD15 | {"timestep_spacing": spacing})
            scheduler.set_timesteps(steps)
            cases.append({"timestep_spacing": spacing, "steps": steps, "timesteps": scheduler.timesteps.tolist()})
    return cases
