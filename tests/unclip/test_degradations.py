import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from tests.unclip.toys import seeded
from unclip.degradations import DEGRADATIONS, bsr, degrade
from unclip.degradations.jpeg import jpeg

SIZES = st.integers(1, 40)
EMOJI = Path(__file__).parents[2] / "pipelines" / "demo" / "data" / "emoji.parquet"


def smooth(count: int, height: int, width: int) -> torch.Tensor:
    """Pictures of soft patches, in steps of 8 bits."""
    patches = torch.rand(count, 3, 6, 6, generator=seeded()).sub(0.5).mul(1.6)
    pixels = F.interpolate(patches, size=(height, width), mode="bicubic").clamp(-1, 1)
    return ((pixels + 1) * 127.5).round() / 127.5 - 1


def pillow_jpeg(pixels: torch.Tensor, quality: int) -> torch.Tensor:
    """The same through a real file; (3, H, W)."""
    file = io.BytesIO()
    content = ((pixels + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(content).save(file, "JPEG", quality=quality)
    decoded = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)
    return decoded / 127.5 - 1


@pytest.mark.parametrize("quality", [10, 40, 75, 95])
@pytest.mark.parametrize("size", [(48, 64), (45, 50)])
def test_jpeg_does_to_pixels_what_a_real_file_does(quality: int, size: tuple[int, int]) -> None:
    pixels = smooth(3, *size)
    ours = jpeg(pixels, torch.full((3,), float(quality)))
    real = torch.stack([pillow_jpeg(image, quality) for image in pixels])
    between = (ours - real).abs().mean() * 127.5
    lost = (real - pixels).abs().mean() * 127.5
    print(f"jpeg {quality} {size}: {between:.3f} of 255 between, {lost:.3f} lost")
    assert between < 1.1
    assert between < 0.45 * lost


def test_each_image_is_compressed_at_its_own_quality() -> None:
    pixels = smooth(2, 32, 32)
    quality = torch.tensor([20.0, 90.0])
    together = jpeg(pixels, quality)
    for row in range(2):
        alone = jpeg(pixels[row : row + 1], quality[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone)
    losses = (together - pixels).square().flatten(1).mean(1)
    assert losses[0] > losses[1]


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


def test_a_kernel_has_the_covariance_that_it_is_drawn_with() -> None:
    std, angle = torch.tensor([[1.5, 0.8], [1.0, 1.0]]), torch.tensor([0.6, 0.3])
    kernels = bsr.gaussian_kernels(std, angle, kernel_size=21)
    offsets = torch.arange(21) - 10.0
    y, x = torch.meshgrid(offsets, offsets, indexing="ij")
    places = torch.stack([x, y])
    covariance = torch.einsum("nyx,ayx,byx->nab", kernels, places, places)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).view(2, 2, 2)
    wanted = turn @ torch.diag_embed(std.square()) @ turn.mT
    torch.testing.assert_close(covariance, wanted, atol=5e-3, rtol=0)
    torch.testing.assert_close(kernels.sum((1, 2)), torch.ones(2))


@pytest.mark.parametrize("operation", [bsr.random_blur, bsr.random_resize])
def test_blur_and_resizing_leave_flat_images_alone(operation: object) -> None:
    flat = torch.tensor([0.3, -0.5])[:, None, None, None].expand(2, 3, 16, 16)
    torch.testing.assert_close(operation(flat, seeded()), flat)  # type: ignore[operator]


def test_noise_has_a_strength_of_its_own_for_each_image_within_its_bounds() -> None:
    noise = bsr.random_noise(torch.zeros(64, 3, 64, 64), seeded())
    stds = noise.flatten(1).std(1) / 2
    assert (stds > bsr.NOISE_STD[0] * 0.9).all()
    assert (stds < bsr.NOISE_STD[1] * 1.1).all()
    assert stds.std() > 0.0008
    grey = (noise[:, 0] == noise[:, 1]).flatten(1).all(1).float().mean().item()
    assert grey == pytest.approx(bsr.GREY_NOISE_PROBABILITY, abs=0.2)


def test_the_operations_come_in_every_order(monkeypatch: pytest.MonkeyPatch) -> None:
    places = [(lambda x, g, n=n: x * 5 + (n + 1) / 1e4) for n in range(4)]
    monkeypatch.setattr(bsr, "OPERATIONS", tuple(places))
    done = bsr.bsr(torch.zeros(1000, 1, 1, 1), seeded()).flatten().mul(1e4).round()
    digits = [tuple(int(v) // 5**k for k in range(4)) for v in done.unique().tolist()]
    assert len(digits) == 24  # as many as there are orders of four operations


@pytest.mark.parametrize("name", DEGRADATIONS)
@settings(deadline=None)  # the machine may be busy
@given(count=st.integers(1, 3), height=SIZES, width=SIZES, seed=st.integers(0, 100))
def test_a_degradation_keeps_shape_range_and_dtype_and_follows_its_generator(
    name: str, count: int, height: int, width: int, seed: int
) -> None:
    pixels = torch.rand(count, 3, height, width, generator=seeded(seed)) * 2 - 1
    first, again = (DEGRADATIONS[name](pixels, seeded(seed)) for _ in range(2))
    assert first.shape == pixels.shape
    assert first.dtype == pixels.dtype
    assert first.abs().max() <= 1 + 1e-6
    assert torch.equal(first, again)


def test_bsr_is_as_exact_under_autocast() -> None:
    pixels = smooth(4, 32, 32)
    expected = bsr.bsr(pixels, seeded())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(bsr.bsr(pixels, seeded()), expected)


def test_bsr_degrades_each_image_differently_and_leaves_out_those_not_drawn() -> None:
    pixels = smooth(1, 32, 32).expand(200, -1, -1, -1)
    degraded = degrade(pixels, "bsr", probability=0.5, generator=seeded())
    changed = (degraded != pixels).flatten(1).any(1)
    assert changed.float().mean().item() == pytest.approx(0.5, abs=0.12)
    assert len(degraded[changed].flatten(1).unique(dim=0)) == int(changed.sum())
