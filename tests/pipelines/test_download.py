import hashlib
import io
import json
import os
import pickle
import socket
import subprocess
import sys
import tempfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from multidict import CIMultiDict
from PIL import Image

from pipelines.artifacts.schema import pair_key, pairs, url_list
from pipelines.core.errors import WorkLostError
from pipelines.data.decode import decode_bgr, decode_rgb
from pipelines.data.download import DownloadItem, DownloadWorker
from pipelines.data.download_config import DownloadConfig
from pipelines.data.pixels import decode_pixels
from pipelines.data.responses import Fetched
from pipelines.data.sources import SourceConfig
from pipelines.data.url_policy import Refused
from pipelines.demo.dataset import FAILING_ROWS
from pipelines.demo.dataset import url_list as demo_list
from pipelines.demo.server import serve
from pipelines.stages.download import Download
from pipelines.stages.url_list import UrlList
from tests.pipelines.counting import site
from tests.pipelines.local import work_with_files
from tests.pipelines.web import Page, body, raw, web
from unclip.config import ConfigError

CONFIG = DownloadConfig(
    image_size=32,
    resize_mode="border",
    encode_format="jpg",
    encode_quality=95,
    connections=4,
    retries=0,
    timeout_s=2.0,
    max_bytes=200_000,
    min_success_rate=0.5,
    allow_hosts=("127.0.0.1",),
)


def encode(image: Image.Image, format_: str, **options: object) -> bytes:
    encoded = io.BytesIO()
    image.save(encoded, format_, **options)
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


PAGES: dict[str, Page] = {
    "/good.jpg": body(GOOD),
    "/grey.jpg": body(GREY),
    "/clear.png": body(CLEAR),
    "/page.jpg": body(b"<html>not here</html>"),
    "/cut.jpg": body(GOOD[: len(GOOD) // 2]),
    "/big.jpg": body(b"\xff" * 300_000),
    "/banner.png": body(BANNER),
    "/no-ai.jpg": body(GOOD, X_Robots_Tag="noai, noimageai"),
    "/missing.jpg": lambda handler: handler.send_error(404),
    "/broken.jpg": lambda handler: handler.send_error(500),
    "/reset.jpg": answer_reset,
}


PAIRS = pairs({}, ())


def download(
    *rows: tuple[str, str], worker: DownloadWorker | None = None, **extra: Any
) -> tuple[pa.Table, dict[str, Any], pa.Table]:
    """The pairs, the metadata and the outcomes of these rows."""
    listed = [{"url": url, "caption": text, **extra} for url, text in rows]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slice.parquet"
        pq.write_table(pa.Table.from_pylist(listed, schema=url_list({})), path)
        found = work_with_files(worker or DownloadWorker(CONFIG), DownloadItem(str(path)), PAIRS)
    table, metadata, others = found
    return table, metadata, others["outcomes"]


def columns(config: DownloadConfig, content: bytes) -> dict[str, Any]:
    return DownloadWorker(config).encoder.columns(content)


def pixels(image: bytes) -> np.ndarray:
    decoded = Image.open(io.BytesIO(image))
    assert decoded.mode == "RGB"
    return np.asarray(decoded)


def test_a_shard_keeps_the_order_of_its_list_and_counts_every_failure_by_reason():
    with web(PAGES) as site:
        names = [path for path in PAGES if path != "/good.jpg"]
        rows = [(f"{site}/good.jpg", "first")]
        rows += [(site + name, f"row {i}") for i, name in enumerate(names)]
        rows += [("file:///etc/hostname", "x"), ("http://10.0.0.1/x.jpg", "x"), ("", "x")]
        rows += [("http://me:secret@example.org/x.jpg", "x")]
        rows += [rows[0], (f"{site}/good.jpg", "last")]
        table, metadata, outcomes = download(*rows)
    assert table["caption"].to_pylist() == ["first", "row 0", "row 1", "last"]
    assert metadata["rejected"] == {
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
    assert (
        metadata["listed"]
        == len(rows)
        == metadata["downloaded"] + sum(metadata["rejected"].values())
    )
    assert outcomes["key"].to_pylist() == [pair_key(*row) for row in rows]
    assert [row["url"] for row in outcomes.to_pylist() if row["reason"] == "truncated"] == [
        f"{site}/cut.jpg"
    ]
    assert "secret" not in str(outcomes.to_pylist())


def test_images_become_rgb_of_the_configured_size_with_transparency_white():
    with web(PAGES) as site:
        urls = [f"{site}/{name}" for name in ("good.jpg", "grey.jpg", "clear.png")]
        table, _, _ = download(*[(url, "x") for url in urls])
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
    row = columns(replace(CONFIG, resize_mode=resize_mode, encode_format="jpg"), GOOD)
    assert (row["width"], row["height"]) == size == Image.open(io.BytesIO(row["image"])).size


@pytest.mark.parametrize("resize_mode", ["border", "center_crop", "keep_ratio", "no"])
@pytest.mark.parametrize("size", [(60, 40), (9, 30), (33, 33)])
def test_decoded_images_are_resized_as_img2dataset_resizes_files(
    resize_mode: Any, size: tuple[int, int]
) -> None:
    from img2dataset.resizer import Resizer

    theirs = Resizer(32, resize_mode, resize_only_if_bigger=False, encode_quality=95)
    content = encode(noise(*size), "PNG")
    row = columns(replace(CONFIG, resize_mode=resize_mode), content)
    expected, width, height, *_ = theirs(io.BytesIO(content))
    assert (row["image"], row["width"], row["height"]) == (expected, width, height)


def test_png_keeps_the_pixels_where_nothing_is_resized():
    config = replace(CONFIG, resize_mode="no", encode_format="png", encode_quality=3)
    row = columns(config, encode(noise(20, 10), "PNG"))
    assert np.array_equal(pixels(row["image"]), np.asarray(noise(20, 10)))


def test_a_shard_without_one_image_is_an_empty_table_of_the_schema():
    table, metadata, _ = download(("file:///x", "x"), ("", ""))
    assert (table.num_rows, metadata["downloaded"]) == (0, 0)


def test_the_worker_can_be_pickled_and_its_metadata_is_json():
    worker = pickle.loads(pickle.dumps(DownloadWorker(CONFIG)))
    json.dumps(download(("file:///x", "x"), worker=worker)[1])


def test_relative_addresses_are_relative_to_the_base_and_keep_their_keys():
    with web(PAGES) as site:
        worker = DownloadWorker(CONFIG, base_url=site)
        rows = [("/good.jpg", "x"), ("file:///etc/hostname", "x")]
        table, metadata, _ = download(*rows, worker=worker)
    assert table["key"].to_pylist() == [pair_key("/good.jpg", "x")]
    assert metadata["rejected"] == {"scheme": 1}


def test_rows_of_a_server_that_died_with_its_driver_get_no_outcome() -> None:
    with web(PAGES) as site:
        worker = DownloadWorker(CONFIG, base_url=site)
    with pytest.raises(WorkLostError, match="Run again to resume"):
        download(("/good.jpg", "x"), worker=worker)
    _, metadata, _ = download((f"{site}/good.jpg", "x"), worker=worker)
    assert metadata["rejected"] == {"connection": 1}


def test_a_row_that_a_living_server_drops_is_rejected() -> None:
    with web(PAGES | {"/dropped": raw(b"")}) as site:
        worker = DownloadWorker(CONFIG, base_url=site)
        _, metadata, _ = download(("/dropped", "x"), ("/good.jpg", "y"), worker=worker)
    assert metadata["rejected"] == {"connection": 1}
    assert metadata["downloaded"] == 1


def test_the_demo_list_loses_the_rows_that_cannot_be_downloaded_and_no_other():
    with serve(0) as port:
        table = demo_list(port)
        fails = {(u if "//" in u else f"http://127.0.0.1:{port}{u}", t) for u, t in FAILING_ROWS}
        rows = list(zip(table["url"].to_pylist(), table["caption"].to_pylist(), strict=True))
        chosen = [row for row in rows if row in fails or row == rows[0]] + rows[1:10]
        got, metadata, _ = download(*chosen)
    assert metadata["rejected"] == {
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
    image = Image.new("I;16", (8, 8), 0x8000) if mode == "I;16" else noise(8, 8).convert(mode)
    rgb = decode_rgb(encode(image, "TIFF"), max_pixels=100)
    assert (rgb.mode, rgb.size) == ("RGB", (8, 8))
    if mode == "I;16":
        assert np.asarray(rgb).max() == 0x80


def test_an_image_taken_sideways_is_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: rotate by 90 degrees
    assert decode_rgb(encode(noise(30, 20), "JPEG", exif=exif), max_pixels=1000).size == (20, 30)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_plain_jpeg_is_decoded_fast_to_the_pixels_of_pillow(
    mode: str, subsampling: int, progressive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"quality": 80, "subsampling": subsampling, "progressive": progressive}
    content = encode(noise(45, 31).convert(mode), "JPEG", **settings)
    slow = decode_rgb(content, max_pixels=10_000)
    monkeypatch.setattr("pipelines.data.decode._load_rgb", None)  # what Pillow decodes with
    fast = decode_bgr(content, max_pixels=10_000)
    assert np.array_equal(fast[:, :, ::-1], np.asarray(slow))


def test_a_small_file_of_too_many_pixels_is_refused_before_it_is_decoded():
    bomb = encode(Image.new("1", (5000, 5000)), "PNG")
    with pytest.raises(Refused, match="too_many_pixels"):
        decode_rgb(bomb, max_pixels=1_000_000)


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "GIF"])
def test_any_format_cut_in_half_is_refused(format_):
    whole = encode(noise(64, 64), format_)
    with pytest.raises(Refused, match=r"truncated|undecodable|not_an_image"):
        decode_rgb(whole[: len(whole) // 2], max_pixels=10_000)


def test_contradictions_in_the_config_are_refused_with_a_fix():
    with pytest.raises(ConfigError, match="choose 0 to 9"):
        replace(CONFIG, encode_format="png")
    with pytest.raises(ConfigError, match="connections=0"):
        replace(CONFIG, connections=0)
    with pytest.raises(ConfigError, match="must ascend, and be smaller than image_size=32"):
        replace(CONFIG, renditions=(16, 8))
    with pytest.raises(ConfigError, match="min_success_rate=2"):
        replace(CONFIG, min_success_rate=2.0)


def test_renditions_are_what_a_reader_would_make_of_the_stored_image() -> None:
    config = replace(CONFIG, encode_format="png", encode_quality=1, renditions=(8, 16))
    row = columns(config, GOOD)
    for size in (8, 16):
        stored = pixels(row[f"image_{size}"])
        assert np.array_equal(stored, decode_pixels(row["image"], size))


def test_a_file_whose_hash_is_not_the_listed_one_is_refused() -> None:
    with web(PAGES) as site:
        good = download((f"{site}/good.jpg", "x"), hash=hashlib.md5(GOOD).hexdigest())[1]
        other = download((f"{site}/grey.jpg", "x"), hash=hashlib.sha256(GOOD).hexdigest())[1]
    assert (good["downloaded"], other["rejected"]) == (1, {"hash_mismatch": 1})


def test_captions_of_one_image_share_its_download() -> None:
    with site() as server:
        url = server.row(1)[0]
        table, metadata, _ = download((url, "one"), (url, "two"), server.row(2), (url, "three"))
        assert server.taken() == 2
    assert table["caption"].to_pylist() == ["one", "two", "picture number 2", "three"]
    assert len(set(table["sha256"].to_pylist())) == 2
    assert metadata["fetched"] == 2


@pytest.mark.parametrize(
    ("values", "opts_out"),
    [
        ([], False),
        (["noai"], True),
        (["nofollow, NoImageAI"], True),
        (["nofollow"], False),
        (["otherbot: noai"], False),
        (["otherbot: noai", "noindex"], True),
        (["noai, unavailable_after: 25 Jun 2030 15:00:00 PST"], True),
    ],
)
def test_an_owner_opts_out_for_every_robot_by_x_robots_tag(
    values: list[str], opts_out: bool
) -> None:
    headers = CIMultiDict([("X-Robots-Tag", value) for value in values])
    assert Fetched(b"", headers).opts_out is opts_out


LEAVE_NO_LITTER = """
import os, sys
import pyarrow as pa
from tests.pipelines.test_download import CONFIG, GOOD, columns

assert columns(CONFIG, GOOD)["width"] == 32
assert "wandb" not in sys.modules
print(*os.listdir(os.environ["TMPDIR"]))
os._exit(0)  # as a worker that is killed: nothing cleans up
"""


def test_a_killed_worker_leaves_no_folders_in_the_temporary_directory(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-u", "-c", LEAVE_NO_LITTER],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "\n"), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_settings_of_patience_are_not_in_the_key_and_the_place_of_the_list_is_not_either(
    tmp_path: Path,
) -> None:
    def key(urls: str = "a.csv", rows_per_shard: int = 2, **changes: Any) -> str:
        source = SourceConfig(
            urls=str(tmp_path / urls),
            url_column="url",
            caption_column="caption",
            rows_per_shard=rows_per_shard,
        )
        return Download(UrlList(source), replace(CONFIG, **changes), source).key

    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("url,caption\nhttp://x/,x\n")
    first = key()
    patient = {"connections": 9, "retries": 9, "timeout_s": 9.0, "min_success_rate": 0.9}
    assert key(**patient, allow_hosts=(), proxy="http://127.0.0.1:1") == first
    assert key("b.csv") == first
    assert key(rows_per_shard=3) != first
    assert key(max_pixels=1_000) != first
    (tmp_path / "a.csv").write_text("url,caption\nhttp://x/,y\n")
    assert key() != first
