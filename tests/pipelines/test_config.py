"""A configuration is refused before anything runs, with the place and the way out."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.config.load import CONFIGS, ConfigFileError, find_config, load_config
from pipelines.config.sections import STAGES
from pipelines.graph import unclip_graph
from pipelines.stages.models import TrainARPrior
from unclip import presets

# Karlo starts from weights that are not here: test_karlo plans it.
PACKAGED = sorted({path.stem for path in CONFIGS.glob("*.yaml")} - {"karlo"})


def edited(tmp_path: Path, old: str, new: str) -> str:
    text = find_config("demo").read_text()
    assert old in text
    path = tmp_path / "edited.yaml"
    path.write_text(text.replace(old, new, 1))
    return str(path)


def line_of(path: str, text: str) -> int:
    return next(i for i, line in enumerate(Path(path).read_text().splitlines(), 1) if text in line)


@pytest.mark.parametrize("name", PACKAGED)
def test_every_packaged_configuration_builds_a_graph(name: str) -> None:
    config = load_config(name, ["source.urls=demo"])
    names = list(unclip_graph(config).stages)
    assert names[0] == "download"
    assert names[-1] == "report"
    assert {"prior", "decoder", "upsampler_1", "upsampler_2", "evaluate", "pca"} < set(names)


def test_an_override_changes_one_field_and_the_keys_of_what_depends_on_it() -> None:
    base = unclip_graph(load_config("demo"))
    changed = unclip_graph(load_config("demo", ["prior.steps=70"]))
    different = {n for n in base.stages if base[n].key != changed[n].key}
    assert different == {"prior", "evaluate", "report"}


def test_the_preset_fills_in_the_prior_of_the_chosen_kind() -> None:
    assert load_config("demo").prior.model == presets.tiny().prior
    chosen = load_config("demo", ["prior.kind=autoregressive", "prior.model.depth=2"])
    assert chosen.prior.model == replace(presets.tiny_ar_prior(), depth=2)


@pytest.mark.parametrize("name", PACKAGED)
def test_every_packaged_configuration_builds_a_graph_with_an_autoregressive_prior(
    name: str,
) -> None:
    graph = unclip_graph(load_config(name, ["source.urls=demo", "prior.kind=autoregressive"]))
    assert "pca" in graph["prior"].dependencies
    assert "pca" in graph["prior"].description["inputs"]


def test_only_an_autoregressive_prior_depends_on_the_pca() -> None:
    base = unclip_graph(load_config("demo"))
    changed = unclip_graph(load_config("demo", ["pca.dimensions=30"]))
    assert {n for n in base.stages if base[n].key != changed[n].key} == {"pca", "report"}
    prior = unclip_graph(load_config("demo", ["prior.kind=autoregressive"]))["prior"]
    assert isinstance(prior, TrainARPrior)
    assert replace(prior, pca=changed["pca"]).key != prior.key  # type: ignore[arg-type]


def test_a_second_prior_is_trained_like_the_first_and_reruns_just_the_comparison() -> None:
    base = unclip_graph(load_config("demo"))
    config = load_config("demo", ["second_prior.kind=autoregressive", "second_prior.seed=9"])
    assert config.second_prior is not None
    assert config.second_prior.training == replace(config.prior.training, seed=9)
    compared = unclip_graph(config)
    assert set(compared.stages) - set(base.stages) == {"second_prior"}
    different = {n for n in base.stages if base[n].key != compared[n].key}
    assert different == {"evaluate", "report"}


def test_a_prior_of_no_known_kind_is_refused_with_the_kinds(tmp_path: Path) -> None:
    with pytest.raises(ConfigFileError, match=r"prior\.kind is 'gan'; .*'autoregressive'"):
        load_config("demo", ["prior.kind=gan"])
    path = edited(tmp_path, "  kind: diffusion", "  # kind: diffusion")
    with pytest.raises(ConfigFileError, match=r"prior\.kind is missing"):
        load_config(path)


def test_a_prior_of_other_components_than_the_pca_keeps_is_refused() -> None:
    settings = ["prior.kind=autoregressive", "pca.dimensions=30"]
    with pytest.raises(ConfigFileError, match=r"prior\.model\.dimensions=20.*pca\.dimensions=30"):
        load_config("demo", settings)


def test_settings_that_are_merged_in_are_refused_with_their_line(tmp_path: Path) -> None:
    path = edited(tmp_path, "    warmup_steps: 50", "    warmup_stepz: 50")
    with pytest.raises(ConfigFileError) as refusal:
        load_config(path)
    line = line_of(path, "warmup_stepz")
    assert f"line {line}: prior.warmup_stepz is not a setting; did you mean warmup_steps?" in str(
        refusal.value
    )


def test_where_it_runs_is_no_part_of_any_key() -> None:
    base = unclip_graph(load_config("demo"))
    moved = unclip_graph(
        load_config("demo", ["run.store=/elsewhere", "run.resources.embed.workers=1"])
    )
    assert {n: s.key for n, s in base.stages.items()} == {n: s.key for n, s in moved.stages.items()}


def test_an_unknown_key_is_refused_with_its_line_and_the_one_that_was_meant(
    tmp_path: Path,
) -> None:
    path = edited(tmp_path, "min_pixels: 32", "min_pixel: 32")
    with pytest.raises(ConfigFileError) as refusal:
        load_config(path)
    message = str(refusal.value)
    assert f"line {line_of(path, 'min_pixel:')}: filter.rules.image_side.min_pixel: " in message
    assert "did you mean min_pixels?" in message


def test_a_wrong_type_is_refused_with_its_line_and_value(tmp_path: Path) -> None:
    path = edited(tmp_path, "  threads: 8", '  threads: "8"')
    with pytest.raises(ConfigFileError, match=r"download\.threads is '8': input should be a valid"):
        load_config(path)


def test_a_missing_section_is_named(tmp_path: Path) -> None:
    path = edited(tmp_path, "embed:\n  batch_size: 128\n", "")
    with pytest.raises(ConfigFileError, match="embed is missing"):
        load_config(path)


def test_a_clip_of_another_width_is_refused_with_both_widths() -> None:
    with pytest.raises(ConfigFileError, match=r"prior\.model\.embed_dim=64.*width 96"):
        load_config("demo", ["clip.architecture.embed_dim=96"])


def test_workers_that_cannot_share_the_lanes_are_refused() -> None:
    with pytest.raises(ConfigFileError, match=r"workers=3 cannot share prior\.logical_ranks=1"):
        load_config("demo", ["run.resources.prior.workers=3"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("nonsense", "not of the form"),
        ("preset=huge", "choose one of tiny, small, paper, karlo"),
        ("source.urls.deeper=1", "is a value, not a section"),
        ("select.held_out_fraction=1.5", "leaves nothing to train"),
        ("run.wait_s=-1.0", "wait_s=-1.0"),
        ("run.resources.pior.workers=2", "resources names pior, which .* the stages are download"),
        ("decoder.model.image_dropout=0.0", "image_dropout=0: the model has no null condition"),
    ],
)
def test_an_impossible_override_is_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigFileError, match=message):
        load_config("demo", [override])


def test_resources_may_be_given_to_each_stage_that_there_can_be() -> None:
    config = load_config("demo", ["second_prior.kind=autoregressive"])
    assert set(STAGES) == set(unclip_graph(config).stages)


def test_an_unknown_configuration_lists_the_packaged_ones() -> None:
    with pytest.raises(ConfigFileError, match="demo"):
        load_config("no-such-file.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe\x00", "cannot be read as text"),
        (b"preset: tiny\nsource: [1,2\n", r"is no valid YAML: .*, in line 3, column 1\.$"),
    ],
)
def test_a_file_that_is_no_yaml_is_refused_in_one_line(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "my.yaml").write_bytes(content)
    with pytest.raises(ConfigFileError, match=message) as refusal:
        load_config(str(tmp_path / "my.yaml"))
    assert "\n" not in str(refusal.value)
