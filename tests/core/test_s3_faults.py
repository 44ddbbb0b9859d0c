"""S3 that throttles, fails, resets connections and stalls: a real server behind a proxy."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest

from pipelines.core.filesystem import StoreError, StoreWriteError
from pipelines.core.folder import Folder
from pipelines.core.shard_records import find
from pipelines.core.shard_writer import ShardWriter
from pipelines.core.stage import load_artifact
from pipelines.core.store import Store
from tests.core.processes import ROOT, is_one_paragraph, start, until
from tests.core.s3_proxy import S3Proxy, proxied
from tests.core.test_runner import graph
from tests.core.toys import traces
from tests.pipelines.local import make

IMAGES = pa.schema([pa.field("image", pa.large_binary(), nullable=False)])
NUMBERS = pa.schema([pa.field("value", pa.int64(), nullable=False)])
# As a user would write it into fsspec's configuration: less patient than ours.
IMPATIENT = {"config_kwargs": {"retries": {"total_max_attempts": 2}, "read_timeout": 2}}


@pytest.fixture
def proxy(s3: str) -> Iterator[S3Proxy]:
    with proxied() as proxy:
        yield proxy


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fsspec.config.conf, "s3", IMPATIENT)
    monkeypatch.setenv("FSSPEC_S3", json.dumps(IMPATIENT))


@pytest.fixture
def root(s3: str, tmp_path: Path) -> str:
    return f"{s3}/{tmp_path.name}"


def write_images(folder: Folder, count: int, size: int = 1000) -> None:
    image = os.urandom(size)
    with ShardWriter(folder, "a", IMAGES) as out:
        for _ in range(count):
            out.write(pa.table({"image": [image]}, schema=IMAGES))
        out.attach("outcomes", pa.table({"value": list(range(count))}, schema=NUMBERS))
        out.finish({"downloaded": count})


def contents(folder: Folder) -> dict[str, bytes]:
    found = {}
    for name in folder.files():
        with folder.open(name) as source:
            found[name] = source.read()
    return found


@pytest.mark.parametrize(("count", "size"), [(3, 1000), (20, 1 << 20)])
def test_a_shard_of_any_size_takes_one_request_for_each_of_its_files(
    proxy: S3Proxy, root: str, count: int, size: int
) -> None:
    folder = Folder(root)
    assert folder.files() == {}
    proxy.taken()
    write_images(folder, count, size)
    assert proxy.taken() == {"PUT": 2}
    sizes = folder.files()
    assert set(sizes) == {"a.parquet", "a.outcomes.parquet"}
    assert sizes["a.parquet"] > count * size
    assert folder.read_table("a.parquet").num_rows == count


UPLOAD = """
import resource, sys
from pathlib import Path
from pipelines.core.folder import Folder
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
folder = Folder(sys.argv[1])
folder.write_bytes("small", b"1")
before = peak()
folder.publish(Path(sys.argv[2]), "large")
print(peak() - before)
"""


def test_an_upload_is_streamed_from_the_disk(proxy: S3Proxy, root: str, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(os.urandom(1 << 20) * 64)
    words = [sys.executable, "-c", UPLOAD, root, str(tmp_path / "large")]
    done = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    assert int(done.stdout) < 20  # MiB, for a file of 64
    assert Folder(root).files()["large"] == 64 << 20


def test_many_shards_are_found_with_one_listing_and_a_request_for_each_without_record(
    proxy: S3Proxy, root: str
) -> None:
    folder = Folder(root)
    write_images(folder, 1)
    content = contents(folder)
    for number in range(100):
        folder.write_bytes(f"{number:03d}.parquet", content["a.parquet"])
        folder.write_bytes(f"{number:03d}.outcomes.parquet", content["a.outcomes.parquet"])
    names = {f"{number:03d}": f"{number:03d}" for number in range(100)}
    proxy.taken()
    sizes = folder.files()
    assert proxy.taken() == {"GET": 1}
    # The copies are not their originals, whose outcomes have another name.
    assert find(folder, sizes, names, {}) != {}
    assert proxy.taken() == {"GET": 100}


def test_an_upload_that_fails_at_first_is_complete_in_the_end(proxy: S3Proxy, root: str) -> None:
    folder = Folder(root)
    assert folder.files() == {}
    proxy.seed, proxy.errors, proxy.throttled, proxy.resets = 1, 0.2, 0.2, 0.1
    for number in range(10):
        write_images(Folder(f"{root}/{number}"), count=20, size=1 << 14)
    failed = dict(proxy.failed)
    proxy.errors = proxy.throttled = proxy.resets = 0
    assert set(failed) == {"errors", "throttled", "resets"}
    for number in range(10):
        table = Folder(f"{root}/{number}").read_table("a.parquet")
        assert [len(image) for image in table["image"].to_pylist()] == [1 << 14] * 20


@pytest.mark.usefixtures("impatient")
def test_a_request_that_stalls_is_sent_again(proxy: S3Proxy, root: str) -> None:
    folder = Folder(root)
    write_images(folder, 3)
    proxy.taken()
    proxy.stall_s = 8
    assert folder.read_table("a.parquet").num_rows == 3
    proxy.stall_s = 8
    folder.write_bytes("b", b"12")
    assert proxy.taken()["PUT"] == 2
    assert folder.files()["b"] == 2


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "fault", ["errors", "throttled", pytest.param("resets", marks=pytest.mark.slow)]
)
def test_a_server_that_fails_for_good_is_one_paragraph(
    proxy: S3Proxy, root: str, fault: str
) -> None:
    folder = Folder(root)
    folder.write_bytes("before", b"1")
    setattr(proxy, fault, 1.0)
    with pytest.raises(StoreWriteError, match=r"a\.outcomes\.parquet cannot be written: .*--store"):
        write_images(folder, 3)
    with pytest.raises(StoreError, match="cannot be read: ") as error:
        find(folder, {"a.parquet": 10}, {"a": "a"}, {})
    assert is_one_paragraph(f"unclip: {error.value}")
    setattr(proxy, fault, 0.0)
    complete = {"before"} if fault != "resets" else {"before", "a.outcomes.parquet"}
    assert set(folder.files()) == complete  # a request whose answer was lost was carried out


@pytest.mark.slow
@pytest.mark.ray
def test_a_run_on_a_bad_server_makes_the_same_files(
    proxy: S3Proxy, root: str, tmp_path: Path, trace: Path
) -> None:
    proxy.errors, proxy.throttled, proxy.resets = 0.1, 0.05, 0.02
    driver = start(root, "sum")
    undisturbed = Store(str(tmp_path / "undisturbed"))
    make(undisturbed, graph()["sum"])
    _, err = driver.communicate(timeout=200)
    proxy.errors = proxy.throttled = proxy.resets = 0
    assert driver.returncode == 0, err
    assert proxy.failed.total() > 5
    for stage in ("count", "add"):
        made = contents(Folder(f"{root}/{stage}/shards"))
        assert made == contents(Folder(f"{undisturbed.root}/{stage}/shards"))
    assert load_artifact(Store(root), graph()["sum"]).metadata() == {"total": sum(range(12)) + 12}


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("impatient")
def test_a_run_whose_server_fails_for_good_resumes(
    proxy: S3Proxy, root: str, trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_COUNT", "pause_s=3")
    shards = Folder(f"{root}/count/shards")
    driver = start(root, "sum")
    until(lambda: shards.files())
    proxy.errors = 1.0
    _, err = driver.communicate(timeout=200)
    proxy.errors = 0.0
    assert driver.returncode == 2
    assert is_one_paragraph(err), err
    assert "cannot be written" in err
    done = set(shards.files())
    assert 0 < len(done) < 4
    made = traces(trace, "count")
    monkeypatch.setenv("TOY_COUNT", "")
    again = start(root, "sum")
    _, err = again.communicate(timeout=200)
    assert again.returncode == 0, err
    assert sum(traces(trace, "count").values()) == sum(made.values()) + 4 - len(done)
