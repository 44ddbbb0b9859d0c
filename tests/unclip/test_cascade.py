from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tests.unclip.toys import (
    AR_PRIOR,
    SAMPLING,
    make_batch,
    perturb,
    sampling_with,
    seeded,
    toy_cascade,
    unit,
)
from unclip.config import ConfigError
from unclip.generation import Cascade, UpsamplerSampling, closest, with_prior_noise_norms
from unclip.models import ARPrior


@pytest.fixture(scope="module")
def cascade() -> Cascade:
    return toy_cascade()


@pytest.mark.parametrize("bf16", [False, True])
def test_generate_makes_unit_embeddings_and_images_in_range(cascade: Cascade, bf16: bool) -> None:
    batch = make_batch(8)
    cascade = replace(cascade, sampling=replace(SAMPLING, bf16=bf16))
    out = cascade.generate(batch["tokens"], batch["text_embeds"], generator=seeded())
    torch.testing.assert_close(out.image_embeds.norm(dim=-1), torch.ones(4))
    assert [tuple(p.shape) for p in out.pixels] == [(4, 3, s, s) for s in (8, 16, 32)]
    for pixels in out.pixels:
        assert pixels.dtype == torch.float32
        assert pixels.abs().max() <= 1


def test_generate_follows_its_generator(cascade: Cascade) -> None:
    batch = make_batch(8)
    first, again, other = (
        cascade.generate(batch["tokens"], batch["text_embeds"], generator=seeded(seed)).pixels[-1]
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("bf16", [False, True])
def test_an_autoregressive_prior_takes_the_place_of_a_diffusion_prior(
    cascade: Cascade, bf16: bool
) -> None:
    batch = make_batch(8)
    prior = perturb(ARPrior(AR_PRIOR))
    assert isinstance(prior, ARPrior)
    cascade = replace(cascade, prior=prior, sampling=replace(SAMPLING, bf16=bf16))
    out = cascade.generate(batch["tokens"], batch["text_embeds"], generator=seeded())
    assert out.image_embeds.dtype == torch.float32
    torch.testing.assert_close(out.image_embeds.norm(dim=-1), torch.ones(4))
    assert out.pixels[-1].isfinite().all()


def test_the_candidate_closest_to_the_text_is_kept() -> None:
    text_embeds = unit(3, 8, seed=0)
    candidates = torch.stack([-text_embeds, text_embeds, unit(3, 8, seed=1)], dim=1)
    torch.testing.assert_close(closest(candidates, text_embeds), text_embeds)


def test_more_candidates_come_closer_to_the_text(cascade: Cascade) -> None:
    batch = make_batch(8, count=64)

    def similarity(candidates: int) -> float:
        sampler = replace(cascade, sampling=sampling_with(prior={"candidates": candidates}))
        drawn = sampler.sample_image_embeds(
            batch["tokens"], batch["text_embeds"], generator=seeded()
        )
        return F.cosine_similarity(drawn, batch["text_embeds"]).mean().item()

    assert similarity(8) > similarity(1)


def test_decoding_from_given_noise_is_a_function_of_it(cascade: Cascade) -> None:
    batch = make_batch(8)
    noise = torch.randn(4, 3, 8, 8, generator=seeded(3))
    first, second = (
        cascade.decode(batch["image_embeds"], batch["tokens"], generator=seeded(seed), noise=noise)
        for seed in (1, 2)
    )
    assert torch.equal(first, second)


@pytest.mark.parametrize("kept", ["image_embeds", "tokens"])
def test_decode_without_a_condition_ignores_nothing_else(cascade: Cascade, kept: str) -> None:
    batch = make_batch(8)
    noise = torch.randn(4, 3, 8, 8, generator=seeded(3))

    def decode(value: torch.Tensor) -> torch.Tensor:
        inputs = {"image_embeds": None, "tokens": None, kept: value}
        return cascade.decode(**inputs, generator=seeded(), noise=noise)

    assert not torch.allclose(decode(batch[kept]), decode(batch[kept].flip(0)))


def test_decode_without_any_condition_is_refused(cascade: Cascade) -> None:
    with pytest.raises(ConfigError, match="neither image_embeds nor tokens"):
        cascade.decode(None, None, generator=seeded())


def test_guidance_scale_one_needs_no_unconditional_pass_and_equals_its_limit(
    cascade: Cascade,
) -> None:
    batch = make_batch(8)
    noise = torch.randn(4, 3, 8, 8, generator=seeded(3))
    exact, near = (
        replace(
            cascade,
            sampling=sampling_with(decoder={"guidance_scale": scale, "dynamic_threshold": 0.9}),
        ).decode(batch["image_embeds"], batch["tokens"], generator=seeded(), noise=noise)
        for scale in (1.0, 1.0 + 1e-6)
    )
    torch.testing.assert_close(exact, near, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prior": {"candidates": 0}}, r"prior\.candidates=0"),
        ({"prior": {"temperature": 0.0}}, r"prior\.temperature=0.0"),
        ({"prior": {"sampler": "ddpm_learned"}}, "needs learned_variance, which this model"),
        ({"decoder": {"sampler": "analytic_dpm"}}, "needs noise_norms, which this model"),
        ({"decoder": {"sampler": "ddmi"}}, "decoder.sampler.*ddmi.*did you mean ddim"),
        ({"decoder": {"num_inference_steps": 0}}, "decoder: num_inference_steps=0 must be"),
        ({"decoder": {"dynamic_threshold": 99.5}}, "dynamic_threshold=99.5 is not a quantile"),
        ({"eta": -0.1}, "eta=-0.1"),
    ],
)
def test_impossible_sampling_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sampling_with(**changes)


def test_an_upsampler_takes_at_least_one_step() -> None:
    with pytest.raises(ConfigError, match="upsamplers: num_inference_steps=-1 must be at least 1"):
        UpsamplerSampling(sampler="ddim", num_inference_steps=-1)


def test_ddpm_learned_needs_a_decoder_that_learned_its_variance(cascade: Cascade) -> None:
    with pytest.raises(ConfigError, match=r"learned_variance=true"):
        replace(cascade, sampling=sampling_with(decoder={"sampler": "ddpm_learned"}))


def test_analytic_dpm_samples_once_its_noise_norms_are_estimated(cascade: Cascade) -> None:
    batch = make_batch(8)
    analytic = replace(cascade, sampling=sampling_with(prior={"sampler": "analytic_dpm"}))
    inputs = (batch["tokens"], batch["text_embeds"])
    with pytest.raises(ConfigError, match="with_prior_noise_norms"):
        analytic.sample_image_embeds(*inputs, generator=seeded())
    ready = with_prior_noise_norms(analytic, batch, generator=seeded())
    drawn = ready.sample_image_embeds(*inputs, generator=seeded())
    torch.testing.assert_close(drawn.norm(dim=-1), torch.ones(4))
