"""Schedules and samplers beside the implementations of diffusers, which share no code with ours."""

from typing import Any

import pytest
import torch
from diffusers import (
    DDIMInverseScheduler,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    UnCLIPScheduler,
)
from torch import Tensor

from tests.unclip.toys import agree, seeded
from unclip.denoising.guidance import threshold_dynamic
from unclip.diffusion import (
    make_schedule,
    noise_from_x_start,
    posterior_log_variance,
    posterior_mean,
    q_sample,
    respaced_timesteps,
    velocity,
)
from unclip.samplers import (
    ddim,
    ddim_inversion,
    ddpm_fixed_large,
    ddpm_fixed_small,
    ddpm_learned,
    dpm_solver_pp_2m,
)

SCHEDULES = {"cosine": "squaredcos_cap_v2", "linear": "linear"}
STEPS = 20
VISITED = respaced_timesteps(1000, STEPS)[::-1]  # rising
SHAPE = (2, 3, 5, 4)


def exact(cls: Any, name: str, **options: Any) -> Any:
    """A scheduler of theirs on our float64 betas: theirs are rounded to float32."""
    scheduler = cls(beta_schedule=SCHEDULES[name], **options)
    schedule = make_schedule(name, train_timesteps=1000)
    scheduler.betas, scheduler.alphas = schedule.betas, 1 - schedule.betas
    scheduler.alphas_cumprod = schedule.alphas_cumprod
    return scheduler


def by_visit(cls: Any, name: str, **options: Any) -> Any:
    """One whose timesteps are the visited ones alone: it counts by a fixed stride, ours by none."""
    scheduler = exact(cls, name, num_train_timesteps=STEPS, clip_sample=False, **options)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod[VISITED]
    scheduler.set_timesteps(STEPS)
    return scheduler


def predict(x: Tensor, timesteps: Tensor) -> Tensor:
    """Some smooth x_0 that depends on x and on the timestep."""
    return 0.5 * torch.sin(2 * x) * (1 - timesteps.view(-1, 1, 1, 1) / 2000)


def predict_with_variance(x: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    return predict(x, timesteps), torch.cos(3 * x)


def noise() -> Tensor:
    return torch.randn(SHAPE, generator=seeded()).double()


class SameNoise:
    """Their schedulers draw float64 noise from the generator, ours float32: draw as ours do."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
        monkeypatch.setattr(f"diffusers.schedulers.{module}.randn_tensor", self.draw)

    def draw(self, shape: Any, *, generator: torch.Generator, **options: Any) -> Tensor:
        return torch.randn(tuple(shape), generator=generator).double()


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_agree(name: str) -> None:
    schedule = make_schedule(name, train_timesteps=1000)
    scheduler = DDPMScheduler(beta_schedule=SCHEDULES[name])
    agree(f"{name} betas", schedule.betas, scheduler.betas.double(), tolerance=1e-6)
    agree(f"{name} alphas_cumprod", schedule.alphas_cumprod, scheduler.alphas_cumprod.double())


@pytest.mark.parametrize("name", SCHEDULES)
def test_noising_and_velocity_agree(name: str) -> None:
    schedule, scheduler = make_schedule(name, train_timesteps=1000), exact(DDPMScheduler, name)
    x_start, epsilon, timesteps = noise() / 2, noise().flip(0), torch.tensor([3, 900])
    noised = q_sample(x_start, timesteps, noise=epsilon, schedule=schedule)
    v = velocity(x_start, epsilon, timesteps, schedule=schedule)
    agree(f"{name} noised", noised, scheduler.add_noise(x_start, epsilon, timesteps))
    agree(f"{name} v", v, scheduler.get_velocity(x_start, epsilon, timesteps))


@pytest.mark.parametrize("kind", [DDPMScheduler, UnCLIPScheduler])
def test_posterior_means_and_variances_agree(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every timestep; what a step of theirs returns without noise is the posterior's mean."""
    name = kind.__name__
    module = f"scheduling_{'ddpm' if kind is DDPMScheduler else 'unclip'}"
    drawn = torch.zeros(SHAPE).double()
    monkeypatch.setattr(f"diffusers.schedulers.{module}.randn_tensor", lambda *_, **__: drawn)
    schedule = make_schedule("cosine", train_timesteps=1000)
    scheduler = exact(
        kind,
        "cosine",
        prediction_type="sample",
        clip_sample=False,
        variance_type="fixed_small" if kind is DDPMScheduler else "fixed_small_log",
    )
    means, variances = [], []
    for step in range(1, 1000):
        means.append(scheduler.step(noise() / 2, step, noise()).prev_sample)
        variances.append(scheduler._get_variance(step))
    every = torch.arange(1, 1000)
    ours = [
        posterior_mean(noise() / 2, noise(), step.expand(2), schedule=schedule) for step in every
    ]
    variance = posterior_log_variance(every, every, schedule=schedule).exp()
    if kind is UnCLIPScheduler:  # its standard deviations, by the name of variances
        variance = variance.sqrt()
    agree(f"posterior means, {name}", torch.stack(ours), torch.stack(means))
    agree(f"posterior variances, {name}", variance, torch.stack(variances))


@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.995])
def test_dynamic_thresholding_agrees(quantile: float) -> None:
    scheduler = DDPMScheduler(
        thresholding=True, dynamic_thresholding_ratio=quantile, sample_max_value=1e6
    )
    wild = 3 * noise().float()
    theirs = scheduler._threshold_sample(wild)
    agree(f"dynamic threshold at {quantile}", threshold_dynamic(wild, quantile=quantile), theirs)


@pytest.mark.parametrize("steps", [2, 15, 27, 64, 250, 1000])
def test_the_timesteps_visited_are_those_of_karlo(steps: int) -> None:
    scheduler = UnCLIPScheduler()
    scheduler.set_timesteps(steps)
    assert scheduler.timesteps.tolist() == respaced_timesteps(1000, steps)


@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("name", SCHEDULES)
def test_ddim_agrees(name: str, eta: float, monkeypatch: pytest.MonkeyPatch) -> None:
    SameNoise(monkeypatch, "scheduling_ddim")
    schedule = make_schedule(name, train_timesteps=1000)
    scheduler = by_visit(DDIMScheduler, name, prediction_type="sample")
    x, generator = noise(), seeded(1)
    for index, step in reversed(list(enumerate(VISITED))):
        predicted = predict(x, torch.full((2,), step))
        x = scheduler.step(predicted, index, x, eta=eta, generator=generator).prev_sample
    ours = ddim(
        predict,
        noise(),
        schedule=schedule,
        num_inference_steps=STEPS,
        eta=eta,
        generator=seeded(1),
    )
    agree(f"{name} ddim, eta {eta}", ours, x)


@pytest.mark.parametrize("name", SCHEDULES)
def test_ddim_inversion_agrees(name: str) -> None:
    schedule = make_schedule(name, train_timesteps=1000)
    scheduler = by_visit(DDIMInverseScheduler, name, prediction_type="epsilon")
    x = noise() / 2
    for index, step in enumerate(VISITED):
        timesteps = torch.full((2,), step)
        x_start = predict(x, timesteps)
        epsilon = noise_from_x_start(x_start, x, timesteps, schedule=schedule)
        x = scheduler.step(epsilon, index, x).prev_sample
    ours = ddim_inversion(predict, noise() / 2, schedule=schedule, num_inference_steps=STEPS)
    agree(f"{name} ddim inversion", ours, x)


@pytest.mark.parametrize("steps", [4, STEPS])
@pytest.mark.parametrize("name", SCHEDULES)
def test_dpm_solver_pp_2m_agrees(name: str, steps: int) -> None:
    schedule = make_schedule(name, train_timesteps=1000)
    scheduler = exact(DPMSolverMultistepScheduler, name, prediction_type="sample")
    timesteps = respaced_timesteps(1000, steps)
    scheduler.set_timesteps(timesteps=timesteps)
    levels = schedule.alphas_cumprod[timesteps]
    scheduler.sigmas = torch.cat([((1 - levels) / levels).sqrt(), torch.zeros(1).double()])
    x = noise()
    for step in timesteps:
        x = scheduler.step(predict(x, torch.full((2,), step)), step, x).prev_sample
    ours = dpm_solver_pp_2m(predict, noise(), schedule=schedule, num_inference_steps=steps)
    agree(f"{name} DPM-Solver++ (2M), {steps} steps", ours, x)


@pytest.mark.parametrize(
    ("variance", "sampler"), [("fixed_small", ddpm_fixed_small), ("fixed_large", ddpm_fixed_large)]
)
@pytest.mark.parametrize("name", SCHEDULES)
def test_ddpm_agrees(
    name: str, variance: str, sampler: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    SameNoise(monkeypatch, "scheduling_ddpm")
    scheduler = exact(
        DDPMScheduler, name, prediction_type="sample", variance_type=variance, clip_sample=False
    )
    scheduler.set_timesteps(timesteps=respaced_timesteps(1000, STEPS))
    x, generator = noise(), seeded(1)
    for step in scheduler.timesteps.tolist():
        predicted = predict(x, torch.full((2,), step))
        x = scheduler.step(predicted, step, x, generator=generator).prev_sample
    ours = sampler(
        predict,
        noise(),
        schedule=make_schedule(name, train_timesteps=1000),
        num_inference_steps=STEPS,
        generator=seeded(1),
    )
    agree(f"{name} ddpm_{variance}", ours, x)


@pytest.mark.parametrize("variance", ["fixed_small_log", "learned_range"])
def test_karlos_steps_agree(variance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    SameNoise(monkeypatch, "scheduling_unclip")
    learned = variance == "learned_range"
    scheduler = exact(
        UnCLIPScheduler,
        "cosine",
        variance_type=variance,
        prediction_type="sample",
        clip_sample=False,
    )
    x, generator = noise(), seeded(1)
    for step, previous in zip(VISITED[::-1], [*VISITED[-2::-1], None], strict=True):
        timesteps = torch.full((2,), step)
        output = torch.cat(predict_with_variance(x, timesteps), 1)
        x = scheduler.step(
            output if learned else output[:, :3],
            step,
            x,
            prev_timestep=previous,
            generator=generator,
        ).prev_sample
    options = {
        "schedule": make_schedule("cosine", train_timesteps=1000),
        "num_inference_steps": STEPS,
        "generator": seeded(1),
    }
    if learned:
        ours = ddpm_learned(predict_with_variance, noise(), **options)  # type: ignore[arg-type]
    else:
        ours = ddpm_fixed_small(predict, noise(), **options)  # type: ignore[arg-type]
    agree(f"UnCLIPScheduler, {variance}", ours, x)
