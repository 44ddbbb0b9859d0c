"""Examples of what was kept and rejected: chosen by key in the tables, then read from the shards.

Keys are random, so the first ones are a fair sample, and the same one every time.
"""

import io
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import duckdb
from PIL import Image

from pipelines.artifacts import PairShards
from pipelines.artifacts.schema import rendition
from pipelines.core.tables import ParquetRows
from pipelines.report.data_tables import Sources
from pipelines.report.page import clean, data_uri

KEPT = 24  # pictures of pairs that were selected
PER_REASON = 6  # rejected pictures
SPARE = 4  # times as many rows are chosen, because a list may have a row several times
FAILURES_PER_REASON = 3  # rows that were not downloaded
MAX_REASONS = 8  # of a stage that are shown with examples, the most frequent first
PICTURE_SIDE = 112  # pixels, at most
MIN_SIDE = 64  # pixels of a rendition that is large enough to look at
UNSHOWN = frozenset({"unsafe"})  # reasons whose pictures stay out of the page
MAX_CAPTION, MAX_URL, MAX_DETAIL = 120, 160, 120  # characters

Values = dict[str, Any]

CHOOSE = """
SELECT coalesce(reason, ''), min({{'key': key, 'shard': shard, 'number': number{repeats}}}, {limit})
FROM {table} WHERE coalesce(reason, '') IN (SELECT unnest(?)) GROUP BY reason
"""
# Several rows may have the key: the one that was kept comes first.
FIND_KEPT = """
SELECT key, min({'rejected': reason IS NOT NULL, 'shard': shard, 'number': number})
FROM verdicts WHERE key IN (SELECT unnest(?)) GROUP BY key
"""


class Place(NamedTuple):
    """One row of a shard."""

    shard: str
    row: int


@dataclass(frozen=True)
class Choice:
    """A row that was chosen as an example."""

    place: Place
    repeats: str | None  # the key of the pair that is kept in place of this one


Choices = dict[str, list[Choice]]


def find_failures(
    database: duckdb.DuckDBPyConnection, sources: Sources, reasons: Iterable[str]
) -> dict[str, list[Values]]:
    """Rows that were not downloaded, by reason, with URL, caption and detail."""
    chosen = choose(database, "outcomes", reasons, limit=FAILURES_PER_REASON, repeats="")
    places = [choice.place for choices in chosen.values() for choice in choices]
    rows = dict(_read_failures(places, sources))
    return {reason: [rows[choice.place] for choice in found] for reason, found in chosen.items()}


def _read_failures(places: Sequence[Place], sources: Sources) -> Iterator[tuple[Place, Values]]:
    outcomes = read_rows(sources.pairs.outcomes_url, places, ("url", "detail", "attempts"))
    listed = read_rows(sources.urls.url, places, ("caption",))
    for (place, outcome), (_, row) in zip(outcomes, listed, strict=True):
        failure = {
            "url": clean(outcome["url"], MAX_URL),
            "caption": clean(row["caption"], MAX_CAPTION),
            "detail": clean(outcome["detail"] or "", MAX_DETAIL),
            "attempts": outcome["attempts"],
        }
        yield place, failure


def find_pictures(
    database: duckdb.DuckDBPyConnection, sources: Sources, reasons: Mapping[str, Iterable[str]]
) -> Values:
    """Pictures of selected pairs, and of those that filter and selection rejected, by reason.

    reasons: of both stages, the most frequent first. A rejected pair that repeats another one has
    that one as its `original`.
    """
    kept = choose(database, "selection", [""], limit=KEPT).get("", [])
    rejected = {
        stage: choose(database, table, reasons[stage], limit=PER_REASON)
        for stage, table in (("filter", "verdicts"), ("select", "selection"))
    }
    shown = [choice for choices in _lists(rejected) for choice in choices] + kept
    originals = find_originals(database, shown)
    places = [choice.place for choice in shown] + list(originals.values())
    pictures = dict(read_pictures(places, sources.pairs))

    def example(choice: Choice, reason: str) -> Values:
        original = originals.get(choice.repeats or "", choice.place)
        is_other = original != choice.place
        picture = {**pictures[choice.place], "original": pictures[original] if is_other else None}
        return {**picture, "image": None} if reason in UNSHOWN else picture

    return {
        "kept": [pictures[choice.place] for choice in kept],
        "rejected": {
            stage: {r: [example(choice, r) for choice in found] for r, found in choices.items()}
            for stage, choices in rejected.items()
        },
    }


def _lists(rejected: dict[str, Choices]) -> list[list[Choice]]:
    return [found for choices in rejected.values() for found in choices.values()]


def choose(
    database: duckdb.DuckDBPyConnection,
    table: str,
    reasons: Iterable[str],
    *,
    limit: int,
    repeats: str = ", 'repeats': repeats",
) -> Choices:
    """By reason, the rows with the smallest keys, at most `limit` with different keys.

    reasons: the most frequent first; "" stands for none. repeats: empty for a table without that
    column.
    """
    wanted = list(reasons)[:MAX_REASONS]
    query = CHOOSE.format(table=table, limit=SPARE * limit, repeats=repeats)
    rows = dict(database.execute(query, [wanted]).fetchall())
    return {reason: _first(rows[reason], limit) for reason in wanted if reason in rows}


def _first(rows: Sequence[Values], limit: int) -> list[Choice]:
    """rows: by key; the first of those with the same key counts."""
    by_key: dict[str, Values] = {}
    for row in rows:
        by_key.setdefault(row["key"], row)
    return [
        Choice(Place(row["shard"], row["number"]), row.get("repeats"))
        for row in list(by_key.values())[:limit]
    ]


def find_originals(
    database: duckdb.DuckDBPyConnection, choices: Iterable[Choice]
) -> dict[str, Place]:
    """The places of the pairs that the chosen ones repeat, by key."""
    keys = sorted({choice.repeats for choice in choices if choice.repeats})
    found = database.execute(FIND_KEPT, [keys]).fetchall()
    return {key: Place(row["shard"], row["number"]) for key, row in found}


def read_pictures(places: Iterable[Place], pairs: PairShards) -> Iterator[tuple[Place, Values]]:
    """Caption and small picture of each pair, whose size does not depend on the stored one."""
    large_enough = [size for size in pairs.renditions if size >= MIN_SIDE]
    column = rendition(large_enough[0]) if large_enough else "image"
    names = ("caption", column, "original_width", "original_height")
    for place, row in read_rows(pairs.url, places, names):
        picture = {
            "caption": clean(row["caption"], MAX_CAPTION),
            "size": f"{row['original_width']} × {row['original_height']}",
            "image": data_uri(thumbnail(row[column]), "jpeg"),
        }
        yield place, picture


def thumbnail(image: bytes) -> bytes:
    """An image as a JPEG of at most `PICTURE_SIDE` pixels."""
    encoded = io.BytesIO()
    with Image.open(io.BytesIO(image)) as stored:
        small = stored.convert("RGB")
    small.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    small.save(encoded, "JPEG", quality=80)
    return encoded.getvalue()


def read_rows(
    url: Callable[[str], str], places: Iterable[Place], columns: Sequence[str]
) -> Iterator[tuple[Place, Values]]:
    """Single rows of many shards, shard by shard; `url` gives the URL of a shard."""
    by_shard: defaultdict[str, set[int]] = defaultdict(set)
    for place in places:
        by_shard[place.shard].add(place.row)
    for shard, numbers in sorted(by_shard.items()):
        rows = sorted(numbers)
        found = ParquetRows(url(shard), columns).take(rows).to_pylist()
        yield from zip([Place(shard, row) for row in rows], found, strict=True)
