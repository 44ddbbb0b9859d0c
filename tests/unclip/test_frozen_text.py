"""A prior that reads the frozen CLIP's hidden states, beside open_clip's own tower."""

from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import torch
from torch import Tensor

from tests.unclip.toys import (
    AR_PRIOR,
    ECLIPSE_PRIOR,
    PRIOR,
    agree,
    make_batch,
    perturb,
    seeded,
    toy_cascade,
)
from unclip.checkpoint import load_model, save_model
from unclip.clip.training import ClipArchitecture, build_clip
from unclip.config import Config, ConfigError
from unclip.kinds import build, training_loss
from unclip.models import FrozenText, FrozenTextConfig

TOWER = FrozenTextConfig(
    vocab_size=49408, context_length=6, width=16, depth=2, heads=2, quick_gelu=False
)
ARCHITECTURE = ClipArchitecture(
    embed_dim=8,
    image_size=8,
    patch_size=8,
    vision_width=16,
    vision_layers=1,
    vision_heads=2,
    text_context_length=6,
    text_width=16,
    text_layers=2,
    text_heads=2,
    init_temperature=0.07,
)
FROZEN = [replace(prior, text_encoder=TOWER) for prior in (PRIOR, AR_PRIOR, ECLIPSE_PRIOR)]
TOKENS = open_clip.SimpleTokenizer(context_length=6)(["a red heart", "cat", "a cup of hot tea"])


def clip(*, quick_gelu: bool = False) -> open_clip.CLIP:
    torch.manual_seed(0)
    model = open_clip.CLIP(**ARCHITECTURE.open_clip_config(), quick_gelu=quick_gelu)
    return perturb(model)


def their_hidden_states(model: open_clip.CLIP, tokens: Tensor) -> Tensor:
    hidden = model.token_embedding(tokens) + model.positional_embedding
    out: Tensor = model.ln_final(model.transformer(hidden, attn_mask=model.attn_mask))
    return out


@pytest.mark.parametrize("quick_gelu", [False, True])
def test_the_hidden_states_are_those_of_the_clip(quick_gelu: bool) -> None:
    theirs, ours = clip(quick_gelu=quick_gelu), FrozenText(replace(TOWER, quick_gelu=quick_gelu))
    ours.take_from(theirs)
    with torch.no_grad():
        text, expected = ours(TOKENS), their_hidden_states(theirs, TOKENS)
        projected = text.hidden[torch.arange(3), TOKENS.argmax(1)] @ theirs.text_projection
        wanted = theirs.encode_text(TOKENS)
    seen = text.visible
    agree(
        f"frozen text, quick_gelu {quick_gelu}",
        text.hidden[seen],
        expected[:, : seen.shape[1]][seen],
    )
    agree("the same at its end, projected", projected, wanted)


def test_what_does_not_fit_the_tower_is_cut_off() -> None:
    tower = FrozenText(TOWER)
    tower.take_from(clip())
    longer = torch.cat([TOKENS, torch.full((3, 4), 7)], dim=1)
    assert torch.equal(tower(longer).hidden, tower(TOKENS).hidden)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 32}, r"embed.weight has shape \(49408, 32\).*\(49408, 16\)"),
        ({"context_length": 9}, r"positions has shape \(9, 16\).*\(6, 16\)"),
        ({"depth": 3}, "resblocks.2.* is missing"),
        ({"depth": 1}, "depth=1, but the CLIP's tower is deeper"),
        ({"quick_gelu": True}, "quick_gelu=True, but the CLIP's is False; set it to false"),
    ],
)
def test_a_clip_of_other_sizes_is_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FrozenText(replace(TOWER, **changes)).take_from(build_clip(ARCHITECTURE))  # type: ignore[arg-type]


@pytest.mark.parametrize("config", FROZEN)
def test_training_leaves_the_tower_as_it_is_and_moves_all_else(config: Config) -> None:
    torch.manual_seed(0)
    model = build(config)
    model.text_encoder.take_from(clip())  # type: ignore[union-attr,operator]
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=1e-2)
    batch = {**make_batch(8, count=16), "tokens": TOKENS.repeat(6, 1)[:16]}
    for step in range(4):
        optimizer.zero_grad()
        training_loss(model, batch, seeded(step)).backward()
        optimizer.step()
    still = {name for name, weight in model.named_parameters() if torch.equal(weight, before[name])}
    tower = {name for name in before if name.startswith("text_encoder.") and "null" not in name}
    assert still == tower


@pytest.mark.parametrize("config", FROZEN)
def test_a_saved_prior_brings_the_tower_along(config: Config, tmp_path: Path) -> None:
    model = perturb(build(config))
    model.text_encoder.take_from(clip())  # type: ignore[union-attr,operator]
    save_model(tmp_path / "model.safetensors", model)
    loaded = load_model(tmp_path / "model.safetensors")
    assert loaded.config == config
    assert [w.requires_grad for w in loaded.parameters()] == [
        w.requires_grad for w in model.parameters()
    ]
    drawn = [
        toy_cascade(prior=prior).sample_image_embeds(
            TOKENS, make_batch(8)["text_embeds"][:3], generator=seeded()
        )
        for prior in (model, loaded)
    ]
    assert torch.equal(*drawn)
