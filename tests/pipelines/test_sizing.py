"""What `unclip plan` says about trainings, before anything is spent."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.cli.main import main
from pipelines.config.devices import GPUS
from pipelines.config.files import PACKAGED, ConfigFileError
from pipelines.config.load import load_config
from pipelines.config.sections import PipelineConfig
from pipelines.core.errors import PipelineError
from pipelines.graph import unclip_graph
from pipelines.sizing.data import clip_flops, data_sizes
from pipelines.sizing.trainings import Sizes, check_sizes, sizes_of
from pipelines.training.cost import utilisation

ROOT = Path(__file__).parents[2]
NAMES = sorted({path.stem for path in PACKAGED.glob("*.yaml")} - {"karlo"})
SMALL_GPUS = ["run.device.gpu=A100-40GB"]
UNSHARDED = ["run.training={}"]
GPU_OF_INSTANCE = {"p4de.24xlarge": "A100-80GB"}  # EC2's names


def sizes(config: PipelineConfig, *stages: str) -> Sizes:
    graph = unclip_graph(config)
    chosen = [graph[name] for name in stages] if stages else list(graph.stages.values())
    return sizes_of(chosen, config.run)


def refusal(config: PipelineConfig, *stages: str) -> str:
    with pytest.raises(PipelineError) as error:
        check_sizes(sizes(config, *stages), config.run.device)
    return str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_every_packaged_configuration_fits_its_devices(name: str) -> None:
    config = load_config(name)
    found = sizes(config)
    assert {size.stage for size in found.trainings} == set(config.trainings)
    assert not found.unknown
    check_sizes(found, config.run.device)


@pytest.mark.parametrize("kind", ["autoregressive", "linear", "eclipse"])
def test_priors_of_other_kinds_are_sized(kind: str) -> None:
    [size] = sizes(load_config("demo", [f"priors.prior.kind={kind}"]), "prior").trainings
    assert size.parameters > 0


def test_the_decoder_of_the_paper_needs_shards_and_recomputation_on_small_gpus() -> None:
    recomputed = "run.training.decoder.checkpoint_activations=true"
    config = load_config("paper", [*SMALL_GPUS, recomputed])
    check_sizes(sizes(config, "decoder"), config.run.device)
    message = refusal(load_config("paper", SMALL_GPUS + UNSHARDED), "decoder")
    assert "decoder needs" in message
    assert "A100-40GB" in message


@pytest.mark.parametrize(("workers", "ranks"), [(64, 128), (4, 16)])
def test_a_refused_training_fits_with_the_change_that_the_refusal_names(
    workers: int, ranks: int
) -> None:
    settings = [
        *SMALL_GPUS,
        *UNSHARDED,
        f"run.resources.decoder.workers={workers}",
        f"decoder.logical_ranks={ranks}",
    ]
    message = refusal(load_config("paper", settings), "decoder")
    layout = re.search(r"run\.training\.decoder=(\{.*?\})", message)
    assert layout
    changes = [f"run.training.decoder={layout[1]}"]
    if more_ranks := re.search(r"logical_ranks=(\d+)", message):
        changes.append(f"decoder.logical_ranks={more_ranks[1]}")
    assert len(changes) == (1 if ranks == 128 else 2)
    changed = load_config("paper", [*settings, *changes])
    check_sizes(sizes(changed, "decoder"), changed.run.device)


def test_a_training_that_nothing_makes_fit_asks_for_other_gpus() -> None:
    settings = ["run.device.gpu=L4-24GB", *UNSHARDED, "run.resources.decoder.workers=1"]
    assert "larger GPUs" in refusal(load_config("paper", settings), "decoder")


def test_hours_and_costs_follow_from_the_flops() -> None:
    settings = ["run.device.price_per_hour=2.0", "run.device.utilisation=0.5"]
    config = load_config("paper", settings)
    [size] = sizes(config, "upsampler_1").trainings
    steps = config.upsamplers["upsampler_1"].steps
    assert size.hours is not None
    assert size.gpu_hours is not None
    seconds = steps * size.step_flops / (size.workers * GPUS["A100-80GB"].bfloat16_tflops * 5e11)
    assert size.hours == pytest.approx(seconds / 3600)
    assert size.cost == pytest.approx(2 * size.gpu_hours)
    assert config.run.device is not None
    peak = config.run.device.peak_flops_per_s(size.precision)
    share = utilisation(size.step_flops, steps / seconds, gpus=size.gpus, peak_flops_per_s=peak)
    assert share == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("run.device.gpu=A100", "A100-40GB"),
        ("run.device.utilisation=35", "at most 1"),
        ("run.training.decodr={shard_workers: 2}", "did you mean decoder?"),
        ("run.training.decoder.shard_workers=0", "at least 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(setting: str, message: str) -> None:
    with pytest.raises(ConfigFileError, match=re.escape(message)):
        load_config("paper", [setting])


def test_the_plan_shows_the_sizes_before_it_asks_for_the_list(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["plan", "paper", "--store", str(tmp_path), "--set", "source.urls=nowhere.csv"]
    assert main(words) == 2
    shown = capsys.readouterr()
    assert "sharded over 8" in shown.out
    assert "There is no URL list" in shown.err
    assert main([*words, "--set", SMALL_GPUS[0], "--set", UNSHARDED[0], "--json"]) == 2
    shown = capsys.readouterr()
    found: dict[str, Any] = json.loads(shown.out)
    decoder = next(each for each in found["trainings"] if each["stage"] == "decoder")
    assert not decoder["fits"]
    assert decoder["change"] in shown.err
    assert decoder["memory"]["total"] == sum(decoder["memory"].values()) / 2


def test_the_clusters_have_the_gpus_of_the_paper() -> None:
    device = load_config("paper").run.device
    assert device
    aws = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())["available_node_types"]["gpu"]
    assert GPU_OF_INSTANCE[aws["node_config"]["InstanceType"]] == device.gpu
    for path in (ROOT / "infra" / "kuberay").glob("*.yaml"):
        spec = yaml.safe_load(path.read_text())["spec"]
        groups = spec.get("rayClusterSpec", spec)["workerGroupSpecs"]
        [gpu] = [group for group in groups if group["groupName"] == "gpu"]
        product = gpu["template"]["spec"]["nodeSelector"]["nvidia.com/gpu.product"]
        assert re.fullmatch(r"NVIDIA-(A100)-SXM4-(80GB)", product)
        assert device.gpu == "A100-80GB"


def test_the_storage_of_the_data_follows_from_the_rows() -> None:
    config = load_config("paper")
    download, embed = data_sizes(config, 1_000_000)
    assert embed.storage_bytes == 1_000_000 * 2 * 1024 * 4
    assert download.storage_bytes == pytest.approx(0.4e6 * (1024**2 + 256**2 + 64**2), rel=1e-6)
    twice = data_sizes(config, 2_000_000)
    assert [t.hours for t in twice] == [
        pytest.approx(2 * once.hours) for once in (download, embed) if once.hours
    ]


def test_the_flops_of_a_public_clip_are_those_of_its_paper() -> None:
    flops = clip_flops(load_config("small"))  # ViT-B/32
    assert flops == pytest.approx(14.8e9, rel=0.1)  # open_clip's table, 7.4 G multiply-adds
