"""A served list with all that a data report shows, and the real stages up to the report."""

import io
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipelines.data.download_config import DownloadConfig
from pipelines.data.filter_config import FilterConfig, read_rules
from pipelines.data.sources import SourceConfig
from pipelines.demo.dataset import emoji
from pipelines.stages.data_report import BuildDataReport
from pipelines.stages.download import Download
from pipelines.stages.embed import Embed, EmbedConfig
from pipelines.stages.filter import Filter
from pipelines.stages.pca import Pca, PcaConfig
from pipelines.stages.select import Select, SelectConfig
from pipelines.stages.url_list import UrlList
from tests.pipelines.given import GivenClip
from tests.pipelines.web import body, web

PICTURES = 150
COLUMNS = {"number": "number", "licence": "text"}  # scan has a column "number" of its own
MARKUP = "</td><script>alert('report')</script>"
REVERSED = "before \u202eafter\u202c \x07 bell"
ARABIC = "صورة قطة صغيرة تجلس على العشب"
HOSTILE = [MARKUP, REVERSED, ARABIC, "very long " * 100_000]
RULES = {"caption_length": {"min_chars": 5, "max_chars": 300}, "duplicate": {}}


def picture(number: int) -> bytes:
    """A PNG of one of the packaged images, of varying size."""
    stored = emoji()["image"][number * 11].as_py()
    size = (64 + 16 * (number % 5), 64 + 24 * (number % 3))
    encoded = io.BytesIO()
    Image.open(io.BytesIO(stored)).convert("RGB").resize(size).save(encoded, "PNG")
    return encoded.getvalue()


def answer(handler: BaseHTTPRequestHandler) -> None:
    """/picture/7 and /copy/7 are the same picture; the other paths fail."""
    kind, number = handler.path.strip("/").split("/")[:2]
    if kind in ("picture", "copy"):
        body(picture(int(number)))(handler)
    elif kind == "page":
        body(b"<!doctype html><title>Gone</title>")(handler)
    else:
        body(b"", 404)(handler)


def rows(base: str) -> list[dict[str, Any]]:
    """Good rows, hostile ones, repeated ones, and three kinds that cannot be downloaded."""
    labels = emoji()["label"].to_pylist()
    pairs = [(f"{base}/picture/{n}", f"an emoji of a {labels[n * 11]}") for n in range(PICTURES)]
    pairs += [(f"{base}/picture/{n}", text) for n, text in enumerate(HOSTILE)]
    pairs += [(f"{base}/copy/{n}", pairs[n][1]) for n in range(20)]  # same bytes, same caption
    pairs += [(f"{base}/picture/{n}", "a") for n in range(40, 47)]  # too short
    pairs += [(f"{base}/missing/{n}?{MARKUP}", MARKUP) for n in range(8)]
    pairs += [(f"{base}/page/{n}", "a page") for n in range(5)]
    pairs += [("http://10.0.0.1/private.png", "private"), (f"{base}/missing/{'x' * 10**6}", "long")]
    pairs += pairs[:3]  # the same rows once more
    texts = [ARABIC, "CC-BY", REVERSED, MARKUP, None]
    return [
        {
            "url": url,
            "caption": caption,
            "number": None if number % 10 == 0 else number / 7,
            "licence": texts[number % 5],
        }
        for number, (url, caption) in enumerate(pairs)
    ]


@contextmanager
def served_list(folder: Path) -> Iterator[Path]:
    """The list as a Parquet file, while its pictures are served."""
    with web(defaultdict(lambda: answer)) as base:
        path = folder / "list.parquet"
        pq.write_table(pa.Table.from_pylist(rows(base)), path)
        yield path


def data_report_stage(
    path: Path, store: str, min_similarity: float = -1.0, rows_per_shard: int = 40
) -> BuildDataReport:
    """The report on a list, whose pictures are rejected below a similarity."""
    source = SourceConfig(
        urls=str(path),
        url_column="url",
        caption_column="caption",
        rows_per_shard=rows_per_shard,
        columns=COLUMNS,
    )
    download = DownloadConfig(
        image_size=96,
        resize_mode="border",
        encode_format="png",
        encode_quality=1,
        max_bytes=10**6,
        connections=8,
        retries=0,
        timeout_s=10.0,
        min_success_rate=0.0,
        allow_hosts=("127.0.0.1",),
    )
    select = SelectConfig(
        min_similarity=min_similarity, near_duplicate_similarity=None, held_out_fraction=0.2
    )
    urls = UrlList(source)
    pairs = Download(urls, download, source, store)
    verdicts = Filter(pairs, FilterConfig(rules=read_rules(RULES)))
    embeddings = Embed(pairs, verdicts, GivenClip(), EmbedConfig(batch_size=32))
    selection = Select(pairs, embeddings, select)
    pca = Pca(embeddings, selection, PcaConfig(dimensions=8))
    return BuildDataReport(urls, pairs, verdicts, embeddings, selection, pca)
