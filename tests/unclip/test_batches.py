from collections.abc import Iterator

import numpy as np
import pytest
import torch
from einops import rearrange

from unclip.training import as_float, to_device
from unclip.training.batches import copied_ahead

CPU = torch.device("cpu")
NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def test_images_become_the_floats_that_numpy_computes():
    every = np.arange(256, dtype=np.uint8)
    expected = every.astype(np.float32) / np.float32(127.5) - np.float32(1)
    assert np.array_equal(as_float(torch.from_numpy(every)).numpy(), expected)
    assert expected.min() == -1
    assert expected.max() == 1


def test_images_with_their_channels_last_become_contiguous():
    stored = torch.arange(2 * 4 * 4 * 3, dtype=torch.uint8).reshape(2, 4, 4, 3)
    pixels = rearrange(stored, "b h w c -> b c h w")
    converted = as_float(pixels)
    assert converted.is_contiguous()
    assert torch.equal(converted, as_float(pixels.contiguous()))
    assert torch.equal(((converted + 1) * 127.5).round().to(torch.uint8), pixels)


def test_only_images_change_on_the_way_to_the_device():
    batch = {
        "pixels": torch.zeros(2, 3, 4, 4, dtype=torch.uint8),
        "tokens": torch.ones(2, 5, dtype=torch.int64),
        "image_embeds": torch.rand(2, 8),
        "keys": ["a", "b"],
    }
    moved = to_device(batch, CPU)
    assert torch.equal(moved["pixels"], torch.full((2, 3, 4, 4), -1.0))
    assert all(moved[name] is batch[name] for name in ("tokens", "image_embeds", "keys"))
    again = to_device(moved, CPU)
    assert all(again[name] is moved[name] for name in moved)


def test_on_a_cpu_nothing_is_copied_ahead():
    batches = iter([[{"x": torch.zeros(1)}]])
    assert copied_ahead(batches, CPU) is batches


@pytest.mark.gpu
@NEEDS_GPU
def test_on_a_gpu_every_batch_arrives_as_it_was_and_equals_that_of_a_cpu():
    closed, device = [], torch.device("cuda")

    def batch(step: int) -> dict[str, object]:
        generator = torch.Generator().manual_seed(step)
        pixels = torch.randint(256, (8, 256, 256, 3), generator=generator).to(torch.uint8)
        return {"pixels": rearrange(pixels.pin_memory(), "b h w c -> b c h w"), "keys": [step]}

    def batches() -> Iterator[list[dict[str, object]]]:
        try:
            for step in range(1000):
                yield [batch(step), batch(-step)]
        finally:
            closed.append(True)

    ahead = copied_ahead(batches(), device)
    for step in range(20):
        arrived = next(ahead)
        for moved, given in zip(arrived, (batch(step), batch(-step)), strict=True):
            assert moved["pixels"].dtype == torch.uint8
            assert moved["keys"] == given["keys"]
            converted = to_device(moved, device)["pixels"].cpu()
            assert torch.equal(converted, to_device(given, CPU)["pixels"])
    ahead.close()
    assert closed


@pytest.mark.gpu
@NEEDS_GPU
def test_on_a_gpu_an_error_of_the_loader_is_raised():
    def broken() -> Iterator[list[dict[str, object]]]:
        yield [{"x": torch.zeros(1)}]
        raise RuntimeError("in the loader")

    ahead = copied_ahead(broken(), torch.device("cuda"))
    with pytest.raises(RuntimeError, match="in the loader"):
        list(ahead)
