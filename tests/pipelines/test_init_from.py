"""A training that starts from the weights of a file."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pipelines.artifacts import MODEL_FILE
from pipelines.config.load import ConfigFileError, load_config
from pipelines.core.folder import Folder
from pipelines.core.store import Store
from pipelines.graph import unclip_graph
from pipelines.stages.train import LoaderSettings, TrainModel
from pipelines.training.initial_weights import InitialWeights, InitialWeightsError
from tests.pipelines import given
from tests.pipelines.local import LocalContext, context, make
from tests.pipelines.training import TrainingContext, given_rows
from unclip import presets
from unclip.checkpoint import config_metadata, load_model, save_model
from unclip.kinds import build

MODEL = given.small_models().prior
QUICK = replace(
    load_config("demo").priors["prior"].training,
    steps=3,
    warmup_steps=0,
    batch_size=16,
    log_every_steps=1,
    checkpoint_every_steps=50,
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where digests are remembered."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


class IdleContext(LocalContext):
    def train(self, function: Any, config: Mapping[str, Any]) -> None:
        pytest.fail("nothing is to be trained")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(str(tmp_path_factory.mktemp("store")))
    for dependency in stage_of(None).dependencies.values():
        make(store, dependency)
    return store


def stage_of(init_from: Path | None, **changes: Any) -> TrainModel:
    return TrainModel(
        *given_rows(),
        MODEL,
        replace(QUICK, **changes),
        LoaderSettings(shuffle_rows=256),
        init_from=str(init_from) if init_from else None,
        name="prior",
    )


def weights_file(path: Path, *, seed: int = 0, config: Any = MODEL) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        save_model(path, build(config))
    return path


def found(path: Path) -> InitialWeights:
    stage = stage_of(path)
    stage.check()
    assert stage.initial is not None
    return stage.initial


def run(store: Store, stage: TrainModel, folder: Path) -> tuple[Path, list[float]]:
    torch.set_num_threads(1)
    made = stage.run(context(store, stage, folder=Folder(str(folder)), kind=TrainingContext))
    history = made.folder.read_json("history.json")
    return made.folder.local(MODEL_FILE), [entry["loss"] for entry in history]


def test_no_step_from_a_file_gives_the_very_file(store: Store, tmp_path: Path) -> None:
    path = weights_file(tmp_path / "weights.safetensors")
    stage = stage_of(path, steps=0)
    made = stage.run(context(store, stage, folder=Folder(str(tmp_path / "out")), kind=IdleContext))
    assert made.folder.local(MODEL_FILE).read_bytes() == path.read_bytes()
    parameters = sum(p.numel() for p in build(MODEL).parameters())
    assert (made.steps, made.final_loss, made.parameters) == (0, None, parameters)


def test_training_goes_on_from_the_weights_of_the_file(store: Store, tmp_path: Path) -> None:
    learned, from_scratch = run(store, stage_of(None, steps=60), tmp_path / "first")
    _, continued = run(store, stage_of(learned), tmp_path / "second")
    assert continued[0] < 0.7 * from_scratch[0]


def test_a_step_of_no_size_leaves_the_weights_of_the_file(store: Store, tmp_path: Path) -> None:
    path = weights_file(tmp_path / "weights.safetensors")
    stage = stage_of(path, steps=1, learning_rate=1e-30, weight_decay=0.0)
    state = load_model(run(store, stage, tmp_path / "out")[0]).state_dict()
    for name, tensor in load_model(path).state_dict().items():
        torch.testing.assert_close(state[name], tensor, rtol=0, atol=1e-12)


def test_the_key_follows_the_content_and_not_the_path(tmp_path: Path) -> None:
    one = weights_file(tmp_path / "a" / "one.safetensors")
    copy = tmp_path / "b" / "two.safetensors"
    copy.parent.mkdir()
    shutil.copy(one, copy)
    other = weights_file(tmp_path / "c" / "one.safetensors", seed=1)
    keys = [stage_of(path).key for path in (one, copy, other)]
    assert keys[0] == keys[1] != keys[2]
    assert stage_of(None).key not in keys
    key = keys[0]
    weights_file(one, seed=2)
    assert stage_of(one).key != key


def test_a_file_is_read_through_once_while_it_stays_as_it_is(tmp_path: Path, home: Path) -> None:
    path = weights_file(tmp_path / "weights.safetensors")
    first = found(path)
    (remembered,) = (home / "unclip" / "sha256").iterdir()
    remembered.write_text("as remembered")
    assert found(path).sha256 == "as remembered"
    path.touch()
    assert found(path) == first


def test_a_file_without_a_date_is_read_through_each_time(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.implementations.local import LocalFileSystem

    def info(fs: LocalFileSystem, path: str, **options: Any) -> dict[str, Any]:
        return {"name": path, "size": Path(path).stat().st_size, "type": "file"}

    path = weights_file(tmp_path / "weights.safetensors")
    monkeypatch.setattr(LocalFileSystem, "info", info)
    before = found(path)
    assert not home.exists()
    weights_file(path, seed=1)
    assert found(path) != before


def test_a_file_that_was_exchanged_after_the_plan_is_refused(tmp_path: Path) -> None:
    initial = found(weights_file(tmp_path / "weights.safetensors"))
    weights_file(tmp_path / "weights.safetensors", seed=1)
    with pytest.raises(InitialWeightsError, match="has changed since the run began"):
        initial.load()


def test_weights_of_any_store_can_be_read(tmp_path: Path) -> None:
    import fsspec

    path = weights_file(tmp_path / "weights.safetensors")
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/models/weights.safetensors", path.read_bytes())
    stage = replace(stage_of(path), init_from="memory://models/weights.safetensors")
    stage.check()
    initial = stage.initial
    assert initial is not None
    assert initial.sha256 == found(path).sha256
    ours, theirs = initial.load().state_dict(), load_model(path).state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_weights_of_another_model_are_refused_with_both_values(tmp_path: Path) -> None:
    wider = weights_file(tmp_path / "wider.safetensors", config=replace(MODEL, width=96))
    with pytest.raises(InitialWeightsError, match=r"prior\.init_from=.*: width: 96 → 48\. Change"):
        found(wider)
    nested = replace(MODEL, text_encoder=replace(MODEL.text_encoder, depth=2))
    deeper = weights_file(tmp_path / "deeper.safetensors", config=nested)
    with pytest.raises(InitialWeightsError, match=r"text_encoder\.depth: 2 → 1"):
        found(deeper)
    decoder = weights_file(tmp_path / "decoder.safetensors", config=given.small_models().decoder)
    with pytest.raises(InitialWeightsError, match="type: decoder → diffusion_prior"):
        found(decoder)


@pytest.mark.parametrize(
    "content", [b"", b"no safetensors file at all", b"\x02" + 7 * b"\0" + b"{}"]
)
def test_a_file_that_is_no_saved_model_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "some.safetensors"
    path.write_bytes(content)
    with pytest.raises(InitialWeightsError, match=r"prior\.init_from=.*save_model"):
        found(path)


def test_a_file_without_all_tensors_of_its_model_is_refused(tmp_path: Path) -> None:
    path, metadata = tmp_path / "some.safetensors", config_metadata(MODEL)
    tensors = build(MODEL).state_dict()
    name = next(iter(tensors))
    save_file({n: t for n, t in tensors.items() if n != name}, path, metadata=metadata)
    with pytest.raises(InitialWeightsError, match=rf"{name} \(.*\) is missing"):
        found(path)
    save_file(tensors | {name: torch.zeros(3, 5)}, path, metadata=metadata)
    with pytest.raises(InitialWeightsError, match=rf"{name} has shape \(3, 5\) where"):
        found(path)


def test_half_a_file_is_refused_with_both_sizes(tmp_path: Path) -> None:
    path = weights_file(tmp_path / "weights.safetensors")
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    sizes = f"has {len(content) - 100} bytes, but its header says {len(content)}"
    with pytest.raises(InitialWeightsError, match=sizes):
        found(path)


@pytest.mark.parametrize("url", ["nowhere/prior.safetensors", "no-such-protocol://prior"])
def test_a_file_that_is_not_there_is_refused_before_anything_is_planned(url: str) -> None:
    config = load_config("demo", [f"priors.prior.init_from={url}"])
    with pytest.raises(
        InitialWeightsError, match=rf"prior\.init_from={url} cannot be read: .*\. Give"
    ):
        unclip_graph(config)["prior"].check()


def test_no_step_at_all_needs_weights() -> None:
    for section in ("decoder", "clip"):
        with pytest.raises(ConfigFileError, match="steps=0 trains nothing"):
            load_config("demo", [f"{section}.steps=0"])


@pytest.mark.parametrize(
    "section",
    ["priors.prior", "priors.other", "decoder", "upsamplers.upsampler_1", "upsamplers.upsampler_2"],
)
def test_every_model_of_the_cascade_can_start_from_a_file(tmp_path: Path, section: str) -> None:
    name = section.rpartition(".")[2]
    config = presets.tiny().models["prior" if name == "other" else name]
    path = weights_file(tmp_path / "weights.safetensors", config=config)
    settings = [f"{section}.init_from={path}", f"{section}.steps=0"]
    kind = ["priors.other.kind=diffusion"] if name == "other" else []
    base = unclip_graph(load_config("demo", kind))
    graph = unclip_graph(load_config("demo", [*settings, *kind]))
    different = {n for n in base.stages if base[n].key != graph[n].key}
    assert different == {name, "evaluate", "report"}


def test_a_second_prior_does_not_start_from_the_weights_of_the_first(tmp_path: Path) -> None:
    path = weights_file(tmp_path / "weights.safetensors", config=presets.tiny().prior)
    settings = [f"priors.prior.init_from={path}", "priors.ar.kind=autoregressive"]
    second = load_config("demo", settings).priors["ar"]
    assert second.init_from is None


def test_an_autoregressive_prior_that_starts_from_a_file_keeps_the_codes_in_it(
    tmp_path: Path,
) -> None:
    config = load_config("demo", ["priors.prior.kind=autoregressive"]).priors["prior"].model
    path = weights_file(tmp_path / "weights.safetensors", config=config)
    settings = ["priors.prior.kind=autoregressive", f"priors.prior.init_from={path}"]
    assert "pca" not in unclip_graph(load_config("demo", settings))["prior"].dependencies
