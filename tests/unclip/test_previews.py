"""Previews of models in training: every kind has one."""

import pytest
import torch

from tests.unclip import karlo_configs
from tests.unclip.toys import (
    AR_PRIOR,
    DECODER,
    ECLIPSE_PRIOR,
    LINEAR_PRIOR,
    PRIOR,
    make_batch,
    perturb,
    seeded,
    upsampler_config,
)
from unclip.config import Config
from unclip.kinds import SPECS, build, preview, spec_of
from unclip.kinds.previews import COLUMNS, similarity_maps

TINY = {
    spec_of(config): config
    for config in (
        PRIOR,
        AR_PRIOR,
        LINEAR_PRIOR,
        ECLIPSE_PRIOR,
        DECODER,
        upsampler_config(8),
        *karlo_configs.CONFIGS,
    )
}


def batch_for(config: Config, rows: int) -> dict[str, torch.Tensor]:
    """All that the kind reads, and nothing else."""
    if spec_of(config).kind == "karlo":
        batch = karlo_configs.karlo_batch(config, count=rows)
    else:
        batch = make_batch(getattr(config, "image_size", 8), count=rows)
    return {name: batch[name] for name in spec_of(config).batch_fields}


@pytest.mark.parametrize("rows", [1, 3, COLUMNS + 2])
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.kind} {spec.role}")
def test_every_kind_shows_finite_pixels_after_the_truth(spec, rows: int) -> None:  # type: ignore[no-untyped-def]
    config = TINY[spec]
    batch, shown = batch_for(config, rows), min(rows, COLUMNS)
    made = preview(perturb(build(config)), batch, generator=seeded())
    if spec.role == "prior":
        assert made.shape == (2, 3, shown, shown)
    else:
        size = config.image_size  # type: ignore[attr-defined]
        times = {"decoder": 2, "upsampler": 3}[spec.role]
        assert made.shape == (times * shown, 3, size, size)
        assert torch.equal(made[:shown], batch["pixels"][:shown])
    assert made.isfinite().all()
    assert made.abs().max() <= 1


@pytest.mark.parametrize("config", TINY.values(), ids=lambda config: type(config).__name__)
def test_a_preview_follows_its_generator(config: Config) -> None:
    model, batch = perturb(build(config)), batch_for(config, 4)
    first, again, other = (preview(model, batch, generator=seeded(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    is_random = config != LINEAR_PRIOR  # which draws no noise
    assert torch.equal(first, other) != is_random


def test_a_prior_that_predicts_the_truth_shows_it_twice() -> None:
    truth = make_batch(8)["image_embeds"]
    of_truth, of_predicted = similarity_maps(truth, 3 * truth)
    torch.testing.assert_close(of_truth, of_predicted)
    torch.testing.assert_close(of_truth[0].diagonal(), torch.ones(4))
