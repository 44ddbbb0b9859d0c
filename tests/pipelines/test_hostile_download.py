"""All hostile images, servers and URLs in one slice, through the real worker, with good images."""

import dataclasses
import json
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.artifacts.schema import pairs, url_list
from pipelines.core.tables import read_table
from pipelines.data.download import DownloadItem, DownloadWorker
from pipelines.data.download_config import DownloadConfig
from tests.pipelines.counting import picture
from tests.pipelines.hostile_images import IMAGES, MAX_PIXELS, SECRET_FILE
from tests.pipelines.hostile_servers import (
    LOCATIONS,
    PAGES,
    PAUSES,
    URLS,
    location_pages,
    pages,
)
from tests.pipelines.local import work_with_files
from tests.pipelines.test_tls import self_signed
from tests.pipelines.web import Page, body, web

GOOD = 40  # images between the others
MAX_MEMORY = 100  # MiB that the hostile rows may take beyond the good ones


class Recorded(dict[str, Page]):
    """Pages, and the paths that were asked for."""

    def __init__(self, found: dict[str, Page]) -> None:
        super().__init__(found)
        self.asked: list[str] = []

    def __getitem__(self, path: str) -> Page:
        self.asked.append(path)
        if len(path) > 60_000:
            return body(b"", 414)
        return self.get(path, body(b"", 404))


@dataclass
class Rows:
    """URLs, and the reason that each ends in."""

    expected: dict[str, str | None] = field(default_factory=dict)

    def add(self, url: str, reason: str | None) -> None:
        assert url not in self.expected
        self.expected[url] = reason

    def write(self, path: Path) -> None:
        rows = [{"url": url, "caption": "a caption"} for url in self.expected]
        pq.write_table(pa.Table.from_pylist(rows, schema=url_list({})), path)


@contextmanager
def hostile_rows(secret: Path) -> Iterator[tuple[Rows, Rows, Recorded]]:
    """All rows, the good ones alone, and what the server is asked for, while it runs."""
    site = Recorded(pages())
    with ExitStack() as stack:
        address = stack.enter_context(web(site))
        here = address.removeprefix("http://")
        site |= location_pages(here, secret)
        rows = Rows()
        for name, (_, reason) in PAGES.items():
            rows.add(f"{address}/{name}", reason)
        for number, reason in enumerate(LOCATIONS.values()):
            rows.add(f"{address}/to/{number}", reason)
        for url, reason in URLS.items():
            rows.add(url.replace("{here}", here).replace(SECRET_FILE, str(secret)), reason)
        for number, case in enumerate(IMAGES.values()):
            content = case.content.replace(SECRET_FILE.encode(), bytes(secret))
            site[f"/image/{number}"] = body(content)
            rows.add(f"{address}/image/{number}", case.reason or case.stored_reason)
        for number, (name, (page, reason)) in enumerate(PAUSES.items(), start=2):
            other = stack.enter_context(web({f"/{name}": page}, host=f"127.0.0.{number}"))
            rows.add(f"{other}/{name}", reason)
        server, _ = self_signed(secret.parent, "pictures.invalid")
        rows.add(f"{stack.enter_context(web(site, server))}/good", "tls")
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        rows.add(f"https://127.0.0.1:{silent.getsockname()[1]}/", "timeout")
        site |= {f"/{number}.jpg": body(picture(number)) for number in range(GOOD)}
        good = Rows({f"{address}/{number}.jpg": None for number in range(GOOD)})
        yield spread(rows, good), good, site


def spread(rows: Rows, good: Rows) -> Rows:
    """The good rows between the others."""
    every = len(rows.expected) // GOOD
    images, found = iter(good.expected), Rows()
    for number, (url, reason) in enumerate(rows.expected.items()):
        if number % every == 0 and (image := next(images, None)) is not None:
            found.add(image, None)
        found.add(url, reason)
    return found


def config(rows: Rows) -> DownloadConfig:
    hosts = {url.split("/")[2] for url in rows.expected if "//127.0.0." in url}
    return DownloadConfig(
        image_size=32,
        resize_mode="center_crop",
        encode_format="png",
        encode_quality=1,
        renditions=(16,),
        max_bytes=2_500_000,
        max_pixels=MAX_PIXELS,
        connections=64,
        connections_per_host=64,
        retries=0,
        timeout_s=8.0,
        min_success_rate=0.0,
        allow_hosts=tuple(sorted(hosts)),
    )


def run_worker(folder: Path) -> str:
    """Everything that the process prints."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.pipelines.hostile_worker", str(folder)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_hostile_rows_end_in_their_reasons_and_do_not_touch_the_good_ones(tmp_path: Path) -> None:
    secret, token = tmp_path / "secret.txt", secrets.token_hex(16)
    secret.write_text(token)
    with hostile_rows(secret) as (rows, good, site):
        good.write(tmp_path / "a-good.slice.parquet")
        rows.write(tmp_path / "b-all.slice.parquet")
        (tmp_path / "config.json").write_text(json.dumps(dataclasses.asdict(config(rows))))
        printed = run_worker(tmp_path)
    reasons = read_table(str(tmp_path / "b-all.outcomes.parquet"))["reason"].to_pylist()
    found = dict(zip(rows.expected, reasons, strict=True))
    assert {u: (r, found[u]) for u, r in rows.expected.items() if found[u] != r} == {}

    alone, among = (by_url(tmp_path / f"{name}.parquet") for name in ("a-good", "b-all"))
    assert len(alone) == GOOD
    assert {url: among[url] for url in alone} == alone

    peaks = json.loads((tmp_path / "memory.json").read_text())
    assert peaks["b-all"] - peaks["a-good"] < MAX_MEMORY

    tables = [read_table(str(path)) for path in tmp_path.glob("b-all*.parquet")]
    written = [repr(table.to_pylist()) for table in tables]
    assert [text for text in (*written, printed, *site.asked) if token in text] == []


def test_a_url_that_cannot_be_joined_with_the_base_of_its_list_is_a_bad_url(tmp_path: Path) -> None:
    rows = Rows({"http://[::1": "bad_url", "//[x]/": "bad_url", "/here.jpg": None, "": "http_404"})
    path = tmp_path / "slice.parquet"
    rows.write(path)
    with web(Recorded({"/here.jpg": body(picture(0))})) as address:
        settings = config(Rows({address + "/": None}))
        worker = DownloadWorker(settings, base_url=address)
        schema = pairs({}, settings.renditions)
        _, _, files = work_with_files(worker, DownloadItem(str(path)), schema)
    assert files["outcomes"]["reason"].to_pylist() == list(rows.expected.values())


def by_url(path: Path) -> dict[str, dict[str, Any]]:
    return {row["url"]: row for row in read_table(str(path)).to_pylist()}
