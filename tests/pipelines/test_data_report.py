"""The data report: figures counted independently, hostile text, and a page of bounded size."""

import re
import statistics
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from html import unescape
from typing import Any, ClassVar
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pytest

from pipelines.artifacts import DataReport, PairShards, VerdictShards
from pipelines.artifacts.schema import VERDICTS
from pipelines.core.events import Event, Output
from pipelines.core.stage import Artifact, Context, Shards, Stage, load_artifact
from pipelines.core.store import Store
from pipelines.core.tables import read_table
from pipelines.report.data_examples import KEPT, PER_REASON
from pipelines.report.data_figures import effective_rank
from pipelines.report.page import clean, percent
from pipelines.stages.data_report import BuildDataReport
from tests.pipelines.given_data import (
    ARABIC,
    COLUMNS,
    MARKUP,
    data_report_stage,
    served_list,
)
from tests.pipelines.local import make, own_entries, write_table
from tests.pipelines.page import Page

Row = dict[str, Any]
FLOOR = -0.1  # the similarities of the random CLIP are on both sides


@dataclass
class Made:
    """A report, and all rows that it is about."""

    store: Store
    stage: BuildDataReport
    report: DataReport
    events: list[Event]

    @property
    def figures(self) -> dict[str, Any]:
        found: dict[str, Any] = self.report.folder.read_json("data.json")
        return found

    @property
    def html(self) -> str:
        with self.report.folder.open("data.html") as file:
            return file.read().decode()

    def rows(self, stage: Stage[Any]) -> list[Row]:
        shards = load_artifact(self.store, stage)
        assert isinstance(shards, Shards)
        names = [n for n in (shards.schema() or []).names if not n.startswith("image")]
        return [row for n in shards.shards for row in shards.read(n, names).to_pylist()]

    def outcomes(self) -> list[Row]:
        pairs = load_artifact(self.store, self.stage.pairs)
        return [r for n in pairs.shards for r in read_table(pairs.outcomes_url(n)).to_pylist()]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    folder = tmp_path_factory.mktemp("data_report")
    store, events = Store(str(folder / "store")), list[Event]()
    with served_list(folder) as path:
        stage = data_report_stage(path, store.root, FLOOR)
        yield Made(store, stage, make(store, stage, events), events)


def reasons(rows: Sequence[Row]) -> Counter[str]:
    return Counter(row["reason"] for row in rows if row["reason"] is not None)


def test_the_page_and_its_figures_are_announced(made: Made) -> None:
    name = made.stage.name
    assert made.events == [Output(name, "data.json"), Output(name, "data.html")]


def test_every_row_is_accounted_for_at_every_stage(made: Made) -> None:
    outcomes, verdicts = made.outcomes(), made.rows(made.stage.verdicts)
    selection = made.rows(made.stage.selection)
    downloaded = sum(row["reason"] is None for row in outcomes)
    kept = sum(row["reason"] is None for row in verdicts)
    selected = [row for row in selection if row["reason"] is None]
    steps = {step["stage"]: step for step in made.figures["steps"]}
    assert [step["missing"] for step in steps.values()] == [0] * 5
    assert {name: (step["rows"], step["kept"]) for name, step in steps.items()} == {
        "download": (len(made.rows(made.stage.urls)), downloaded),
        "filter": (downloaded, kept),
        "embed": (kept, kept),
        "select": (kept, len(selected)),
        "all": (len(outcomes), len(selected)),
    }
    held_out = sum(row["held_out"] for row in selected)
    assert 0 < held_out < len(selected) < kept
    assert made.figures["splits"] == {
        "training": len(selected) - held_out,
        "held_out": held_out,
    }


def test_reasons_are_counted_over_all_shards(made: Made) -> None:
    counted = {name: dict(found) for name, found in made.figures["reasons"].items()}
    assert counted == {
        "download": reasons(made.outcomes()),
        "filter": reasons(made.rows(made.stage.verdicts)),
        "select": reasons(made.rows(made.stage.selection)),
    }
    assert len(load_artifact(made.store, made.stage.pairs).shards) > 2
    assert all(counted.values())


def test_hosts_have_their_rows_successes_and_median_attempts(made: Made) -> None:
    by_host: defaultdict[str, list[Row]] = defaultdict(list)
    for row in made.outcomes():
        by_host[urlsplit(row["url"]).hostname or ""].append(row)
    assert made.figures["hosts"]["count"] == len(by_host) == 2
    for host in made.figures["hosts"]["top"]:
        rows = by_host[host["host"]]
        attempts = [row["attempts"] for row in rows if row["attempts"]]
        assert host["rows"] == len(rows)
        assert host["downloaded"] == sum(row["reason"] is None for row in rows)
        assert host["median_attempts"] == statistics.median_low(attempts)


def binned(values: Sequence[float], edges: Sequence[float], find: Callable[..., int]) -> list[int]:
    counts = Counter(find(edges, value) for value in values)
    return [counts[bin_] for bin_ in range(len(edges) + 1)]


def test_histograms_count_every_pair(made: Made) -> None:
    pairs = made.rows(made.stage.pairs)
    found = made.figures["pairs"]
    sides = [min(row["original_width"], row["original_height"]) for row in pairs]
    ratios = [row["original_width"] / row["original_height"] for row in pairs]
    chars = [len(row["caption"]) for row in pairs]
    for name, values, find in (
        ("shorter_side", sides, bisect_right),
        ("caption_chars", chars, bisect_right),
        ("aspect_ratio", ratios, bisect_left),
    ):
        assert found[name]["counts"] == binned(values, found[name]["edges"], find), name
        assert sum(found[name]["counts"]) == len(pairs)


def test_similarities_are_those_of_all_embeddings(made: Made) -> None:
    values = [row["similarity"] for row in made.rows(made.stage.embeddings)]
    found = made.figures["similarity"]
    assert found["rows"] == len(values)
    assert found["mean"] == pytest.approx(statistics.mean(values), abs=1e-6)
    edges = np.float64(found["histogram"]["edges"])
    assert found["histogram"]["counts"] == binned(values, list(edges), bisect_left)


def test_columns_of_the_list_are_described(made: Made) -> None:
    pairs = made.rows(made.stage.pairs)
    assert list(made.figures["columns"]) == list(COLUMNS)
    score, licence = made.figures["columns"].values()
    scores = [row["number"] for row in pairs if row["number"] is not None]
    assert (score["rows"], score["missing"]) == (len(scores), len(pairs) - len(scores))
    edges, counts = score["histogram"].values()
    assert counts == binned(scores, edges, bisect_left)
    licences = Counter(row["licence"] for row in pairs if row["licence"] is not None)
    assert licence["top"] == licences
    assert licence["distinct"] == len(licences)


def test_languages_are_counted_in_the_sample(made: Made) -> None:
    languages = made.figures["languages"]
    assert languages["sample"] == len(made.rows(made.stage.pairs))  # fewer than a sample has
    assert languages["counts"]["ar"] == 1
    assert sum(languages["counts"].values()) + languages["uncertain"] == languages["sample"]


def test_the_effective_rank_is_the_number_of_equal_components() -> None:
    assert effective_rank([2.0] * 7) == pytest.approx(7)
    assert effective_rank([1.0, 0.0, 0.0]) == pytest.approx(1)
    assert 1 < effective_rank([1.0, 0.5, 0.1]) < 3
    assert effective_rank([0.0, 0.0]) == 0


def test_hostile_text_stays_text_and_short(made: Made) -> None:
    page = Page(made.html)
    assert "script" not in page.tags
    assert not [n for n, _ in page.attributes if n.startswith("on")]
    assert MARKUP in page.text
    assert ARABIC in page.text
    assert not set(page.text) & set("\u202e\u202c\x07\x00")
    assert max(len(word) for word in page.text.split()) < 300
    assert len(made.html) < 10**6
    assert len((made.report.folder.local("data.json")).read_bytes()) < 10**5


def test_nothing_is_loaded_from_anywhere(made: Made) -> None:
    addresses = [v for n, v in Page(made.html).attributes if n in ("src", "href") and v]
    assert {a.split(":")[0] if ":" in a else a[0] for a in addresses} == {"data", "#"}
    assert not re.search(r"url\((?!#)", made.html)


def images(html: str, alt: str) -> int:
    return Page(html).attributes.count(("alt", alt))


def test_repeated_pictures_stand_beside_those_that_were_kept(made: Made) -> None:
    section = made.html[made.html.index("Filter: <bdi>duplicate") :]
    section = section[: section.index("</section>")]
    assert images(section, "rejected") == images(section, "kept") == PER_REASON
    sources = re.findall(r'src="([^"]+)"', section)
    assert sources[::2] == sources[1::2]  # the same bytes were rejected
    assert len(set(sources)) > 1


def test_kept_pictures_are_shown_with_their_captions(made: Made) -> None:
    section = made.html[made.html.index('id="kept"') : made.html.index('id="rejected"')]
    assert images(section, "kept") == KEPT
    selected = sorted(
        row["key"] for row in made.rows(made.stage.selection) if row["reason"] is None
    )
    captions = {row["key"]: row["caption"] for row in made.rows(made.stage.pairs)}
    shown = re.findall(r"<figcaption><bdi>(.*?)</bdi>", section)
    assert list(map(unescape, shown)) == [clean(captions[key], 120) for key in selected[:KEPT]]


@dataclass(frozen=True)
class ManyReasons(Stage[VerdictShards]):
    """Every second pair is rejected for a reason of its own, every fourth as unsafe."""

    kind: ClassVar[str] = "filter"
    artifact: ClassVar[type[Artifact]] = VerdictShards

    pairs: Stage[PairShards]
    lost: int = 0  # verdicts that are left out

    def run(self, ctx: Context) -> VerdictShards:
        pairs = ctx.load(self.pairs)
        for name in pairs.shards:
            keys = pairs.read(name, ["key"])["key"].to_pylist()[self.lost :]
            rows = [{"key": key, "reason": self.reason(n)} for n, key in enumerate(keys)]
            write_table(ctx.folder, f"{name}.parquet", pa.Table.from_pylist(rows, schema=VERDICTS))
        shards = own_entries({name: entry.rows for name, entry in pairs.shards.items()})
        return VerdictShards(ctx.folder, shards, {"kept": 0}, {n: n for n in shards})

    def reason(self, row: int) -> str | None:
        if row % 4 == 0:
            return "unsafe"
        return f"reason {row} {MARKUP}" if row % 2 else None


@pytest.mark.parametrize("lost", [0, 1])
def test_many_reasons_and_unbalanced_books_fit_on_the_page(made: Made, lost: int) -> None:
    stage = replace(made.stage, verdicts=ManyReasons(made.stage.pairs, lost))
    other = replace(made, stage=stage, report=make(made.store, stage))
    found = other.figures["reasons"]["filter"]
    assert len(found) > 8
    assert images(other.html, "rejected") + images(other.html, "kept") <= 150
    assert Page(other.html).tags.count("script") == 0
    unsafe = other.html[other.html.index("Filter: <bdi>unsafe") :]
    unsafe = unsafe[: unsafe.index("</section>")]
    assert unsafe.count("not shown") == PER_REASON
    assert "<img" not in unsafe
    missing = {s["stage"]: s["missing"] for s in other.figures["steps"]}["filter"]
    assert bool(missing) == bool(lost)


def test_text_from_the_data_is_one_short_line() -> None:
    assert clean("a\n\tb", 10) == "a b"
    assert clean("x" * 10, 10) == "x" * 10
    assert clean("x" * 11, 10) == "x" * 10 + "…"
    assert clean(" " * 10**6 + "x", 10) == "…"
    assert clean("a\u202eb\u0000c", 10) == "a\ufffdb\ufffdc"
    assert clean("👩\u200d🚀", 10) == "👩\u200d🚀"


def test_small_shares_are_not_shown_as_none() -> None:
    shares = (0.0, 1e-7, 0.5, 0.99999, 1.0)
    assert [percent(s) for s in shares] == ["0.0%", "< 0.1%", "50.0%", "> 99.9%", "100.0%"]
