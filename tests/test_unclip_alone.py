"""`unclip` where the pipeline's packages are not installed: imported whole, and its tests run.

A subprocess in which nothing finds them stands for such an environment.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ABSENT = ("ray", "mlflow", "pyarrow", "fsspec", "img2dataset", "pandas", "pydantic", "pipelines")

# Every finder, and so `import` and `find_spec` alike, answers for them as for what is not there.
WITHOUT = f"""
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT!r}:
            return None
        return self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = map(Without, sys.meta_path)
"""

IMPORT_ALL = """
import importlib, pkgutil
import unclip

modules = [m.name for m in pkgutil.walk_packages(unclip.__path__, "unclip.")]
for module in modules:
    importlib.import_module(module)
print(len(modules), "modules")
"""

RUN = (  # one of each kind, and fast
    "cascade",
    "checkpoint",
    "ar_prior",
    "training_components",
    "clip",
)


def run_without(code: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT + code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def run_tests(*arguments: str) -> str:
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:randomly", *arguments]
    return run_without(f"import pytest; sys.exit(pytest.main({options!r}))")


@pytest.mark.parametrize("name", ABSENT)
def test_what_is_absent_cannot_be_imported_there(name: str) -> None:
    with pytest.raises(AssertionError, match=f"No module named '{name}'"):
        run_without(f"import {name}")


def test_every_module_of_unclip_is_imported_without_the_packages_of_the_pipeline() -> None:
    modules = [p for p in (ROOT / "unclip").rglob("*.py") if p != ROOT / "unclip" / "__init__.py"]
    assert f"{len(modules)} modules" in run_without(IMPORT_ALL)


def test_the_tests_of_unclip_run_without_the_packages_of_the_pipeline() -> None:
    files = [str(ROOT / "tests" / "unclip" / f"test_{name}.py") for name in RUN]
    message = run_tests(*files)
    assert " passed" in message
    assert "skipped" not in message
