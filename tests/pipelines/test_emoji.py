"""The list of emoji: what is held out, what is served, and what captions say."""

import hashlib
import io
import urllib.request
from collections import defaultdict

from PIL import Image

from pipelines.artifacts.schema import is_held_out, pair_key
from pipelines.data.sources import SourceConfig, find_source
from pipelines.demo import dataset as demo
from pipelines.emoji.captions import STYLES, captions, phrase
from pipelines.emoji.dataset import HELD_OUT_FRACTION, families, rows, serve


def code_points(url: str) -> str:
    return url.rpartition("/")[2].partition(".")[0]


def test_held_out_pairs_have_the_keys_that_they_have_in_the_demo():
    in_demo = {pair_key(url, caption) for url, caption in demo.rows()}
    held_out = [row for row in rows() if row.split == "held_out"]
    assert {pair_key(row.url, row.caption) for row in held_out} <= in_demo
    assert {row.split for row in rows()} == {"train", "held_out"}


def test_no_family_has_a_training_drawing_of_a_held_out_emoji():
    held_out = {code_points(row.url) for row in rows() if row.split == "held_out"}
    assert held_out.isdisjoint(code_points(row.url) for row in rows() if row.split == "train")
    assert any(key in held_out for _, key in families())  # there was something to leave out


def test_the_split_is_that_of_the_images_bytes_as_in_a_list_without_splits():
    images = {f"/emoji/{row['key']}.jpg": row["image"] for row in demo.emoji().to_pylist()}
    of_demo = [row for row in rows() if row.url in images]
    for row in of_demo[::20]:
        sha256 = hashlib.sha256(images[row.url]).hexdigest()
        assert (row.split == "held_out") is is_held_out(None, sha256, HELD_OUT_FRACTION)


def test_every_url_is_served_as_an_image():
    by_family = defaultdict(list)
    for row in rows():
        by_family[row.url.split("/")[1]].append(row.url)
    assert set(by_family) == {"emoji", "fluent_flat", "noto", "twemoji"}
    with serve(0) as port:
        for urls in by_family.values():
            for url in urls[:: len(urls) // 5]:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{url}", timeout=10) as page:
                    size = Image.open(io.BytesIO(page.read())).convert("RGB").size
                assert size == ((128, 128) if url.startswith("/emoji/") else (64, 64))


def test_captions_of_an_image_differ_and_name_every_style_but_that_of_the_first_family():
    for family, style in STYLES.items():
        found = captions("2764", "red heart", ["emotion", "heart", "love", "red"], family)
        assert len(found) == len(set(found)) > 1
        unnamed = [text for text in found if style not in text]
        assert bool(unnamed) is (family == "fluent_3d")
    of_first = captions("2764", "red heart", [], "fluent_3d")
    assert {"a red heart", demo.caption("red heart", [])} <= set(of_first)


def test_phrases_are_what_people_write():
    labels = ["red heart", "eye", "flag: Brazil", "keycap: 4", "grapes", "five o’clock"]
    assert [phrase(label) for label in labels] == [
        "a red heart",
        "an eye",
        "the flag of Brazil",
        "the key 4",
        "grapes",
        "five o’clock",
    ]


def test_the_list_source_has_every_row():
    config = SourceConfig(
        urls="emoji",
        url_column="url",
        caption_column="caption",
        split_column="split",
        held_out_splits=("held_out",),
        rows_per_shard=1024,
    )
    source = find_source(config)
    assert sum(batch.num_rows for batch in source.all_batches()) == len(rows())
