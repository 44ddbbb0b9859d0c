"""The examples of the tutorial run, with toys in place of the packaged weights."""

import re
from pathlib import Path

import pytest
from PIL import Image

from tests.unclip.toys import toy_pipeline
from unclip import pretrained

PAGE = Path(__file__).parents[2] / "docs" / "tutorial" / "library.md"


def test_every_snippet_of_the_tutorial_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "HERE", tmp_path)
    toy_pipeline().save(tmp_path / "emoji")
    Image.effect_noise((40, 30), 90).convert("RGB").save(tmp_path / "picture.png")
    mask = Image.new("L", (40, 30))
    mask.paste(255, (0, 0, 20, 30))
    mask.save(tmp_path / "mask.png")
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(snippets) >= 5
    names: dict[str, object] = {}
    for snippet in snippets:
        exec(compile(snippet, str(PAGE), "exec"), names)
    assert Image.open("heart.png").size == (32, 32)
