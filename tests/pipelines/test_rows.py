"""`unclip rows` and `unclip retry` through the command line, on a list from a real server."""

import csv
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from pipelines.artifacts import ListShards, PairShards, VerdictShards
from pipelines.artifacts.schema import pair_key
from pipelines.cli.main import main
from pipelines.cli.options import ProjectChoice
from pipelines.cli.project import Project, open_project
from pipelines.config.files import find_config
from pipelines.core.stage import Stage, load_artifact
from pipelines.core.store import Store
from tests.pipelines.counting import Site, site, write_csv
from tests.pipelines.given import GivenClip
from tests.pipelines.local import LocalContext, context, make

ROWS = 60
MISSING = (1, 2, 41)
BROKEN = {**dict.fromkeys(MISSING, 404), 30: 500}
HOSTILE = ("http://127.0.0.1/\x1b[31m\u202e.jpg", "a hostile address")
CONFIG = "my.yaml"
Unclip = Callable[..., str]
Line = dict[str, Any]


@pytest.fixture(scope="module")
def server() -> Iterator[Site]:
    with site() as running:
        yield running


@pytest.fixture(autouse=True)
def _answers(server: Site) -> None:
    server.broken = BROKEN


def listed(server: Site) -> list[tuple[str, str]]:
    short = {5: "no", 6: "ok"}
    rows = [server.row(n, short.get(n)) for n in range(ROWS)]
    return [*rows[:8], rows[7], *rows[8:], HOSTILE]  # a slice has at least ten rows


def write_config(folder: Path, clip: Path) -> None:
    """A configuration beside its list and its store."""
    config = yaml.safe_load(find_config("demo").read_text())
    config["source"] |= {"urls": "list.csv", "rows_per_shard": 20}
    config["download"] |= {"image_size": 32, "min_success_rate": 0.0, "retries": 0}
    config["clip"] = {"kind": "pretrained"}
    config["clip"]["source"] = {"model": f"local-dir:{clip}", "pretrained": None}
    config["filter"]["rules"] = {"caption_length": {"min_chars": 3, "max_chars": 40}}
    config["select"]["near_duplicate_similarity"] = None
    config["run"] = {"store": "store", "cluster": {"cpus": 1}}
    (folder / CONFIG).write_text(yaml.safe_dump(config))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, server: Site) -> Path:
    """A folder with a project whose data stages have run."""
    folder, clips = (tmp_path_factory.mktemp(name) for name in ("finished", "clip"))
    write_csv(folder / "list.csv", listed(server))
    write_config(folder, make(Store(str(clips)), GivenClip()).folder.local())
    server.broken = BROKEN
    project = opened(folder)
    make(project.store, project.graph["select"])
    return folder


@pytest.fixture
def project(tmp_path: Path, store: Store, finished: Path) -> Project:
    """A copy of it."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return opened(tmp_path)


@pytest.fixture
def fresh(project: Project) -> Project:
    """The same without results."""
    for name in ("list", "download", "filter", "select"):
        shutil.rmtree(Path(project.store.root) / name)
    return project


def opened(folder: Path) -> Project:
    return open_project(ProjectChoice(str(folder / CONFIG), None, ()))


@pytest.fixture
def unclip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Unclip:
    """Calls the command beside the configuration, and returns what it prints."""
    monkeypatch.chdir(tmp_path)

    def call(command: str, *words: str, code: int = 0) -> str:
        capsys.readouterr()
        returned = main([command, CONFIG, *words])
        printed = capsys.readouterr()
        assert returned == code, printed.err
        return printed.err if code else printed.out

    return call


def counted(printed: str) -> Counter[tuple[str, str]]:
    """The table of counts; a row that was kept has no stage."""
    lines = printed.split("\n\n")[0].splitlines()[1:]
    cells = [re.fullmatch(r"(\w*) +(\w+) +(\d+)", line) for line in lines]
    return Counter({(c[1], c[2]): int(c[3]) for c in cells if c})


def written(unclip: Unclip, *words: str) -> list[Line]:
    """The rows that `--out` writes."""
    unclip("rows", *words, "--out", "rows.parquet")
    rows: list[Line] = pq.read_table("rows.parquet").to_pylist()
    return rows


def test_rows_are_counted_by_stage_and_reason(project: Project, unclip: Unclip) -> None:
    counts = counted(unclip("rows"))
    store, graph = project.store, project.graph
    by_stage: dict[str, Any] = {
        name: load_artifact(store, graph[name]).counts
        for name in ("download", "filter", "select")  # type: ignore[attr-defined]
    }
    expected = {
        (stage, reason): count
        for stage, counted_rows in by_stage.items()
        for reason, count in counted_rows["rejected"].items()
    }
    kept = by_stage["select"]["training"] + by_stage["select"]["held_out"]
    assert counts == {**expected, ("", "kept"): kept}
    assert counts["download", "http_404"] == len(MISSING)
    assert counts["download", "duplicate_row"] == 1
    assert counts["filter", "caption_too_short"] == 2
    assert counts.total() == by_stage["download"]["listed"] == ROWS + 2


def test_rows_are_found_by_reason_stage_url_and_key(
    project: Project, unclip: Unclip, server: Site
) -> None:
    url, caption = server.row(41)
    key = pair_key(url, caption)
    assert {row["url"] for row in written(unclip, "--reason", "http_404")} == {
        server.row(number)[0] for number in MISSING
    }
    assert [row["key"] for row in written(unclip, "--url", url)] == [key]
    (row,) = written(unclip, "--key", key)
    assert (row["stage"], row["reason"], row["attempts"]) == ("download", "http_404", 1)
    reasons = {row["reason"] for row in written(unclip, "--stage", "filter")}
    assert reasons == {"caption_too_short"}
    (kept,) = written(unclip, "--url", server.row(20)[0])
    assert kept["stage"] is kept["reason"] is None
    both = written(unclip, "--reason", "http_404", "--reason", "http_500", "--stage", "download")
    assert len(both) == len(MISSING) + 1
    none = unclip("rows", "--reason", "http_404", "--stage", "filter")
    assert none.startswith("No row matches.")


def test_few_rows_are_printed_and_rejected_ones_first(project: Project, unclip: Unclip) -> None:
    printed = unclip("rows", "--limit", "3")
    shown = printed.split("\n\n")[1].splitlines()
    assert len(shown) == 1 + 3
    assert all(re.search(r"download|filter|select", line) for line in shown[1:])
    rejected = len([row for row in written(unclip) if row["reason"]])
    assert f"3 of {rejected} rows. --limit shows more" in printed


def test_all_rows_are_written_to_each_format(project: Project, unclip: Unclip) -> None:
    from_parquet = written(unclip)
    assert len(from_parquet) == ROWS + 2
    for name in ("rows.csv", "rows.jsonl"):
        assert f"Wrote {ROWS + 2} rows to {name}" in unclip("rows", "--out", name)
    with Path("rows.csv").open(newline="") as file:
        from_csv = list(csv.DictReader(file))
    from_json = [json.loads(line) for line in Path("rows.jsonl").read_text().splitlines()]
    for name in ("key", "url", "stage", "reason", "detail"):
        expected = [row[name] for row in from_parquet]
        assert [row[name] for row in from_json] == expected
        assert [row[name] or None for row in from_csv] == expected
    assert "must end in .csv, .jsonl or .parquet" in unclip("rows", "--out", "rows.txt", code=2)
    for name in ("rows.csv", "rows.jsonl", "rows.parquet"):
        message = unclip("rows", "--out", f"no/such/{name}", code=2)
        assert f"no/such/{name} cannot be written" in message


def test_a_hostile_address_cannot_control_the_terminal(project: Project, unclip: Unclip) -> None:
    (row,) = written(unclip, "--key", pair_key(*HOSTILE))
    assert row["url"] == HOSTILE[0]
    for words in ([], ["--key", row["key"]], ["--reason", row["reason"]]):
        printed = unclip("rows", *words, "--limit", "100")
        assert "[31m" in printed
        assert all(char.isprintable() for char in printed.replace("\n", ""))


class Interrupted(LocalContext):
    """Makes one shard, and is interrupted."""

    def map_shards(self, worker: Any, items: Any, **settings: Any) -> Any:
        first = list(items)[:1]
        made_from = {name: settings["made_from"][name] for name in first}
        super().map_shards(
            worker, {name: items[name] for name in first}, **settings | {"made_from": made_from}
        )
        raise KeyboardInterrupt


def test_an_unfinished_download_can_be_looked_at(fresh: Project, unclip: Unclip) -> None:
    assert "Run the pipeline" in unclip("rows", code=2)
    slices: Any = make(fresh.store, fresh.graph["list"])
    assert isinstance(slices, ListShards)
    assert "Nothing was downloaded yet" in unclip("rows", code=2)
    stage: Stage[Any] = fresh.graph["download"]
    with pytest.raises(KeyboardInterrupt):
        stage.run(context(fresh.store, stage, kind=Interrupted))
    first, *others = slices.shards.values()
    counts = counted(unclip("rows"))
    assert others
    assert counts.total() == first.rows
    assert {stage for stage, _ in counts} == {"", "download"}


def test_a_retry_needs_rows_that_were_fetched(
    project: Project, unclip: Unclip, server: Site
) -> None:
    server.requests.clear()
    assert "Say which rows" in unclip("retry", code=2)
    for words in (
        ["--reason", "http_403"],
        ["--reason", "caption_too_short"],  # of the filter
        ["--url", "http://127.0.0.1/never.jpg"],
        ["--key", "0" * 20],
    ):
        assert "No row that was fetched matches" in unclip("retry", *words, code=2)
    assert server.taken() == 0
    assert opened(Path.cwd()).graph["download"].key == project.graph["download"].key


@pytest.mark.ray
def test_a_retry_fetches_these_rows_and_a_run_changes_the_shards_with_them(
    project: Project, unclip: Unclip, server: Site
) -> None:
    pairs, verdicts = results(project)
    server.requests.clear()
    server.broken = {30: 500, 2: 404}
    printed = unclip("retry", "--reason", "http_404")
    assert "Fetching 3 rows again, from" in printed
    assert f"`unclip run {CONFIG}` brings the later stages" in printed
    assert server.requests == Counter(f"/{number}.jpg" for number in MISSING)

    unclip("run", "--only", "filter")
    now = opened(Path.cwd())
    later_pairs, later_verdicts = results(now)
    assert later_pairs.total_rows == pairs.total_rows + 2
    assert later_pairs.counts["rejected"]["http_404"] == 1
    changed = {n for n in pairs.shards if pairs.shards[n].digest != later_pairs.shards[n].digest}
    assert len(changed) == 2  # a slice has at most 40 rows
    assert changed == {n for n in verdicts.shards if verdicts.url(n) != later_verdicts.url(n)}
    assert server.requests.total() == len(MISSING)
    assert counted(unclip("rows", "--reason", "http_404")) == {("download", "http_404"): 1}


def results(project: Project) -> tuple[PairShards, VerdictShards]:
    pairs, verdicts = (
        load_artifact(project.store, project.graph[name]) for name in ("download", "filter")
    )
    assert isinstance(pairs, PairShards)
    assert isinstance(verdicts, VerdictShards)
    return pairs, verdicts
