from pathlib import Path

import pytest

from unclip.config import ConfigError
from unclip.extension import is_import, resolve

BUILTIN = {"ddim": 1, "ddpm": 2}


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def message(name: str) -> str:
    with pytest.raises(ConfigError) as error:
        resolve(name, BUILTIN, what="sampler")
    return str(error.value)


def test_a_built_in_name_gives_its_object() -> None:
    assert resolve("ddpm", BUILTIN, what="sampler") == 2


def test_module_and_name_give_what_the_module_holds(modules: Path) -> None:
    (modules / "ext_own.py").write_text("SAMPLER = 7\n")
    assert resolve("ext_own:SAMPLER", BUILTIN, what="sampler") == 7


def test_a_module_that_is_written_after_its_folder_was_read_is_found(modules: Path) -> None:
    assert "no module 'ext_late'" in message("ext_late:X")
    (modules / "ext_late.py").write_text("X = 3\n")
    assert resolve("ext_late:X", BUILTIN, what="sampler") == 3


def test_an_unknown_name_lists_the_built_in_ones_and_suggests_the_closest() -> None:
    text = message("ddin")
    assert "unknown sampler 'ddin'; did you mean ddim? built in: ddim, ddpm;" in text
    assert '"module:name"' in text
    assert "did you mean" not in message("something else")


def test_a_missing_module_says_where_to_put_it() -> None:
    text = message("ext_absent.inner:X")
    assert "sampler ext_absent.inner:X: there is no module 'ext_absent'" in text
    assert "beside the configuration" in text


def test_a_missing_attribute_names_the_file_and_suggests_the_closest(modules: Path) -> None:
    (modules / "ext_typo.py").write_text("my_sampler = 1\n")
    text = message("ext_typo:my_sampel")
    assert f"{modules / 'ext_typo.py'} has no 'my_sampel'" in text
    assert "did you mean my_sampler?" in text


def test_a_module_that_raises_is_quoted_and_not_taken_for_a_missing_one(modules: Path) -> None:
    (modules / "ext_raises.py").write_text("raise RuntimeError('no licence')\n")
    (modules / "ext_needs.py").write_text("import ext_something_else\n")
    assert "importing ext_raises raised RuntimeError: no licence" in message("ext_raises:X")
    assert "importing ext_needs raised ModuleNotFoundError" in message("ext_needs:X")
    (modules / "ext_syntax.py").write_text("def\n")
    assert "importing ext_syntax raised SyntaxError" in message("ext_syntax:X")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("module:Name", True),
        ("package.module:name", True),
        ("s3://bucket/list.csv", False),
        ("file:list.csv", False),
        ("list.csv", False),
        ("C:\\list.csv", False),
        ("demo", False),
    ],
)
def test_only_module_and_name_are_an_import(name: str, expected: bool) -> None:
    assert is_import(name) is expected
