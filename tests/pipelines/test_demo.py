import io
import urllib.error
import urllib.request

import pytest
from PIL import Image

from pipelines.core.page_server import PageServerError
from pipelines.demo.dataset import FAILING_ROWS, caption, digest, emoji, rows, url_list
from pipelines.demo.make_data import SCHEMA, code_points
from pipelines.demo.server import serve


def fetch(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return bytes(answer.read())


def test_the_packaged_images_have_the_declared_columns():
    table = emoji()
    assert table.schema.equals(SCHEMA, check_metadata=False)
    assert len(set(table["key"].to_pylist())) == table.num_rows == 1868


def test_every_served_image_is_the_packaged_one_and_decodes():
    table = emoji().slice(0, 3).to_pylist()
    with serve(0) as port:
        for row in table:
            image = fetch(port, f"/emoji/{row['key']}.jpg")
            assert image == row["image"]
            assert Image.open(io.BytesIO(image)).convert("RGB").size == (128, 128)


def test_the_url_list_holds_every_image_the_failing_rows_and_one_duplicate():
    table = url_list(8123)
    pairs = list(zip(table["url"].to_pylist(), table["caption"].to_pylist(), strict=True))
    assert len(pairs) == emoji().num_rows + len(FAILING_ROWS) + 1
    assert len(pairs) - len(set(pairs)) == 1


def test_the_list_without_a_port_has_the_servers_paths_in_place_of_its_addresses():
    relative, absolute = url_list()["url"].to_pylist(), url_list(80)["url"].to_pylist()
    expected = [f"http://127.0.0.1:80{url}" if url[0] == "/" else url for url in relative]
    assert absolute == expected


def test_the_failing_rows_name_existing_images_except_the_one_that_is_missing_on_purpose():
    keys = set(emoji()["key"].to_pylist())
    named = [url for url, _ in FAILING_ROWS if url.startswith("/emoji/")]
    assert [url for url in named if url[7:-4] not in keys] == ["/emoji/no-such-key.jpg"]


def test_pages_that_fail_on_purpose_fail_as_they_say():
    with serve(0) as port:
        with pytest.raises(urllib.error.HTTPError, match="404"):
            fetch(port, "/emoji/no-such-key.jpg")
        assert fetch(port, "/fail/page.jpg").startswith(b"<!doctype html>")
        with pytest.raises(OSError, match="truncated"):
            Image.open(io.BytesIO(fetch(port, "/fail/truncated.jpg"))).load()
        assert Image.open(io.BytesIO(fetch(port, "/fail/tiny.jpg"))).size == (8, 8)
        width, height = Image.open(io.BytesIO(fetch(port, "/fail/wide.jpg"))).size
        assert width == 20 * height


def test_a_port_in_use_is_an_error_that_names_it_and_a_fix():
    with (
        serve(0) as port,
        pytest.raises(PageServerError, match=rf":{port} .*Choose another port"),
        serve(port),
    ):
        pass


def test_a_port_is_free_again_when_the_block_ends():
    with serve(0) as port:
        pass
    with serve(port) as again:
        assert again == port


def test_the_digest_follows_the_captions_and_not_the_port(monkeypatch):
    before = digest()
    for cached in (rows, digest):
        cached.cache_clear()
    monkeypatch.setattr("pipelines.demo.dataset.caption", lambda label, tags: label + "!")
    changed = digest()
    for cached in (rows, digest):
        cached.cache_clear()
    assert changed != before
    assert "port" not in digest.__wrapped__.__code__.co_varnames


def test_a_caption_is_the_label_and_at_most_three_tags_that_add_words():
    tags = ["heart", "love", "<3", "red hot", "ace", "amour", "♥"]
    message = caption("red heart", tags).split(", ")
    assert message[0] == "red heart"
    assert len(message) == 4
    assert set(message[1:]) <= {"love", "<3", "ace", "amour"}
    assert caption("flag: Peru", ["flag", "PE"]) == "flag: Peru, PE"


def test_code_points_have_one_spelling():
    assert code_points("0023-FE0F-20E3") == code_points("23-20e3")
