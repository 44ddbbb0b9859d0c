"""The command line: quick help, and one clear paragraph for whatever a user can mend."""

import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines.cli.main import main, parser

COMMANDS = (
    "init",
    "plan",
    "run",
    "ls",
    "show",
    "ui",
    "generate",
    "variations",
    "interpolate",
    "edit",
    "reconstruct",
    "inpaint",
    "importance",
    "attack",
    "import",
    "export",
    "submit",
    "status",
    "logs",
    "stop",
)


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


UnclipPipeline = Callable[..., Result]


@pytest.fixture
def unclip(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> UnclipPipeline:
    """Calls the command in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Result:
        code = main(list(arguments))
        return Result(code, *capsys.readouterr())

    return call


def paragraph(result: Result) -> str:
    assert result.code == 2, result.out
    message = result.err.strip()
    assert message.startswith("unclip: ")
    assert "\n" not in message
    return message


def test_help_names_every_command_and_imports_neither_torch_nor_ray() -> None:
    code = (
        "import sys\nfrom pipelines.cli.main import parser\nhelp = parser().format_help()\n"
        "heavy = {'torch', 'ray', 'mlflow', 'pydantic', 'pyarrow', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\nprint(help)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    named = {line.split()[0] for line in result.stdout.splitlines() if line.startswith("    ")}
    assert set(COMMANDS) <= named


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        parser().parse_args([command, "--help"])
    assert f"usage: unclip {command}" in capsys.readouterr().out


def test_init_writes_a_configuration_that_plans_and_never_overwrites(
    unclip: UnclipPipeline,
) -> None:
    assert unclip("init", "my.yaml").code == 0
    assert "12 to run, 0 cached" in unclip("plan", "my.yaml").out
    assert not Path("runs").exists()
    assert "my.yaml cannot be written" in paragraph(unclip("init", "my.yaml"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "nowhere.yaml"], "There is no configuration"),
        (["run", "demo", "--set", "source.urls=nowhere.parquet"], "There is no URL list at"),
        (["plan", "demo", "--set", "source.urls=nowhere.csv"], "There is no URL list at"),
        (["run", "demo", "--set", "prior.width=1"], "prior.width is not a setting"),
        (["run", "demo", "--set", "pca.dimensions=100"], "pca.dimensions=100 is more than"),
        (["run", "demo", "--only", "nothing"], "There is no stage 'nothing'"),
        (["run", "demo", "--only", "evaluate"], "--only evaluate needs results"),
        (["run", "demo", "--store", "/proc/nowhere"], "cannot be written"),
        (["generate", "a red heart"], "Train them first"),
        (["generate", " "], "caption is empty"),
        (["generate", "a heart", "--count", "0"], "--count 0 makes no picture"),
        (["generate", "a heart", "--out", "no/such/folder.png"], "There is no folder"),
        (["generate", "a heart", "--out", "heart"], "--out heart does not end as a picture"),
        (["edit", "a.png", "--to", "a heart", "--count", "1"], "--count 1 leaves no turn"),
        (["show", "nothing"], "There is no stage 'nothing'"),
        (["ui"], "no "),
    ],
)
def test_bad_input_is_one_paragraph(
    unclip: UnclipPipeline, arguments: list[str], message: str
) -> None:
    where = [] if "--store" in arguments else ["--store", "store"]
    assert message in paragraph(unclip(*arguments, *where))
    assert not Path("store").exists()


def test_an_unreachable_tracking_server_stops_a_run_before_anything_starts(
    unclip: UnclipPipeline,
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    flags = ["--store", "store", "--set", f"run.tracking.uri={uri}"]
    message = paragraph(unclip("run", "demo", *flags))
    assert uri in message
    assert "--set run.tracking.uri" in message
    assert not list(Path("store").glob("download/*"))


@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_list_with_other_columns_names_those_that_it_has(
    unclip: UnclipPipeline, command: str
) -> None:
    Path("list.csv").write_text("link,text\nhttp://127.0.0.1/a.jpg,a picture\n")
    message = paragraph(
        unclip(command, "demo", "--store", "store", "--set", "source.urls=list.csv")
    )
    assert not Path("store").exists()
    assert "no column 'url', 'caption'; it has 'link', 'text'" in message


@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_store_that_is_a_file_is_refused_and_left_as_it_is(
    unclip: UnclipPipeline, command: str
) -> None:
    Path("store").write_text("mine")
    message = paragraph(unclip(command, "demo", "--store", "store"))
    assert "store is a file. Give a folder" in message
    assert Path("store").read_text() == "mine"
