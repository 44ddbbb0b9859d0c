"""The whole pipeline, end to end, on the packaged data with models that learn next to nothing."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.config.files import find_config
from pipelines.core.store import Store

ROOT = Path(__file__).parents[2]
STAGES = (
    *("list", "download", "filter", "clip", "embed", "select", "pca"),
    *("prior", "decoder", "upsampler_1", "upsampler_2", "evaluate", "data_report", "report"),
)
# A few steps of everything: what is proven is the way, not what the models learn.
QUICK = {
    "source.rows_per_shard": "480",
    "clip.steps": "4",
    "clip.warmup_steps": "1",
    "clip.batch_size": "64",
    "evaluate.held_out_samples": "6",
    "evaluate.training_samples": "4",
    "evaluate.probe_samples": "2",
    "evaluate.variations": "1",
    "evaluate.batch_size": "4",
    "evaluate.reference_rows": "64",
    "evaluate.sampling.prior.num_inference_steps": "2",
    "evaluate.sampling.decoder.num_inference_steps": "2",
    "evaluate.sampling.upsamplers.upsampler_1.num_inference_steps": "1",
    "evaluate.sampling.upsamplers.upsampler_2.num_inference_steps": "1",
    **{
        f"{model}.{key}": value
        for model in (
            "priors.prior",
            "decoder",
            "upsamplers.upsampler_1",
            "upsamplers.upsampler_2",
        )
        for key, value in (
            ("steps", "6"),
            ("warmup_steps", "1"),
            ("batch_size", "8"),
            ("log_every_steps", "2"),
            ("checkpoint_every_steps", "2"),
            ("sample_every_steps", "null"),
        )
    },
}
LONG = {"decoder.steps": "60"}  # long enough to be killed before it ends


def command(store: Path, *arguments: str, config: str = "demo", **settings: str) -> list[str]:
    flags = [f"{k}={v}" for k, v in {**QUICK, **settings}.items()]
    verb, *rest = arguments
    sets = [word for flag in flags for word in ("--set", flag)]
    return [
        sys.executable,
        "-m",
        "pipelines.cli.main",
        verb,
        config,
        "--store",
        str(store),
        *rest,
        *sets,
    ]


def unclip(store: Path, *arguments: str, config: str = "demo", **settings: str) -> str:
    result = subprocess.run(
        command(store, *arguments, config=config, **settings),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=850,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def ran(output: str) -> set[str]:
    return {s for s in STAGES if f" {s}: done in" in output}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which everything has run once."""
    store = tmp_path_factory.mktemp("pipeline") / "store"
    assert ran(unclip(store, "run")) == set(STAGES)
    return store


@pytest.mark.ray
@pytest.mark.timeout(900)
class TestWholePipeline:
    def test_a_second_run_finds_everything_cached(self, finished: Path) -> None:
        assert "no stage had to run" in unclip(finished, "run")

    def test_the_rows_that_fail_on_purpose_are_rejected_by_reason(self, finished: Path) -> None:
        store = Store(str(finished))
        downloaded = store.manifests("download")[0].metadata["counts"]
        assert downloaded["listed"] == 1881
        assert {"scheme", "private_address", "not_an_image", "truncated", "http_404"} <= set(
            downloaded["rejected"]
        )
        filtered = store.manifests("filter")[0].metadata["counts"]
        assert {"too_small", "aspect_ratio", "language", "caption_is_a_date"} <= set(
            filtered["rejected"]
        )
        assert filtered["read"] == downloaded["downloaded"]

    def test_the_report_is_one_page_and_every_metric_has_a_baseline(self, finished: Path) -> None:
        page = next(finished.glob("report/*/report.html")).read_text()
        assert page.startswith("<!doctype html>")
        assert 'src="http' not in page
        metrics = json.loads(next(finished.glob("evaluate/*/metrics.json")).read_text())
        assert metrics
        assert all("baseline" in record for record in metrics.values())

    def test_generate_draws_from_the_trained_models(self, finished: Path, tmp_path: Path) -> None:
        picture = tmp_path / "heart.png"
        arguments = command(finished, "generate")
        arguments.insert(4, "a red heart")
        subprocess.run(
            [*arguments, "--count", "2", "--out", str(picture)], cwd=ROOT, check=True, timeout=300
        )
        assert picture.read_bytes().startswith(b"\x89PNG")

    def test_only_one_stage_is_planned_where_only_it_is_asked_for(self, finished: Path) -> None:
        assert "1 to run, 13 cached" in unclip(finished, "plan", "--only", "evaluate")

    def test_a_changed_field_plans_just_what_depends_on_it(self, finished: Path) -> None:
        planned = unclip(finished, "plan", **{"priors.prior.steps": "8"})
        lines = [line.split() for line in planned.splitlines() if line]
        assert {w[0] for w in lines if w[1] == "run"} == {"prior", "evaluate", "report"}
        assert "prior.training.steps: 6 → 8" in planned

    def test_the_stages_and_their_lineage_can_be_looked_at(self, finished: Path) -> None:
        listed = unclip(finished, "ls")
        assert all(f"*  {stage} " in listed for stage in STAGES)
        shown = command(finished, "show")
        shown.insert(4, "prior")
        message = subprocess.run(shown, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert "The key is the digest of" in message
        assert "embeddings: embed/" in message

    def test_the_stage_of_the_extension_guide_runs_from_beside_the_configuration(
        self, finished: Path, tmp_path: Path
    ) -> None:
        guide = (ROOT / "docs/how-to/extend.md").read_text()
        module, section = re.findall(r"```(?:python|yaml)\n(.*?)```", guide, re.DOTALL)[-2:]
        (tmp_path / "my_stages.py").write_text(module)
        path = tmp_path / "own.yaml"
        path.write_text(find_config("demo").read_text() + section)
        output = unclip(finished, "run", "--only", "caption_lengths", config=str(path))
        assert "caption_lengths: done in" in output
        assert ran(output) == set()
        manifest = Store(str(finished)).manifests("caption_lengths")[0]
        assert manifest.metadata["longest"] > 10


def wait_for(pattern: str, store: Path, driver: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 300
    while not list(store.glob(pattern)):
        assert driver.poll() is None, f"the driver ended before {pattern} was there"
        assert time.monotonic() < deadline, f"{pattern} never came"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1800)
def test_a_driver_killed_in_every_kind_of_stage_ends_with_the_same_keys_and_weights(
    finished: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    unclip(finished, "run", **LONG)
    for pattern in (
        "download/shards/*.parquet",
        "embed/shards/*.parquet",
        "decoder/*/.checkpoints/step-00000002/checkpoint.json",
    ):
        words = command(store, "run", **LONG)
        driver = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL)
        wait_for(pattern, store, driver)
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
    output = unclip(store, "run", **LONG)
    assert "decoder: resumes at step" in output
    ours, theirs = Store(str(store)), Store(str(finished))
    for stage in STAGES:
        assert ours.manifests(stage)[0].key == theirs.manifests(stage)[0].key
    for stage in ("decoder", "upsampler_1"):
        key = ours.manifests(stage)[0].key
        weights = [s / stage / key / "model.safetensors" for s in (store, finished)]
        assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1800)
def test_both_kinds_of_prior_are_trained_and_compared(tmp_path: Path) -> None:
    store = tmp_path / "store"
    kinds = {"priors.prior.kind": "autoregressive", "priors.second_prior.kind": "diffusion"}
    assert ran(unclip(store, "run", **kinds)) == set(STAGES)
    models = [
        Store(str(store)).manifests(n)[0].metadata["model"] for n in ("prior", "second_prior")
    ]
    assert models == ["autoregressive_prior", "diffusion_prior"]
    metrics = json.loads(next(store.glob("evaluate/*/metrics.json")).read_text())
    assert {"held_out/prior/cosine", "held_out/second_prior/cosine"} <= set(metrics)
    page = next(store.glob("report/*/report.html")).read_text()
    headers = re.findall(r'<th class="n">(.*?)<small>(.*?)</small></th>', page)
    assert {("prior", "autoregressive"), ("second prior", "diffusion")} <= set(headers)
    assert "no stage had to run" in unclip(store, "run", **kinds)
