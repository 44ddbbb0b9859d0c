"""Who may import whom, read from the source."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN_IN_UNCLIP = {"ray", "mlflow", "fsspec", "img2dataset", "pyarrow", "pipelines"}
MLFLOW_MODULES = {"tracking/server.py", "tracking/system_metrics.py"}


def modules(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found
    return found


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield node.module or ""


@pytest.mark.parametrize("path", modules("unclip"), ids=lambda p: str(p.relative_to(ROOT)))
def test_unclip_imports_nothing_of_the_pipeline(path: Path) -> None:
    assert {name.split(".")[0] for name in imported(path)} & FORBIDDEN_IN_UNCLIP == set()


@pytest.mark.parametrize("path", modules("tests/unclip"), ids=lambda p: p.name)
def test_the_tests_of_unclip_import_nothing_of_the_pipeline(path: Path) -> None:
    names = set(imported(path))
    assert {name.split(".")[0] for name in names} & FORBIDDEN_IN_UNCLIP == set()
    assert {
        n for n in names if n.startswith("tests.") and not n.startswith("tests.unclip")
    } == set()


ENGINE_MAY_IMPORT = ("pipelines.core", "unclip.config", "unclip.extension")


@pytest.mark.parametrize("path", modules("pipelines/core"), ids=lambda p: p.name)
def test_the_engine_knows_nothing_of_images(path: Path) -> None:
    own = {name for name in imported(path) if name.split(".")[0] in ("pipelines", "unclip")}
    assert {n for n in own if not n.startswith(ENGINE_MAY_IMPORT)} == set()


def test_only_the_tracking_module_imports_mlflow() -> None:
    users = [p for p in modules("pipelines") if any(n.startswith("mlflow") for n in imported(p))]
    assert {p.relative_to(ROOT / "pipelines").as_posix() for p in users} == MLFLOW_MODULES


def test_the_configs_of_clip_are_light_to_import() -> None:
    code = "import sys, unclip.clip\nassert not {'open_clip', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_stages_do_not_know_the_commands() -> None:
    for path in [*modules("pipelines/stages"), *modules("pipelines/data")]:
        outer = ("pipelines.cli", "pipelines.cli.main", "pipelines.graph", "pipelines.config")
        assert not [name for name in imported(path) if name.startswith(outer)], path
