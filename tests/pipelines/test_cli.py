"""The command line: quick help, and one clear paragraph for every error that a user can fix."""

import logging
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli import pipeline
from pipelines.cli.cluster import run_flags
from pipelines.cli.main import cli, main
from pipelines.cli.options import ProjectChoice, ScopeChoice
from pipelines.cli.project import Project, open_project
from pipelines.cli.run import next_commands, result_lines
from pipelines.core.errors import PipelineError, WorkLostError
from pipelines.core.folder import Folder
from pipelines.core.logs import PACKAGES
from pipelines.core.runner import failure_of
from pipelines.core.store import Manifest

COMMANDS = (
    "init",
    "plan",
    "run",
    "ls",
    "show",
    "prune",
    "ui",
    "rows",
    "retry",
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


Unclip = Callable[..., Result]


@pytest.fixture
def unclip(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Unclip:
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


def test_help_lists_every_command_and_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom pipelines.cli.main import main\nassert main(['--help']) == 0\n"
        "heavy = {'torch', 'ray', 'mlflow', 'pydantic', 'pyarrow', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    listed = {line.split()[0] for line in result.stdout.splitlines() if line.startswith("  ")}
    assert set(COMMANDS) == set(cli.commands)
    assert set(COMMANDS) <= listed
    assert "75   workers or the cluster were lost" in result.stdout


def test_the_version_is_that_of_the_package(unclip: Unclip) -> None:
    assert unclip("--version").out == f"unclip {version('unclip')}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(unclip: Unclip, command: str) -> None:
    result = unclip(command, "--help")
    assert result.code == 0
    assert f"Usage: unclip {command}" in result.out
    short = cli.commands[command].get_short_help_str(limit=200)
    assert short.endswith(".")
    assert len(short) <= 65, "the list of commands would cut it"


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        (["variation", "a.png"], "Did you mean 'variations'?"),
        (["plan", "--stor", "x"], "'--store'"),
        (["plan", "dmeo"], "did you mean demo?"),
        (["plan", "./min.yaml"], "did you mean mine.yaml?"),
        (["init", "--like", "papper"], "did you mean paper?"),
        (["show", "priro"], "Did you mean prior?"),
        (["run", "--only", "decodr"], "Did you mean decoder?"),
        (["plan", "--set", "priors.prior.stpes=3"], "did you mean steps?"),
    ],
)
def test_a_typo_gets_a_suggestion(unclip: Unclip, typed: list[str], hint: str) -> None:
    Path("mine.yaml").touch()
    assert hint in paragraph(unclip(*typed))


def test_options_and_arguments_come_in_any_order(unclip: Unclip) -> None:
    unclip("init", "my.yaml")
    for words in ("IMAGE --out v.png CONFIG", "--out v.png IMAGE CONFIG", "IMAGE CONFIG --seed 1"):
        typed = words.replace("IMAGE", "missing.png").replace("CONFIG", "my.yaml")
        assert "missing.png cannot be read" in paragraph(unclip("variations", *typed.split()))
    message = paragraph(unclip("variations", "missing.png", "--out", "v.png", "other.yaml"))
    assert "no configuration 'other.yaml'" in message


def test_ls_refuses_a_store_that_does_not_exist(unclip: Unclip) -> None:
    message = paragraph(unclip("ls", "--store", "nowhere"))
    assert "There is no store at" in message
    assert not Path("nowhere").exists()
    Path("empty").mkdir()
    assert "holds no results yet" in unclip("ls", "--store", "empty").out


def test_the_next_commands_open_the_project_that_ran(unclip: Unclip) -> None:
    ran = ProjectChoice("demo", "my store", ("priors.prior.steps=700", "run.retries=1"))
    project = open_project(ran)
    store = ["--store", "my store"]
    for words in next_commands(project).values():
        assert words[-7:] == [
            "demo",
            "--set",
            "priors.prior.steps=700",
            "--set",
            "run.retries=1",
            *store,
        ]
        assert project.store.root in paragraph(unclip(*shlex.split(shlex.join(words))))


def finish(project: Project, stage: str, metadata: dict[str, Any], *files: str) -> Folder:
    """Publish a result of a stage."""
    made = project.graph[stage]
    folder = project.store.folder(made.name, made.key)
    for file in files:
        folder.write_bytes(file, b"content")
    project.store.commit(
        Manifest(
            stage=made.name,
            key=made.key,
            version=made.version,
            description={},
            dependencies={},
            provenance={},
            links={},
            created_at="2026-01-01T00:00:00+00:00",
            duration_s=1.0,
            metadata=metadata,
            outputs={},
        )
    )
    return folder


def test_a_run_ends_with_the_verdict_and_the_pictures(tmp_path: Path) -> None:
    project = open_project(ProjectChoice("demo", str(tmp_path), ()))
    assert result_lines(project) == {}
    evaluated = finish(project, "evaluate", {}, "interpolation.png")
    verdict = {"verdict": "blobs: KID × 1000 of 210", "first_step": "Improve the CLIP."}
    files = ("report.html", "decoder-progress.png")
    folder = finish(project, "report", {"title": "t", **verdict}, *files)
    assert result_lines(project) == {
        "verdict": "blobs: KID × 1000 of 210",
        "first": "Improve the CLIP.",
        "report": folder.file("report.html"),
        "interpolation": evaluated.file("interpolation.png"),
        "progress": folder.file("decoder-progress.png"),
    }


def test_results_without_a_verdict_or_pictures_end_with_the_report_alone(tmp_path: Path) -> None:
    project = open_project(ProjectChoice("demo", str(tmp_path), ()))
    finish(project, "evaluate", {})
    folder = finish(project, "report", {"title": "t"}, "report.html")  # as earlier versions did
    assert result_lines(project) == {"report": folder.file("report.html")}


def test_submit_passes_every_flag_on() -> None:
    project = ProjectChoice("demo", "s3://bucket/x", ("a.b=1", "c=d e"))
    scope = ScopeChoice("prior", "pca", ("filter", "embed"))
    words = ["run", "demo", *run_flags(project, scope)]
    context = cli.commands["run"].make_context("run", words[1:])
    assert context.params == {
        "config": "demo",
        "store": "s3://bucket/x",
        "settings": ("a.b=1", "c=d e"),
        "only": "prior",
        "start": "pca",
        "force": ("filter", "embed"),
    }


@pytest.fixture
def quiet_loggers() -> Iterator[None]:
    loggers = [logging.getLogger(package) for package in PACKAGES]
    yield
    for logger in loggers:
        logger.handlers, logger.propagate = [], True
        logger.setLevel(logging.NOTSET)


@pytest.mark.parametrize("words", [["--verbose", "ls"], ["ls", "--verbose"], ["ls", "-v"]])
@pytest.mark.usefixtures("quiet_loggers")
def test_verbose_shows_our_log_messages_and_no_others(unclip: Unclip, words: list[str]) -> None:
    quiet = unclip("ls", "--store", "nowhere")
    assert len(quiet.err.splitlines()) == 1
    shown = unclip(*words, "--store", "nowhere").err.splitlines()
    assert any("pipelines.cli.project: opened demo with the store" in line for line in shown)
    assert all(" pipelines." in line or " unclip." in line for line in shown[:-1])
    assert not logging.getLogger("fsspec").isEnabledFor(logging.INFO)


@pytest.mark.parametrize("words", [["--debug", "ls"], ["ls", "--debug"]])
def test_debug_shows_the_traceback(unclip: Unclip, words: list[str]) -> None:
    result = unclip(*words, "--store", "nowhere")
    assert result.code == 2
    assert "Traceback (most recent call last)" in result.err
    assert result.err.splitlines()[-1].startswith("unclip: There is no store at")


LOST, BROKEN = WorkLostError("gone"), PipelineError("broken")


@pytest.mark.parametrize(
    ("failures", "code"),
    [([LOST], 75), ([BROKEN], 2), ([LOST, BROKEN], 2), ([BROKEN, LOST], 2), ([KeyError("bug")], 2)],
)
def test_a_run_exits_with_75_where_another_attempt_would_help(
    unclip: Unclip, monkeypatch: pytest.MonkeyPatch, failures: list[Exception], code: int
) -> None:
    def fail(choice: ProjectChoice) -> None:
        raise failure_of(dict(zip("ab", failures, strict=False)), ["c"], "store")

    monkeypatch.setattr(pipeline, "_open", fail)
    assert unclip("run").code == code


def test_several_errors_are_shown_line_by_line(
    unclip: Unclip, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(choice: ProjectChoice) -> None:
        raise PipelineError("my.yaml has 2 errors:\nline 1: a\nline 2: b")

    monkeypatch.setattr(pipeline, "_open", fail)
    assert unclip("run").err == "unclip: my.yaml has 2 errors:\n  line 1: a\n  line 2: b\n"


@pytest.mark.parametrize(
    ("sent", "code", "message"),
    [(signal.SIGINT, 130, "run again to continue"), (signal.SIGTERM, 143, "")],
)
def test_a_signal_ends_a_command_with_its_exit_code(sent: int, code: int, message: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        words = [sys.executable, "-m", "pipelines.cli.main", "status", "job", "--address", address]
        with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
            connection, _ = silent.accept()
            with connection:  # the command waits for an answer
                process.send_signal(sent)
                assert process.wait(30) == code
            assert process.stderr is not None
            printed = process.stderr.read()
    assert message in printed
    assert "Traceback" not in printed


def test_init_writes_a_configuration_that_plans_and_never_overwrites(
    unclip: Unclip,
) -> None:
    assert unclip("init", "my.yaml").code == 0
    assert "14 to run, 0 cached" in unclip("plan", "my.yaml").out
    assert not Path("runs").exists()
    assert "There is no store at" in (message := paragraph(unclip("ls", "my.yaml")))
    assert str(Path("runs/my").absolute()) in message
    assert "my.yaml cannot be written" in paragraph(unclip("init", "my.yaml"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "nowhere.yaml"], "There is no configuration"),
        (["run", "demo", "--set", "source.urls=nowhere.parquet"], "There is no URL list at"),
        (["plan", "demo", "--set", "source.urls=nowhere.csv"], "There is no URL list at"),
        (["run", "demo", "--set", "priors.prior.width=1"], "priors.prior.width is not a setting"),
        (["run", "demo", "--set", "pca.dimensions=100"], "pca.dimensions=100 is more than"),
        (["run", "demo", "--only", "nothing"], "There is no stage 'nothing'"),
        (["run", "demo", "--only", "evaluate"], "--only evaluate needs results"),
        (["run", "demo", "--store", "/proc/nowhere"], "cannot be written"),
        (["generate", "a red heart"], "Train them first"),
        (["generate", " "], "caption is empty"),
        (["generate", "a heart", "--count", "0"], "'--count': 0 is not in the range 1"),
        (["generate", "a heart", "--out", "no/such/folder.png"], "there is no folder no/such"),
        (["generate", "a heart", "--out", "heart.txt"], "heart.txt must end in one of .png"),
        (["edit", "a.png", "--to", "a heart", "--count", "1"], "'--count': 1 is not in the range"),
        (["show", "nothing"], "There is no stage 'nothing'"),
        (["ui"], "no "),
    ],
)
def test_bad_input_is_one_paragraph(unclip: Unclip, arguments: list[str], message: str) -> None:
    where = [] if "--store" in arguments else ["--store", "store"]
    assert message in paragraph(unclip(*arguments, *where))
    assert not Path("store").exists()


def test_an_unreachable_tracking_server_stops_a_run_before_anything_starts(
    unclip: Unclip,
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
def test_a_list_with_other_columns_names_those_that_it_has(unclip: Unclip, command: str) -> None:
    Path("list.csv").write_text("link,text\nhttp://127.0.0.1/a.jpg,a picture\n")
    message = paragraph(
        unclip(command, "demo", "--store", "store", "--set", "source.urls=list.csv")
    )
    assert not Path("store").exists()
    assert "no column 'url', 'caption'; it has 'link', 'text'" in message


@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_store_that_is_a_file_is_refused_and_left_as_it_is(unclip: Unclip, command: str) -> None:
    Path("store").write_text("mine")
    message = paragraph(unclip(command, "demo", "--store", "store"))
    assert "store is a file. Give a folder" in message
    assert Path("store").read_text() == "mine"
