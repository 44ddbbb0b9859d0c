"""Model kinds and samplers of the user's own, named "module:name", from outside the package."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.unclip.toys import make_batch, perturb, sampling_with, seeded, toy_cascade
from unclip.checkpoint import CheckpointError, load_model, save_model
from unclip.config import ConfigError
from unclip.kinds import SPECS, build, find_spec, preview, spec_of, training_loss
from unclip.pipeline import UnclipPipeline
from unclip.samplers import SAMPLERS, find_sampler

KIND = """
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from unclip.config import Config
from unclip.kinds.previews import COLUMNS, similarity_maps
from unclip.kinds.spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class RegressionConfig(Config):
    model_kind: ClassVar[str] = "own_kind:REGRESSION"
    unit_norm: ClassVar[bool] = True

    embed_dim: int
    widths: tuple[int, ...]


class Regression(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        sizes = (config.embed_dim, *config.widths, config.embed_dim)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:]))

    def forward(self, text_embeds):
        for layer in self.layers[:-1]:
            text_embeds = F.silu(layer(text_embeds))
        return F.normalize(self.layers[-1](text_embeds), dim=-1)


def loss(model, batch, generator):
    return F.mse_loss(model(batch["text_embeds"]), batch["image_embeds"])


def sample(model, tokens, text_embeds, *, guidance_scale, temperature, generator):
    return model(text_embeds)


def preview(model, batch, generator):
    predicted = model(batch["text_embeds"][:COLUMNS])
    return similarity_maps(batch["image_embeds"][:COLUMNS], predicted.detach())


REGRESSION = ModelSpec(
    role="prior",
    kind="regression",
    config=RegressionConfig,
    network=Regression,
    loss=loss,
    batch_fields=("image_embeds", "text_embeds"),
    sample=sample,
    preview=preview,
)


class OtherConfig(RegressionConfig):
    model_kind: ClassVar[str] = "own_kind:REGRESSION"


LOST = ModelSpec(
    role="prior",
    kind="lost",
    config=OtherConfig,
    network=Regression,
    loss=loss,
    batch_fields=("image_embeds", "text_embeds"),
    sample=sample,
    preview=preview,
)
"""

SAMPLER = """
import torch

from unclip.samplers import ETA, needs, randn_like, steps_of
from unclip.samplers.common import timesteps_of


def one_shot(denoise, x, *, schedule, num_inference_steps, generator):
    step = next(steps_of(schedule, num_inference_steps))
    return denoise(x, timesteps_of(x, step.timestep))


@needs(ETA)
def shaken(denoise, x, *, schedule, num_inference_steps, generator, eta):
    made = one_shot(
        denoise, x, schedule=schedule, num_inference_steps=num_inference_steps, generator=generator
    )
    return made + eta * randn_like(made, generator)


NOT_A_FUNCTION = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The folder of the user's modules is on the path, as that of a configuration is."""
    (tmp_path / "own_kind.py").write_text(KIND)
    (tmp_path / "own_sampler.py").write_text(SAMPLER)
    monkeypatch.syspath_prepend(tmp_path)
    find_spec("prior", "own_kind:REGRESSION")
    yield sys.modules["own_kind"]
    for name in ("own_kind", "own_sampler"):
        sys.modules.pop(name, None)


def test_a_kind_of_ones_own_is_built_trained_shown_and_saved(
    own: ModuleType, tmp_path: Path
) -> None:
    config = own.RegressionConfig(embed_dim=8, widths=(4, 5))
    model, batch = perturb(build(config)), make_batch(8)
    assert spec_of(model) is own.REGRESSION
    training_loss(model, batch, seeded()).backward()
    assert all(weight.grad is not None for weight in model.parameters())
    assert preview(model, batch, generator=seeded()).shape == (2, 3, 4, 4)
    save_model(tmp_path / "model.safetensors", model)
    sys.modules.pop("own_kind")  # another process has not imported it
    loaded = load_model(tmp_path / "model.safetensors")
    assert vars(loaded.config) == vars(config)
    assert torch.equal(loaded(batch["text_embeds"]), model(batch["text_embeds"]))


def test_a_prior_of_ones_own_draws_images_in_a_cascade(own: ModuleType) -> None:
    model, batch = build(own.RegressionConfig(embed_dim=8, widths=(4,))), make_batch(8)
    cascade = toy_cascade(sampling_with(prior={"guidance_scale": 1.0}), prior=perturb(model))
    made = cascade.generate(batch["tokens"], batch["text_embeds"], generator=seeded())
    torch.testing.assert_close(made.image_embeds, model(batch["text_embeds"]))
    assert made.pixels[-1].isfinite().all()


def test_a_saved_cascade_keeps_a_kind_of_ones_own(own: ModuleType, tmp_path: Path) -> None:
    model = perturb(build(own.RegressionConfig(embed_dim=8, widths=(4,))))
    UnclipPipeline(toy_cascade(prior=model), None).save(tmp_path / "generator")
    sys.modules.pop("own_kind")
    loaded = UnclipPipeline.from_pretrained(tmp_path / "generator").cascade.prior
    assert loaded is not None
    assert torch.equal(loaded.layers[0].weight, model.layers[0].weight)  # type: ignore[union-attr,index]


def test_a_file_of_a_kind_whose_module_is_gone_says_so(own: ModuleType, tmp_path: Path) -> None:
    save_model(tmp_path / "m.safetensors", build(own.RegressionConfig(embed_dim=8, widths=(4,))))
    (tmp_path / "own_kind.py").unlink()
    sys.modules.pop("own_kind")
    with pytest.raises(CheckpointError, match="there is no module 'own_kind' on the Python path"):
        load_model(tmp_path / "m.safetensors")


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("role", "kind", "message"),
    [
        ("prior", "difusion", "did you mean diffusion"),
        ("decoder", "own_kind:REGRESSION", "is a prior, but a decoder is needed"),
        ("prior", "own_kind:Regression", "is of type type, not a ModelSpec"),
        ("prior", "own_kind:LOST", "set model_kind: ClassVar"),
    ],
)
def test_a_kind_that_cannot_be_used_is_refused(role: str, kind: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_spec(role, kind)  # type: ignore[arg-type]


def test_a_config_without_a_kind_is_refused(own: ModuleType) -> None:
    class Nameless(own.Config):  # type: ignore[misc,name-defined]
        pass

    with pytest.raises(ConfigError, match="Nameless is of no known model kind"):
        spec_of(Nameless())


def test_every_kind_is_found_by_its_role_and_name() -> None:
    assert [find_spec(spec.role, spec.kind) for spec in SPECS] == list(SPECS)


@pytest.mark.usefixtures("own")
def test_a_sampler_of_ones_own_samples_every_model() -> None:
    name = "own_sampler:one_shot"
    batch, builtin = make_batch(8), toy_cascade()
    upsamplers = {
        n: type(s)(sampler=name, num_inference_steps=1)
        for n, s in builtin.sampling.upsamplers.items()
    }
    own = toy_cascade(
        sampling_with(prior={"sampler": name}, decoder={"sampler": name}, upsamplers=upsamplers)
    )
    # DDIM in one step ends at its only prediction too.
    one_step = toy_cascade(
        sampling_with(
            prior={"num_inference_steps": 1},
            decoder={"num_inference_steps": 1},
            upsamplers={
                n: type(s)(sampler="ddim", num_inference_steps=1) for n, s in upsamplers.items()
            },
        )
    )
    ours, theirs = (
        cascade.generate(batch["tokens"], batch["text_embeds"], generator=seeded())
        for cascade in (own, one_step)
    )
    torch.testing.assert_close(ours.image_embeds, theirs.image_embeds)
    for made, expected in zip(ours.pixels, theirs.pixels, strict=True):
        torch.testing.assert_close(made, expected)


@pytest.mark.usefixtures("own")
def test_a_sampler_of_ones_own_gets_what_it_needs() -> None:
    embeds = make_batch(8)["image_embeds"]
    still, shaken = (
        toy_cascade(sampling_with(decoder={"sampler": "own_sampler:shaken"}, eta=eta)).decode(
            embeds, None, generator=seeded()
        )
        for eta in (0.0, 1.0)
    )
    assert not torch.allclose(still, shaken, atol=0.1)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_sampler:NOT_A_FUNCTION", "is of type int, not a function"),
        ("own_sampler:missing", "has no 'missing'"),
        ("ddpm_learned", "needs learned_variance, .* choose one of ddim"),
    ],
)
def test_a_sampler_that_cannot_be_used_is_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_sampler(name, what="sampler", provided=frozenset({"eta"}))


def test_samplers_are_named_as_their_functions() -> None:
    assert all(name == sampler.__name__ for name, sampler in SAMPLERS.items())
