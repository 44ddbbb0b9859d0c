"""The script of the how-to trains in one process, and under torchrun, without the pipeline."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from unclip.checkpoint import load_model

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "train_alone.md"
NAMES = ("a red heart", "a green apple", "a blue book", "a yellow sun")


def prepare(folder: Path) -> Path:
    """A folder with the page's script and pictures for it."""
    (folder / "pictures").mkdir(parents=True)
    for number, name in enumerate(NAMES):
        Image.effect_noise((40, 30), 30 + 20 * number).convert("RGB").save(
            folder / "pictures" / f"{name}.png"
        )
    (script,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (folder / "train_decoder.py").write_text(script)
    return folder


def run(folder: Path, *command: str, steps: int) -> str:
    """What the command printed."""
    env = {**os.environ, "STEPS": str(steps), "OMP_NUM_THREADS": "1"}
    options = {"cwd": folder, "env": env, "check": True, "text": True}
    return subprocess.run(command, stdout=subprocess.PIPE, **options).stdout  # type: ignore[call-overload,no-any-return]


def test_the_script_trains_a_decoder(tmp_path: Path) -> None:
    folder = prepare(tmp_path)
    printed = run(folder, sys.executable, "train_decoder.py", steps=10)
    assert re.findall(r"step (\d+): loss 0\.\d+", printed) == ["10"]
    assert load_model(folder / "decoder.safetensors").unet


@pytest.mark.slow  # three processes import torch
def test_the_script_trains_the_same_decoder_alone_and_under_torchrun(tmp_path: Path) -> None:
    alone = prepare(tmp_path / "alone")
    together = shutil.copytree(alone, tmp_path / "together")
    printed = run(alone, sys.executable, "train_decoder.py", steps=20)
    assert re.findall(r"step (\d+): loss 0\.\d+", printed) == ["10", "20"]
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2")
    run(together, *torchrun, "train_decoder.py", steps=20)
    one, other = (load_model(folder / "decoder.safetensors") for folder in (alone, together))
    pairs = list(zip(one.parameters(), other.parameters(), strict=True))
    difference = sum(float((a - b).square().sum()) for a, b in pairs)
    # Not closer: where a gradient is nearly 0, Adam makes steps from rounding errors.
    assert difference < 1e-6 * sum(float(a.square().sum()) for a, _ in pairs)
