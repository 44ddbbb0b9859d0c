"""The cascade in MLflow's registry: by reference to the store, loaded in another process."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from pipelines.core.errors import PipelineError
from pipelines.core.events import Event, Model
from pipelines.core.graph import Graph
from pipelines.core.plan import Scope, make_plan
from pipelines.core.store import Store
from pipelines.evaluation.generator import GENERATOR_FILE, STORE_VARIABLE, _load_pyfunc
from pipelines.stages.evaluate import Evaluate
from pipelines.tracking.preflight import prepare
from tests.pipelines import given
from tests.pipelines.local import make
from tests.pipelines.tracked import SETTINGS, begun

DRAW = """
import sys, mlflow, pandas
from PIL import Image
import io
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(f"models:/{sys.argv[2]}@best")
table = model.predict(pandas.DataFrame({"caption": ["a red heart", "a leaf"]}), params={"seed": 5})
print(list(table["caption"]), [Image.open(io.BytesIO(each)).size for each in table["image"]])
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(str(tmp_path_factory.mktemp("moved") / "store"))


@pytest.fixture(scope="module")
def stage() -> Evaluate:
    return given.evaluate_stage(given.evaluate_config())


@pytest.fixture(scope="module")
def model(store: Store, stage: Evaluate) -> Model:
    events: list[Event] = []
    make(store, stage, events)
    (found,) = [event for event in events if isinstance(event, Model)]
    return found


def test_the_same_caption_and_seed_give_the_same_picture(
    store: Store, stage: Evaluate, model: Model
) -> None:
    generator = _load_pyfunc(store.folder("evaluate", stage.key).file(GENERATOR_FILE))
    twice = pd.DataFrame({"caption": ["a red heart", "a leaf", "a red heart"]})
    first, second, third = generator.predict(twice)["image"]
    assert first == third != second
    assert generator.predict(twice[:1], {"seed": 9})["image"][0] != first


def test_a_moved_store_is_found_by_an_environment_variable(
    store: Store, stage: Evaluate, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = json.loads(
        Path(store.folder("evaluate", stage.key).file(GENERATOR_FILE)).read_text()
    )
    shutil.copytree(store.root, tmp_path / "elsewhere")
    (tmp_path / "generator.json").write_text(json.dumps(described | {"store": "/gone"}))
    caption = pd.DataFrame({"caption": ["a red heart"]})
    with pytest.raises(PipelineError, match=f"no clip/.*{STORE_VARIABLE}"):
        _load_pyfunc(str(tmp_path / "generator.json")).predict(caption)
    monkeypatch.setenv(STORE_VARIABLE, str(tmp_path / "elsewhere"))
    assert len(_load_pyfunc(str(tmp_path / "generator.json")).predict(caption)) == 1


def test_it_is_registered_once_and_draws_in_a_fresh_process(
    store: Store, stage: Evaluate, model: Model, tmp_path: Path
) -> None:
    uri = prepare(SETTINGS, store, print)
    plan = make_plan(Graph([stage]), store, Scope(force=["evaluate"]))
    tracker = begun(store, plan, print)
    tracker.started(plan["evaluate"])
    tracker.event(model)
    tracker.event(model)  # as after an outage
    tracker.end("FINISHED")
    client = MlflowClient(uri)
    (version,) = client.search_model_versions(f"name = '{SETTINGS.experiment}'")
    assert version.tags["value"] == str(model.value)
    assert client.get_model_version_by_alias(SETTINGS.experiment, "best").version == version.version
    done = subprocess.run(
        [sys.executable, "-c", DRAW, uri, SETTINGS.experiment],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.split("\n")[-2] == "['a red heart', 'a leaf'] [(32, 32), (32, 32)]", (
        done.stderr
    )
