"""The BSR degradation on the images of the demo, which are read with pyarrow."""

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from tests.unclip.toys import seeded
from unclip.degradations import bsr

EMOJI = Path(__file__).parents[2] / "pipelines" / "demo" / "data" / "emoji.parquet"


def emoji(count: int, side: int) -> torch.Tensor:
    """Emoji of all groups of the demo on white, (N, 3, S, S)."""
    contents = pq.read_table(EMOJI, columns=["image"])["image"].to_pylist()
    images = []
    for content in contents[:: len(contents) // count][:count]:
        image = Image.open(io.BytesIO(content)).convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        flat = Image.alpha_composite(white, image).convert("RGB")
        images.append(np.array(flat.resize((side, side), Image.Resampling.BOX)))
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 127.5 - 1


def test_bsr_is_as_light_as_that_of_latent_diffusion() -> None:
    pixels = emoji(200, 64)
    errors = (bsr.bsr(pixels, seeded()) - pixels).div(2).square().flatten(1).mean(1)
    low, middle, high = (-10 * errors.log10()).quantile(torch.tensor([0.05, 0.5, 0.95])).tolist()
    print(f"bsr on emoji: PSNR {low:.1f}, {middle:.1f}, {high:.1f} dB")
    assert middle == pytest.approx(26.2, abs=0.6)  # its light variant; full BSR is 4 dB below
    assert low == pytest.approx(19.8, abs=1.5)
    assert high == pytest.approx(32.1, abs=1.5)
