"""Previews of models in training."""

import pytest
import torch

from unclip.models import build
from unclip.presets import tiny
from unclip.previews import COLUMNS, preview

PRESET = tiny()


def batch(size: int, rows: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.zeros(rows, 24, dtype=torch.int64)
    tokens[:, 0] = 7
    return {
        "pixels": torch.rand(rows, 3, size, size, generator=generator) * 2 - 1,
        "image_embeds": torch.nn.functional.normalize(torch.randn(rows, 64, generator=generator)),
        "tokens": tokens,
    }


@pytest.mark.parametrize(("name", "rows_of_tiles"), [("decoder", 2), ("upsampler_2", 3)])
@pytest.mark.parametrize("given", [3, COLUMNS + 2])
def test_the_truth_stands_above_what_the_model_makes(
    name: str, rows_of_tiles: int, given: int
) -> None:
    model = build(getattr(PRESET, name)).eval()
    size = model.config.image_size
    pictures = preview(model, batch(size, given), generator=torch.Generator().manual_seed(1))
    shown = min(given, COLUMNS)
    assert pictures is not None
    assert pictures.shape == (rows_of_tiles * shown, 3, size, size)
    assert torch.equal(pictures[:shown], batch(size, given)["pixels"][:shown])
    assert pictures.abs().max() <= 1


def test_a_prior_makes_no_picture() -> None:
    prior = build(PRESET.prior)
    assert preview(prior, batch(16, 2), generator=torch.Generator()) is None
