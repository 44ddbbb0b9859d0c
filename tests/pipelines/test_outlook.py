"""What a plan says about new shards, and what a run then does."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.artifacts.schema import pair_key
from pipelines.core.graph import Graph
from pipelines.core.outlook import outlooks
from pipelines.core.plan import Scope, make_plan
from pipelines.core.stage import Outlook, Shards, Stage
from pipelines.core.store import Store
from pipelines.data.earlier import Retry
from pipelines.data.filter_config import FilterConfig
from pipelines.data.retries import add_retry
from pipelines.data.rules import CaptionLength, Deny, Duplicate, FilterRule
from pipelines.stages.download import Download
from pipelines.stages.embed import Embed, EmbedConfig
from pipelines.stages.filter import Filter
from tests.pipelines.counting import Site, download_stage, site, write_csv
from tests.pipelines.given import GivenClip
from tests.pipelines.local import make

ROWS = 100
RULES: dict[str, FilterRule] = {"caption_length": CaptionLength(min_chars=3, max_chars=40)}


@pytest.fixture(scope="module")
def server() -> Iterator[Site]:
    with site() as running:
        running.broken = {3: 404}
        yield running


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, server: Site) -> Path:
    """A folder with a list and a store in which all stages have run."""
    folder = tmp_path_factory.mktemp("finished")
    write_csv(folder / "list.csv", map(server.row, range(ROWS)))
    make(Store(str(folder / "store")), stages(folder)[-1])
    return folder


@pytest.fixture
def folder(tmp_path: Path, finished: Path, server: Site) -> Path:
    """A copy of it."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    server.requests.clear()
    return tmp_path


def stages(folder: Path, rules: dict[str, FilterRule] | None = None) -> list[Stage[Shards]]:
    """list, download, filter and embed."""
    pairs = download_stage(folder / "list.csv", str(folder / "store"))
    verdicts = Filter(pairs, FilterConfig(rules=RULES if rules is None else rules))
    embed = Embed(pairs, verdicts, GivenClip(), EmbedConfig(batch_size=16))
    return [pairs.urls, pairs, verdicts, embed]


def plan(folder: Path, made: list[Stage[Shards]]) -> dict[str, Outlook]:
    store = Store(str(folder / "store"))
    return outlooks(make_plan(Graph(made[-1:]), store, Scope()), store)


def run(folder: Path, made: list[Stage[Shards]]) -> dict[str, int]:
    """The number of shards that each stage made."""
    before = files(folder)
    make(Store(str(folder / "store")), made[-1])
    return {stage.name: len(files(folder)[stage.name] - before[stage.name]) for stage in made[1:]}


def files(folder: Path) -> dict[str, set[str]]:
    shards = {name: (folder / "store" / name).glob("shards/*") for name in ("download", "filter")}
    shards["embed"] = (folder / "store" / "embed").glob("shards/*")
    return {n: {p.stem for p in found if "." not in p.stem} for n, found in shards.items()}


def new(outlook: dict[str, Outlook]) -> dict[str, int]:
    return {name: len(outlook[name].new) for name in ("download", "filter", "embed")}


def fetched(outlook: dict[str, Outlook]) -> int:
    """The number of rows that the plan says are fetched."""
    (count,) = re.findall(r"(\d+) to fetch", outlook["download"].note)
    return int(count)


def rows_of(server: Site) -> list[tuple[str, str]]:
    return [server.row(number) for number in range(ROWS)]


def test_nothing_is_new_after_a_run(folder: Path, server: Site) -> None:
    outlook = plan(folder, stages(folder))
    assert [len(each.new) for each in outlook.values()] == [0, 0, 0, 0]
    assert {str(each) for each in outlook.values()} == {"all of its shards exist"}


def test_an_appended_row(folder: Path, server: Site) -> None:
    write_csv(folder / "list.csv", [*rows_of(server), server.row(ROWS)])
    outlook = plan(folder, stages(folder))
    assert 1 <= len(outlook["list"].new) <= 2
    assert fetched(outlook) == 1
    assert server.taken() == 0
    assert run(folder, stages(folder)) == new(outlook)
    assert server.taken() == 1


def test_an_edited_caption_and_a_new_url_in_the_middle(folder: Path, server: Site) -> None:
    rows = rows_of(server)
    rows[50] = server.row(50, "another caption")
    write_csv(folder / "list.csv", rows)
    outlook = plan(folder, stages(folder))
    assert fetched(outlook) == 0
    assert 1 <= len(outlook["download"].new) < len(outlook["download"].rows)
    assert run(folder, stages(folder)) == new(outlook)
    assert server.taken() == 0

    rows[20:20] = [server.row(500), server.row(501)]
    write_csv(folder / "list.csv", rows)
    outlook = plan(folder, stages(folder))
    assert fetched(outlook) == 2
    assert run(folder, stages(folder)) == new(outlook)
    assert server.taken() == 2


def test_a_changed_rule(folder: Path, server: Site) -> None:
    stricter = stages(folder, {"caption_length": CaptionLength(min_chars=17, max_chars=40)})
    outlook = plan(folder, stricter)
    assert len(outlook["download"].new) == 0
    assert len(outlook["filter"].new) == len(outlook["filter"].rows)
    made = run(folder, stricter)
    assert made["filter"] == len(outlook["filter"].new)
    # One shard has the short captions; the pairs that the filter keeps of the others are the same.
    assert 1 <= made["embed"] < len(outlook["embed"].new)
    assert server.taken() == 0


def test_a_changed_deny_list(folder: Path, server: Site) -> None:
    denied = folder / "denied.txt"
    rules = RULES | {"deny": Deny(keys=str(denied))}
    denied.write_text(pair_key(*server.row(1)))
    run(folder, stages(folder, rules))
    denied.write_text(pair_key(*server.row(2)))
    outlook = plan(folder, stages(folder, rules))
    assert run(folder, stages(folder, rules))["filter"] == len(outlook["filter"].new) > 0


def test_a_list_that_was_cut_but_not_downloaded(tmp_path: Path, server: Site) -> None:
    write_csv(tmp_path / "list.csv", rows_of(server))
    store = Store(str(tmp_path / "store"))
    listed = make(store, stages(tmp_path)[0])
    write_csv(tmp_path / "list.csv", [*rows_of(server), server.row(ROWS)])
    outlook = plan(tmp_path, stages(tmp_path))
    assert 0 < len(outlook["list"].new) < len(listed.shards)
    assert fetched(outlook) == ROWS + 1
    server.requests.clear()
    assert run(tmp_path, stages(tmp_path)) == new(outlook)
    assert server.taken() == ROWS + 1


def test_a_retry(folder: Path, server: Site) -> None:
    stage = stages(folder)[1]
    assert isinstance(stage, Download)
    names = list(make(Store(str(folder / "store")), stage).shards)
    (failed,) = [name for name in names if has_failed(folder, stage, name)]
    add_retry(stage.log_folder, stage.log_name, Retry(reasons=("http_404",)), [failed])
    outlook = plan(folder, stages(folder))
    assert outlook["download"].new == [failed]
    assert "those of the last retry" in str(outlook["download"])
    server.broken = {}
    made = run(folder, stages(folder))
    server.broken = {3: 404}
    assert server.taken() == 1
    assert made == new(outlook)


def has_failed(folder: Path, stage: Download, name: str) -> bool:
    pairs = make(Store(str(folder / "store")), stage)
    assert pairs.shards[name].rows > 0
    listed = make(Store(str(folder / "store")), stage.urls)
    return pairs.shards[name].rows < listed.shards[name].rows


def test_an_appended_row_under_a_rule_about_duplicates(folder: Path, server: Site) -> None:
    rules = RULES | {"duplicate": Duplicate()}
    run(folder, stages(folder, rules))
    write_csv(folder / "list.csv", [*rows_of(server), server.row(ROWS)])
    planned = new(plan(folder, stages(folder, rules)))
    made = run(folder, stages(folder, rules))
    # The verdicts of rules that look at one pair are shards of their own.
    assert made == planned | {"filter": 2 * planned["filter"]}


def test_a_forced_stage_is_made_again_entirely(folder: Path) -> None:
    store, made = Store(str(folder / "store")), stages(folder)
    forced = outlooks(make_plan(Graph(made[-1:]), store, Scope(force=["download"])), store)
    assert len(forced["download"].new) == len(forced["download"].rows)
    assert str(forced["download"]).endswith("all of it made again")


def test_a_plan_writes_nothing_to_the_store(folder: Path, server: Site) -> None:
    write_csv(folder / "list.csv", [*rows_of(server), server.row(ROWS)])
    before = sorted(path for path in (folder / "store").rglob("*"))
    plan(folder, stages(folder))
    assert sorted(path for path in (folder / "store").rglob("*")) == before
