"""Every image is decoded upright and in its colours, or refused with its reason."""

import io
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from pipelines.data.decode import decode_bgr, decode_rgb
from pipelines.data.images import ImageEncoder
from pipelines.data.pixels import decode_pixels
from pipelines.data.url_policy import Refused
from tests.pipelines.hostile_images import EPS, IMAGES, MAX_PIXELS, Colours

# pytest sets its own filters in place of those of the decoder.
pytestmark = pytest.mark.filterwarnings("ignore:Tag data|Corrupt EXIF:UserWarning")

TOLERANCE = 12  # of 255: JPEG and conversions between colour spaces
ENCODER = ImageEncoder(
    image_size=32,
    resize_mode="border",
    encode_format="png",
    encode_quality=1,
    renditions=(16,),
    max_pixels=MAX_PIXELS,
)


def colours(image: Image.Image) -> Colours:
    """The middle of each quadrant."""
    width, height = image.size
    return tuple(image.getpixel((x * width // 4, y * height // 4)) for y in (1, 3) for x in (1, 3))


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_is_decoded_upright_and_in_its_colours_or_refused(name: str) -> None:
    case = IMAGES[name]
    if case.reason is not None:
        with pytest.raises(Refused) as refused:
            decode_bgr(case.content, max_pixels=MAX_PIXELS)
        assert refused.value.reason == case.reason, refused.value.detail
        return
    image = Image.fromarray(decode_bgr(case.content, max_pixels=MAX_PIXELS)[:, :, ::-1])
    assert (image.mode, image.size) == ("RGB", case.size)
    if case.colours is not None:
        difference = np.abs(np.subtract(colours(image), case.colours))
        assert difference.max() <= TOLERANCE, colours(image)


@pytest.mark.parametrize("name", IMAGES)
def test_the_fast_decoder_gives_what_pillow_gives(name: str) -> None:
    content = IMAGES[name].content
    try:
        slow = decode_rgb(content, max_pixels=MAX_PIXELS)
    except Refused as refused:
        with pytest.raises(Refused, match=refused.reason):
            decode_bgr(content, max_pixels=MAX_PIXELS)
        return
    fast = decode_bgr(content, max_pixels=MAX_PIXELS)
    assert np.array_equal(fast[:, :, ::-1], np.asarray(slow))


@pytest.mark.parametrize("name", [name for name, case in IMAGES.items() if case.reason is None])
def test_an_image_that_can_be_decoded_is_stored_or_refused(name: str) -> None:
    case = IMAGES[name]
    if case.stored_reason is not None:
        with pytest.raises(Refused, match=case.stored_reason):
            ENCODER.columns(case.content)
        return
    columns = ENCODER.columns(case.content)
    assert (columns["original_width"], columns["original_height"]) == case.size
    assert decode_pixels(columns["image"], 32).shape == (32, 32, 3)
    assert decode_pixels(columns["image_16"], 16).shape == (16, 16, 3)


def test_an_eps_starts_no_other_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = tmp_path / "started"
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\necho $0 > {started}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    with pytest.raises(Refused, match="not_an_image"):
        decode_rgb(EPS.encode(), max_pixels=MAX_PIXELS)
    assert not started.exists()
    with suppress(OSError):
        Image.open(io.BytesIO(EPS.encode())).load()
    assert started.exists()  # Pillow would have started it
