"""A configuration is refused before anything runs, with the place and a fix."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from pipelines.config.files import PACKAGED, ConfigFileError, find_config
from pipelines.config.load import load_config
from pipelines.core.errors import PipelineError
from pipelines.graph import unclip_graph
from pipelines.stages.train import TrainModel
from unclip import presets
from unclip.config import ConfigError

# Karlo starts from weights that are not here: test_karlo plans it.
NAMES = sorted({path.stem for path in PACKAGED.glob("*.yaml")} - {"karlo"})


def edited(tmp_path: Path, old: str, new: str, name: str = "edited.yaml") -> str:
    text = find_config("demo").read_text()
    assert old in text
    path = tmp_path / name
    path.write_text(text.replace(old, new, 1))
    return str(path)


def line_of(path: str, text: str) -> int:
    return next(i for i, line in enumerate(Path(path).read_text().splitlines(), 1) if text in line)


@pytest.mark.parametrize("name", NAMES)
def test_every_packaged_configuration_builds_a_graph(name: str) -> None:
    config = load_config(name)
    names = list(unclip_graph(config).stages)
    assert names[0] == "list"
    assert names[-1] == "report"
    assert {"prior", "decoder", *config.upsamplers, "evaluate", "pca"} < set(names)
    assert set(names) == set(config.stage_names)


def test_an_override_changes_one_field_and_the_keys_of_what_depends_on_it() -> None:
    base = unclip_graph(load_config("demo"))
    changed = unclip_graph(load_config("demo", ["priors.prior.steps=70"]))
    different = {n for n in base.stages if base[n].key != changed[n].key}
    assert different == {"prior", "evaluate", "report"}


def test_the_preset_fills_in_the_prior_of_the_chosen_kind() -> None:
    assert load_config("demo").priors["prior"].model == presets.tiny().prior
    chosen = load_config("demo", ["priors.prior.kind=autoregressive", "priors.prior.model.depth=2"])
    assert chosen.priors["prior"].model == replace(presets.tiny_ar_prior(), depth=2)


@pytest.mark.parametrize("name", NAMES)
def test_an_autoregressive_prior_depends_on_the_pca(name: str) -> None:
    graph = unclip_graph(load_config(name, ["priors.prior.kind=autoregressive"]))
    assert graph["prior"].dependencies["pca"] is graph["pca"]
    diffusion = unclip_graph(load_config(name))
    assert "pca" not in diffusion["prior"].dependencies


def test_a_changed_pca_retrains_an_autoregressive_prior_alone() -> None:
    base = unclip_graph(load_config("demo"))
    changed = unclip_graph(load_config("demo", ["pca.dimensions=30"]))
    assert {n for n in base.stages if base[n].key != changed[n].key} == {
        "pca",
        "data_report",
        "report",
    }
    prior = unclip_graph(load_config("demo", ["priors.prior.kind=autoregressive"]))["prior"]
    assert isinstance(prior, TrainModel)
    assert replace(prior, pca=changed["pca"]).key != prior.key  # type: ignore[arg-type]


def test_another_prior_is_trained_like_the_first_and_reruns_just_the_comparison() -> None:
    base = unclip_graph(load_config("demo"))
    config = load_config("demo", ["priors.ar.kind=autoregressive", "priors.ar.seed=9"])
    assert config.priors["ar"].training == replace(config.priors["prior"].training, seed=9)
    compared = unclip_graph(config)
    assert set(compared.stages) - set(base.stages) == {"ar"}
    different = {n for n in base.stages if base[n].key != compared[n].key}
    assert different == {"evaluate", "report"}


def test_a_third_upsampler_needs_nothing_but_settings(tmp_path: Path) -> None:
    config = yaml.safe_load(find_config("demo").read_text())
    third = {**config["upsamplers"]["upsampler_2"], "seed": 5}
    third["model"] = {"image_size": 128, "low_res_size": 64}
    config["upsamplers"]["to_128"] = third
    sampling = config["evaluate"]["sampling"]["upsamplers"]
    sampling["to_128"] = {"sampler": "ddim", "num_inference_steps": 2}
    path = tmp_path / "three.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    graph = unclip_graph(load_config(str(path)))
    assert graph["evaluate"].dependencies["upsamplers.to_128"] is graph["to_128"]
    assert graph["report"].dependencies["upsamplers.to_128"] is graph["to_128"]
    base = unclip_graph(load_config("demo"))
    assert {n for n in base.stages if base[n].key != graph[n].key} == {"evaluate", "report"}


def test_upsamplers_can_be_taken_out() -> None:
    none = ["upsamplers={}", "evaluate.sampling.upsamplers={}"]
    graph = unclip_graph(load_config("demo", none))
    assert not [name for name in graph["evaluate"].dependencies if "upsampler" in name]
    one = load_config("demo", ["upsamplers.upsampler_2=null"])
    assert list(one.evaluate.sampling.upsamplers) == ["upsampler_1"]
    assert list(one.upsamplers) == ["upsampler_1"]


def test_a_prior_of_no_known_kind_is_refused_with_the_kinds(tmp_path: Path) -> None:
    with pytest.raises(ConfigFileError, match=r"--set priors\.prior\.kind=gan.*autoregressive"):
        load_config("demo", ["priors.prior.kind=gan"])
    path = edited(tmp_path, "    kind: diffusion", "    # kind: diffusion")
    with pytest.raises(ConfigFileError, match=r"priors\.prior\.kind is missing"):
        load_config(path)


def test_a_prior_of_other_components_than_the_pca_keeps_is_refused() -> None:
    settings = ["priors.prior.kind=autoregressive", "pca.dimensions=30"]
    match = r"priors\.prior\.model\.dimensions=20.*pca\.dimensions=30"
    with pytest.raises(ConfigFileError, match=match):
        load_config("demo", settings)


def test_settings_that_are_merged_in_are_refused_with_their_line(tmp_path: Path) -> None:
    path = edited(tmp_path, "      warmup_steps: 50", "      warmup_stepz: 50")
    with pytest.raises(ConfigFileError) as refusal:
        load_config(path)
    line = line_of(path, "warmup_stepz")
    assert (
        f"line {line}: priors.prior.warmup_stepz is not a setting; did you mean warmup_steps?"
        in str(refusal.value)
    )


def test_where_it_runs_is_no_part_of_any_key() -> None:
    base = unclip_graph(load_config("demo"))
    moved = unclip_graph(
        load_config("demo", ["run.store=/elsewhere", "run.resources.embed.workers=1"])
    )
    assert {n: s.key for n, s in base.stages.items()} == {n: s.key for n, s in moved.stages.items()}


def test_how_a_training_is_computed_is_no_part_of_any_key() -> None:
    shared = ["run.resources={decoder: {workers: 3}}", "decoder.logical_ranks=4"]
    base = unclip_graph(load_config("demo", shared))
    way = "{shard_workers: 3, checkpoint_activations: selective, summation: fixed}"
    changed = unclip_graph(load_config("demo", [*shared, f"run.training={{decoder: {way}}}"]))
    assert {n: s.key for n, s in base.stages.items()} == {
        n: s.key for n, s in changed.stages.items()
    }
    decoder = changed["decoder"]
    assert isinstance(decoder, TrainModel)
    assert decoder.parallel.shard_workers == 3


@pytest.mark.parametrize(
    ("override", "match"),
    [
        ("run.training={pca: {summation: fixed}}", "'pca', which is not a stage that trains"),
        ("run.training={decodr: {summation: fixed}}", "did you mean decoder"),
        ("run.training={decoder: {shard_workers: 2}}", r"shard_workers=2, but .*workers=1"),
        ("run.resources={decoder: {workers: 2}}", r"logical_ranks=1; .* give at most 1"),
        ("run.training={clip: {shard_workers: 2}}", "shard_workers"),
    ],
)
def test_workers_that_a_training_cannot_use_are_refused(override: str, match: str) -> None:
    with pytest.raises(ConfigFileError, match=match):
        load_config("demo", [override])


@pytest.mark.parametrize(
    "override",
    [
        "download.connections=2",
        "download.retries=3",
        "download.timeout_s=99.0",
        "download.allow_hosts=[]",
        "download.min_success_rate=0.1",
        "embed.batch_size=7",
        "clip.log_every_steps=1",
        "decoder.checkpoint_every_steps=7",
        "decoder.keep_checkpoints=9",
        "decoder.sample_every_steps=3",
        "decoder.max_rollbacks=8",
    ],
)
def test_how_patiently_or_how_often_logged_is_no_part_of_any_key(override: str) -> None:
    base, changed = unclip_graph(load_config("demo")), unclip_graph(load_config("demo", [override]))
    assert {n: s.key for n, s in base.stages.items()} == {
        n: s.key for n, s in changed.stages.items()
    }


def test_an_unknown_key_is_refused_with_its_line_and_the_one_that_was_meant(
    tmp_path: Path,
) -> None:
    path = edited(tmp_path, "  min_similarity: -1.0", "  min_similarty: -1.0")
    with pytest.raises(ConfigFileError) as refusal:
        load_config(path)
    message = str(refusal.value)
    assert f"line {line_of(path, 'min_similarty')}: select.min_similarty" in message
    assert "did you mean min_similarity?" in message


def test_each_mistake_has_a_line_of_its_own(tmp_path: Path) -> None:
    path = edited(tmp_path, "  connections: 8\n  retries: 1\n", '  connections: "8"\n  retris: 1\n')
    with pytest.raises(ConfigFileError) as refusal:
        load_config(path)
    lines = str(refusal.value).splitlines()
    assert len(lines) == 3
    assert all(line.startswith(f"{path}, line ") for line in lines)


def test_a_wrong_type_is_refused_with_its_line_and_value(tmp_path: Path) -> None:
    path = edited(tmp_path, "  connections: 8", '  connections: "8"')
    with pytest.raises(ConfigFileError, match=r"download\.connections is '8': input should"):
        load_config(path)


def test_a_wrong_override_is_blamed_on_its_flag_and_not_on_the_file() -> None:
    with pytest.raises(ConfigFileError) as refusal:
        load_config("demo", ["priors.prior.steps=abc"])
    message = str(refusal.value)
    assert message.startswith("--set priors.prior.steps=abc: priors.prior.steps is 'abc'")
    assert "demo.yaml" not in message


def test_a_missing_section_is_named(tmp_path: Path) -> None:
    path = edited(tmp_path, "embed:\n  batch_size: 128\n", "")
    with pytest.raises(ConfigFileError, match="embed is missing"):
        load_config(path)


def test_a_clip_of_another_width_is_refused_with_both_widths() -> None:
    with pytest.raises(ConfigFileError, match=r"priors\.prior\.model\.embed_dim=64.*width 96"):
        load_config("demo", ["clip.architecture.embed_dim=96"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("nonsense", "not of the form"),
        ("preset=smal", "did you mean small.* choose one of tiny, small, paper, karlo"),
        ("source.urls.deeper=1", "is a value, not a section"),
        ("select.held_out_fraction=1.5", "leaves nothing to train"),
        ("run.wait_s=-1.0", "wait_s=-1.0"),
        ("run.resources.pior.workers=2", "names 'pior', which is not a stage; did you mean prior"),
        ("decoder.model.image_dropout=0.0", "image_dropout=0: the model never learned its null"),
        ("priors={}", "priors is empty"),
        ("upsamplers.decoder={}", "two stages are named decoder|is missing"),
        ("evaluate.sampling.upsamplers={}", "settings for none, but the upsamplers are"),
    ],
)
def test_an_impossible_override_is_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigFileError, match=message):
        load_config("demo", [override])


@pytest.mark.parametrize(
    ("override", "new"),
    [
        ("prior.steps=70", "prior is now priors.prior"),
        ("second_prior.kind=diffusion", "second_prior is now priors.<another name>"),
        ("upsampler_2=null", "upsampler_2 is now upsamplers.upsampler_2"),
        ("download.threads=2", "download.threads is now download.connections"),
        ("loader.shuffle_shards=4", "loader.shuffle_shards is now loader.shuffle_rows, a number"),
        ("decoder.lanes=2", "decoder.lanes is now decoder.logical_ranks"),
        (
            "evaluate.sampling.prior_steps=3",
            "evaluate.sampling.prior_steps is now evaluate.sampling.prior.num_inference_steps",
        ),
        ("filter.min_side=3", "filter.rules.image_side.min_pixels"),
    ],
)
def test_a_key_of_an_earlier_version_is_refused_with_its_new_name(override: str, new: str) -> None:
    with pytest.raises(ConfigFileError) as refusal:
        load_config("demo", [override])
    assert new in str(refusal.value)
    assert str(refusal.value).startswith(f"--set {override}")


def test_relative_paths_of_a_file_start_from_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "pairs.csv").write_text("url,caption\n")
    path = edited(tmp_path, "  urls: demo", "  urls: lists/pairs.csv")
    plain = edited(tmp_path, "  store: runs/demo", "  store: results", "plain.yaml")
    monkeypatch.chdir("/")
    assert load_config(plain).source.urls == "demo"  # a name
    assert load_config(plain).run.store == str(tmp_path / "results")
    config = load_config(path, ["decoder.init_from=weights.safetensors"])
    assert config.source.urls == str(tmp_path / "lists" / "pairs.csv")
    assert config.run.store == str(tmp_path / "runs" / "demo")
    assert config.decoder.init_from == "weights.safetensors"  # of a flag: from the working folder
    assert load_config("demo").run.store == "runs/demo"


OWN_STAGE = """
from dataclasses import dataclass
from typing import ClassVar

from pipelines.core.stage import Artifact, Context, Shards, Stage


@dataclass(frozen=True)
class CaptionStats(Stage[Shards]):
    kind: ClassVar[str] = "caption_stats"
    artifact: ClassVar[type[Artifact]] = Shards

    pairs: Stage[Shards]
    bins: int

    def run(self, ctx: Context) -> Shards:
        return ctx.load(self.pairs)
"""


def test_a_stage_in_a_module_beside_the_file_is_part_of_the_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_stages.py").write_text(OWN_STAGE)
    own = (
        "stages:\n  stats:\n    use: my_stages:CaptionStats\n"
        "    inputs: {pairs: filter}\n    settings: {bins: 10}\n\nreport:"
    )
    path = edited(tmp_path, "report:", own)
    graph = unclip_graph(load_config(path))
    assert dict(graph["stats"].dependencies) == {"pairs": graph["filter"]}
    assert graph["stats"].description["bins"] == 10
    for override, message in (
        ("stages.stats.inputs.pairs=fitler", "did you mean filter"),
        ("stages.stats.settings.bins=ten", "bins"),
        ("stages.stats.settings.bin=1", "unexpected keyword argument 'bin'"),
        ("stages.stats.use=my_stages:CaptionStat", "did you mean CaptionStats"),
        ("stages.stats.use=json:dumps", "not a subclass of Stage"),
    ):
        with pytest.raises((ConfigError, PipelineError), match=message):
            unclip_graph(load_config(path, [override]))


def test_an_unknown_configuration_lists_the_packaged_ones() -> None:
    with pytest.raises(ConfigFileError, match="did you mean demo"):
        load_config("dmo")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe\x00", "cannot be read as text"),
        (b"preset: tiny\nsource: [1,2\n", r"is not valid YAML: .*, in line 3, column 1\.$"),
    ],
)
def test_a_file_that_is_no_yaml_is_refused_in_one_line(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "my.yaml").write_bytes(content)
    with pytest.raises(ConfigFileError, match=message) as refusal:
        load_config(str(tmp_path / "my.yaml"))
    assert "\n" not in str(refusal.value)
