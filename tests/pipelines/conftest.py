"""A store whose tracking database is there already."""

import shutil
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from pipelines.core.store import Store
from pipelines.tracking.location import tracking_uri
from tests.pipelines.tracked import SETTINGS


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database without experiments, to copy: migrating takes seconds."""
    folder = tmp_path_factory.mktemp("database")
    MlflowClient(tracking_uri(SETTINGS, Store(str(folder)))).search_experiments()
    return folder / "mlflow.db"


@pytest.fixture
def store(tmp_path: Path, database: Path) -> Store:
    (tmp_path / "store").mkdir()
    shutil.copy(database, tmp_path / "store")
    return Store(str(tmp_path / "store"))
