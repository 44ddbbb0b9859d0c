import gzip
import io
import json
import pickle
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.core.tables import check_schema
from pipelines.data.decode import decode_rgb
from pipelines.data.download import DownloadConfig, DownloadWorker
from pipelines.data.url_list import UrlListError, list_digest, read_url_list
from pipelines.data.url_policy import Refused
from pipelines.demo.dataset import FAILING_ROWS, url_list
from pipelines.demo.server import serve
from pipelines.schema import PAIRS, pair_key
from unclip.config import ConfigError

CONFIG = DownloadConfig(
    image_size=32,
    resize_mode="border",
    encode_format="jpg",
    encode_quality=95,
    threads=4,
    retries=0,
    timeout_s=2.0,
    max_bytes=200_000,
    min_success_rate=0.5,
    allow_hosts=("127.0.0.1",),
)


def encode(picture: Image.Image, format_: str, **options: object) -> bytes:
    encoded = io.BytesIO()
    picture.save(encoded, format_, **options)
    return encoded.getvalue()


def noise(width: int, height: int) -> Image.Image:
    generator = np.random.default_rng(0)
    return Image.fromarray(generator.integers(0, 255, (height, width, 3), dtype=np.uint8))


GOOD = encode(noise(60, 40), "JPEG")
GREY = encode(noise(40, 40).convert("L"), "JPEG")
CLEAR = encode(Image.new("RGBA", (40, 40), (255, 0, 0, 0)), "PNG")
BANNER = encode(Image.new("RGB", (400, 4)), "PNG")


def answer_reset(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    handler.connection.close()


def answer(content: bytes, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def page(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(content)

    return page


PAGES: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {
    "/good.jpg": answer(GOOD),
    "/grey.jpg": answer(GREY),
    "/clear.png": answer(CLEAR),
    "/page.jpg": answer(b"<html>not here</html>"),
    "/cut.jpg": answer(GOOD[: len(GOOD) // 2]),
    "/big.jpg": answer(b"\xff" * 300_000),
    "/banner.png": answer(BANNER),
    "/no-ai.jpg": answer(GOOD, X_Robots_Tag="noai, noimageai"),
    "/missing.jpg": lambda handler: handler.send_error(404),
    "/broken.jpg": lambda handler: handler.send_error(500),
    "/reset.jpg": answer_reset,
}


@contextmanager
def web() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with suppress(ConnectionError, ValueError):
                PAGES[self.path](self)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def pairs(*rows: tuple[str | None, str | None]) -> pa.Table:
    return pa.table({"url": [url for url, _ in rows], "caption": [text for _, text in rows]})


def pixels(image: bytes) -> np.ndarray:
    picture = Image.open(io.BytesIO(image))
    assert picture.mode == "RGB"
    return np.asarray(picture)


def test_a_shard_keeps_the_order_of_its_list_and_counts_every_failure_by_reason():
    with web() as site:
        names = [path for path in PAGES if path != "/good.jpg"]
        rows = [(f"{site}/good.jpg", "first")]
        rows += [(site + name, f"row {i}") for i, name in enumerate(names)]
        rows += [("file:///etc/hostname", "x"), ("http://10.0.0.1/x.jpg", "x"), ("", "x")]
        rows += [("http://me:secret@example.org/x.jpg", "x")]
        rows += [rows[0], (f"{site}/good.jpg", "last")]
        table, facts = DownloadWorker(CONFIG)(pairs(*rows))
    check_schema(table, PAIRS, where="the test")
    assert table["caption"].to_pylist() == ["first", "row 0", "row 1", "last"]
    assert facts["rejected"] == {
        "aspect_ratio": 1,
        "connection": 1,
        "credentials": 1,
        "duplicate_row": 1,
        "http_404": 1,
        "http_500": 1,
        "not_an_image": 1,
        "private_address": 1,
        "robots_tag": 1,
        "scheme": 2,
        "too_large": 1,
        "truncated": 1,
    }
    assert facts["listed"] == len(rows) == facts["downloaded"] + sum(facts["rejected"].values())
    assert facts["examples"]["truncated"] == [f"{site}/cut.jpg"]
    assert "secret" not in json.dumps(facts)


def test_pictures_become_rgb_of_the_asked_size_with_transparency_white():
    with web() as site:
        urls = [f"{site}/{name}" for name in ("good.jpg", "grey.jpg", "clear.png")]
        table, _ = DownloadWorker(CONFIG)(pairs(*[(url, "x") for url in urls]))
    rows = table.to_pylist()
    assert [pixels(row["image"]).shape for row in rows] == [(32, 32, 3)] * 3
    assert [(r["original_width"], r["original_height"]) for r in rows] == [
        (60, 40),
        *[(40, 40)] * 2,
    ]
    assert pixels(rows[0]["image"])[0].min() > 240  # the border
    assert pixels(rows[2]["image"]).min() == 255
    assert rows[0]["key"] == pair_key(urls[0], "x")


@pytest.mark.parametrize(
    ("resize_mode", "size"),
    [("border", (32, 32)), ("center_crop", (32, 32)), ("keep_ratio", (48, 32)), ("no", (60, 40))],
)
def test_resize_modes_give_the_sizes_that_their_names_promise(resize_mode, size):
    worker = DownloadWorker(replace(CONFIG, resize_mode=resize_mode, encode_format="jpg"))
    row = worker.make_row("http://x/", "", GOOD)
    assert (row["width"], row["height"]) == size == Image.open(io.BytesIO(row["image"])).size


def test_png_keeps_the_pixels_where_nothing_is_resized():
    config = replace(CONFIG, resize_mode="no", encode_format="png", encode_quality=3)
    row = DownloadWorker(config).make_row("http://x/", "", encode(noise(20, 10), "PNG"))
    assert np.array_equal(pixels(row["image"]), np.asarray(noise(20, 10)))


def test_a_shard_without_one_picture_is_an_empty_table_of_the_schema():
    table, facts = DownloadWorker(CONFIG)(pairs(("file:///x", "x"), (None, None)))
    check_schema(table, PAIRS, where="the test")
    assert (table.num_rows, facts["downloaded"]) == (0, 0)


def test_the_worker_travels_to_another_process_and_its_facts_are_json():
    worker = pickle.loads(pickle.dumps(DownloadWorker(CONFIG)))
    json.dumps(worker(pairs(("file:///x", "x")))[1])


def test_relative_addresses_are_relative_to_the_base_and_keep_their_keys():
    with web() as site:
        worker = DownloadWorker(CONFIG, base_url=site)
        table, facts = worker(pairs(("/good.jpg", "x"), ("file:///etc/hostname", "x")))
    assert table["key"].to_pylist() == [pair_key("/good.jpg", "x")]
    assert facts["rejected"] == {"scheme": 1}


def test_the_demo_list_loses_what_cannot_be_downloaded_and_nothing_else():
    with serve(0) as port:
        table = url_list(port)
        fails = {(u if "//" in u else f"http://127.0.0.1:{port}{u}", t) for u, t in FAILING_ROWS}
        rows = list(zip(table["url"].to_pylist(), table["caption"].to_pylist(), strict=True))
        chosen = [row for row in rows if row in fails or row == rows[0]] + rows[1:10]
        got, facts = DownloadWorker(CONFIG)(pairs(*chosen))
    assert facts["rejected"] == {
        "duplicate_row": 1,
        "http_404": 1,
        "not_an_image": 1,
        "private_address": 1,
        "scheme": 2,
        "truncated": 1,
    }
    assert got.num_rows == len(chosen) - 7


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_mode_decodes_to_rgb(mode):
    picture = Image.new("I;16", (8, 8), 0x8000) if mode == "I;16" else noise(8, 8).convert(mode)
    rgb = decode_rgb(encode(picture, "TIFF"), max_pixels=100)
    assert (rgb.mode, rgb.size) == ("RGB", (8, 8))
    if mode == "I;16":
        assert np.asarray(rgb).max() == 0x80


def test_a_picture_taken_sideways_is_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: rotate by 90 degrees
    assert decode_rgb(encode(noise(30, 20), "JPEG", exif=exif), max_pixels=1000).size == (20, 30)


def test_a_small_file_of_too_many_pixels_is_refused_before_it_is_decoded():
    bomb = encode(Image.new("1", (5000, 5000)), "PNG")
    with pytest.raises(Refused, match="too_many_pixels"):
        decode_rgb(bomb, max_pixels=1_000_000)


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "GIF"])
def test_any_format_cut_in_half_is_refused(format_):
    whole = encode(noise(64, 64), format_)
    with pytest.raises(Refused, match=r"truncated|undecodable|not_an_image"):
        decode_rgb(whole[: len(whole) // 2], max_pixels=10_000)


def test_contradictions_in_the_config_are_refused_with_the_way_out():
    with pytest.raises(ConfigError, match="choose 0 to 9"):
        replace(CONFIG, encode_format="png")
    with pytest.raises(ConfigError, match="threads=0"):
        replace(CONFIG, threads=0)
    with pytest.raises(ConfigError, match="min_success_rate=2"):
        replace(CONFIG, min_success_rate=2.0)


ROWS = {"link": ["http://a/1", "http://a/2"], "text": ["7", 'a "b", c'], "n": [1, 2]}


def write_list(path: Path) -> None:
    table = pa.table(ROWS)
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix in {".csv", ".gz"}:
        text = io.BytesIO()
        pa.csv.write_csv(table, text)
        path.write_bytes(
            gzip.compress(text.getvalue()) if path.suffix == ".gz" else text.getvalue()
        )
    elif path.suffix == ".tsv":
        pa.csv.write_csv(table, path, pa.csv.WriteOptions(delimiter="\t"))
    else:
        path.write_text("\n".join(json.dumps(row) for row in table.to_pylist()))


@pytest.mark.parametrize("name", ["x.parquet", "x.csv", "x.csv.gz", "x.tsv", "x.jsonl", "x.json"])
def test_every_format_gives_the_same_list(tmp_path, name):
    write_list(tmp_path / name)
    table = read_url_list(str(tmp_path / name), "link", "text")
    assert table.to_pydict() == {"url": ROWS["link"], "caption": ROWS["text"]}
    assert table.schema.types == [pa.string(), pa.string()]


def test_a_folder_is_the_lists_in_it_by_name(tmp_path):
    write_list(tmp_path / "b.csv")
    write_list(tmp_path / "a.parquet")
    (tmp_path / "_SUCCESS").touch()
    assert read_url_list(str(tmp_path), "link", "text")["url"].to_pylist() == ROWS["link"] * 2


def test_a_list_is_read_from_any_file_system_with_its_options():
    fs = pytest.importorskip("fsspec").filesystem("memory")
    with fs.open("/lists/x.parquet", "wb") as out:
        pq.write_table(pa.table(ROWS), out)
    table = read_url_list("memory://lists/x.parquet", "link", "text", {"use_listings_cache": False})
    assert table.num_rows == 2


def test_missing_text_reads_as_empty(tmp_path):
    pq.write_table(pa.table({"url": ["a", None], "caption": [None, "b"]}), tmp_path / "x.parquet")
    table = read_url_list(str(tmp_path / "x.parquet"))
    assert table.to_pydict() == {"url": ["a", ""], "caption": ["", "b"]}


def test_lists_that_cannot_be_used_are_errors_that_say_what_there_is(tmp_path):
    write_list(tmp_path / "x.parquet")
    write_list(tmp_path / "x.jsonl")
    (tmp_path / "broken.parquet").write_bytes(b"not parquet")
    (tmp_path / "x.xlsx").touch()
    pq.write_table(pa.table({"url": [["a"]], "caption": ["b"]}), tmp_path / "nested.parquet")
    pq.write_table(pa.table({"url": ["a"], "caption": ["b"]}).slice(0, 0), tmp_path / "e.parquet")
    for name, message in [
        ("none.parquet", "There is no URL list"),
        ("x.parquet", "no column 'url', 'caption'; it has 'link', 'text', 'n'"),
        ("x.jsonl", "no column 'url', 'caption'; it has 'link', 'text', 'n'"),
        ("broken.parquet", "not readable as parquet"),
        ("x.xlsx", "suffix '.xlsx'"),
        ("nested.parquet", "not text"),
        ("e.parquet", "no rows"),
    ]:
        with pytest.raises(UrlListError, match=message):
            read_url_list(str(tmp_path / name))


def test_the_digest_of_a_list_follows_its_bytes_and_not_its_place(tmp_path):
    for name in ("a.csv", "b.csv"):
        write_list(tmp_path / name)
    first = list_digest(str(tmp_path / "a.csv"))
    assert first == list_digest(str(tmp_path / "b.csv"))
    with (tmp_path / "b.csv").open("a") as out:
        out.write("http://a/3,x,3\n")
    assert first != list_digest(str(tmp_path / "b.csv"))
