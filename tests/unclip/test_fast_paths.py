"""What is computed once, elsewhere or in another order is what would be computed anyway."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.unclip.toys import DECODER, PRIOR, make_batch, perturb, seeded
from unclip.models import Decoder, DiffusionPrior
from unclip.models.blocks import convolve_doubled
from unclip.models.group_norm import LARGE, GroupNorm
from unclip.models.transformer import Transformer

NONE = torch.zeros(4, dtype=torch.bool)
T = torch.tensor([0, 5, 50, 99])


def pixels(*shape: int) -> Tensor:
    x = torch.randn(shape, generator=seeded(), dtype=torch.float64)
    return x.contiguous(memory_format=torch.channels_last).requires_grad_()


def test_a_prior_that_remembers_its_caption_predicts_the_same_at_every_step() -> None:
    model, batch = DiffusionPrior(PRIOR), make_batch(8)
    perturb(model)
    with torch.no_grad():
        condition = model.condition(batch["tokens"], batch["text_embeds"], NONE)
        remembered = model.precompute(condition)
        assert remembered.caches
        for seed in range(3):
            x = torch.randn(4, 8, generator=seeded(seed))
            torch.testing.assert_close(model(x, T, remembered), model(x, T, condition))


def test_a_prior_remembers_nothing_where_gradients_are_wanted() -> None:
    model, batch = DiffusionPrior(PRIOR), make_batch(8)
    condition = model.condition(batch["tokens"], batch["text_embeds"], NONE)
    assert model.precompute(condition) is condition


def test_a_decoder_that_remembers_its_condition_predicts_the_same() -> None:
    model, batch = Decoder(DECODER), make_batch(8)
    perturb(model)
    with torch.no_grad():
        condition = model.condition(
            batch["image_embeds"], batch["tokens"], drop_image=NONE, drop_text=NONE
        )
        expected = model(batch["pixels"], T, condition)
        actual = model(batch["pixels"], T, model.precompute(condition))
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_the_last_tokens_are_the_same_whether_the_others_are_wanted_or_not(depth: int) -> None:
    model = Transformer(width=16, depth=depth, heads=2)
    x = torch.randn(2, 7, 16, generator=seeded())
    mask = torch.ones(7, 7, dtype=torch.bool).tril()[None, None]
    torch.testing.assert_close(model(x, mask, keep=2), model(x, mask)[:, -2:])


@pytest.mark.parametrize("scaled", [True, False])
def test_group_norm_of_large_maps_and_its_gradients_are_those_of_torch(scaled: bool) -> None:
    norm = GroupNorm(4, 8).double()
    nn.init.normal_(norm.weight, generator=seeded(1))
    nn.init.normal_(norm.bias, generator=seeded(2))
    x = pixels(3, 8, 32, LARGE // 32)
    own = [torch.randn(3, 8, generator=seeded(3), dtype=torch.float64, requires_grad=True)] * 2
    scale, shift = own if scaled else (None, None)
    expected = F.group_norm(x, 4, norm.weight, norm.bias)
    if scale is not None and shift is not None:
        expected = expected * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
    actual = norm(x, scale, shift)
    assert type(actual.grad_fn).__name__ == "_PerSampleBackward"
    torch.testing.assert_close(actual, expected)
    inputs = [x, norm.weight, norm.bias, *(own[:1] if scaled else [])]
    weights = torch.randn(x.shape, generator=seeded(4), dtype=torch.float64)
    for ours, theirs in zip(
        torch.autograd.grad((actual * weights).sum(), inputs),
        torch.autograd.grad((expected * weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)  # torch's mean is a float32


def test_a_convolution_of_doubled_pixels_is_one_after_doubling() -> None:
    x, conv = pixels(2, 3, 5, 7), nn.Conv2d(3, 4, 3, padding=1).double()
    doubled = conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
    torch.testing.assert_close(convolve_doubled(x, conv), doubled)
