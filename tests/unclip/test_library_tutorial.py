import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.unclip.toys import PRESET, TEXT, perturb, seeded
from unclip.checkpoint import save_model
from unclip.clip.frozen import FrozenClip
from unclip.clip.training import ClipArchitecture, build_clip
from unclip.kinds import build
from unclip.pipeline import UnclipPipeline
from unclip.presets import CLIP_VOCAB_SIZE

PAGE = Path(__file__).parents[2] / "docs" / "tutorial" / "library.md"
ARCHITECTURE = ClipArchitecture(
    embed_dim=PRESET.prior.embed_dim,
    image_size=16,
    patch_size=8,
    vision_width=64,
    vision_layers=1,
    vision_heads=2,
    text_context_length=8,
    text_width=16,
    text_layers=1,
    text_heads=2,
    init_temperature=0.07,
)


def write_models(folder: Path) -> None:
    text = replace(TEXT, vocab_size=CLIP_VOCAB_SIZE)
    configs = {
        "prior": replace(PRESET.prior, text_encoder=text),
        "decoder": replace(PRESET.decoder, text_encoder=text),
        **PRESET.upsamplers,
    }
    device = torch.device("cpu")
    clip = FrozenClip.from_trained(
        build_clip(ARCHITECTURE), ARCHITECTURE, name="toy", device=device
    )
    clip.save(folder / "clip")
    for name, config in configs.items():
        save_model(folder / f"{name}.safetensors", perturb(build(config)))


def test_every_snippet_of_the_tutorial_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_models(tmp_path / "models")
    Image.new("RGB", (20, 30), "red").save(tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(snippets) >= 5
    message: dict[str, object] = {}
    for snippet in snippets:
        exec(compile(snippet, str(PAGE), "exec"), message)
    assert Image.open("edited.png").width > Image.open("edited.png").height
    pipeline = message["whole"]
    assert isinstance(pipeline, UnclipPipeline)
    pipeline.save("generator")
    again = UnclipPipeline.from_pretrained("generator")
    wanted = pipeline.generate(["a red heart"], generator=seeded()).pixels[-1]
    assert torch.equal(again.generate(["a red heart"], generator=seeded()).pixels[-1], wanted)
