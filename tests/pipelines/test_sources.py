"""Where the list comes from: files, the demo, a class of the user's own."""

import urllib.request
from pathlib import Path

import pytest

from pipelines.config.files import ConfigFileError, find_config
from pipelines.config.load import load_config
from pipelines.core.store import Store
from pipelines.data.list_errors import UrlListError
from pipelines.data.sources import DemoList, FileList, SourceConfig, find_source
from pipelines.demo.dataset import emoji
from pipelines.graph import unclip_graph
from pipelines.stages.download import Download
from pipelines.stages.url_list import UrlList
from tests.pipelines.local import make
from tests.pipelines.test_download import CONFIG, GOOD
from tests.pipelines.web import body, web

OWN_SOURCE = """
from contextlib import contextmanager

from pipelines.core.errors import PipelineError
from pipelines.data.sources import ListSource

ROWS = {"url": ["/good.jpg", "/gone.jpg"], "caption": ["one", "two"]}
SITE = ""


class Table(ListSource):
    def check(self):
        if not SITE:
            raise PipelineError("the site is down")

    def digest(self):
        return str(ROWS)

    def tables(self, file):
        yield ROWS

    @contextmanager
    def served(self):
        yield SITE


class Other:
    pass
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"own_source_{abs(hash(tmp_path))}"  # each test imports a fresh module
    (tmp_path / f"{name}.py").write_text(OWN_SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def config(urls: str) -> SourceConfig:
    return SourceConfig(urls=urls, url_column="url", caption_column="caption", rows_per_shard=1)


def test_a_source_of_the_users_own_is_named_in_the_yaml_and_downloaded(
    tmp_path: Path, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(find_config("demo").read_text().replace("urls: demo", f"urls: {module}:Table"))
    source = load_config(str(own)).source
    stage = Download(UrlList(source), CONFIG, source)
    with web({"/good.jpg": body(GOOD)}) as site:
        monkeypatch.setattr(f"{module}.SITE", site)
        stage.urls.check()
        pairs = make(Store(str(tmp_path / "store")), stage)
    captions = [pairs.read(name)["caption"].to_pylist() for name in pairs.shards]
    assert [caption for each in captions for caption in each] == ["one"]
    assert (pairs.counts["listed"], pairs.counts["downloaded"]) == (2, 1)
    monkeypatch.setattr(f"{module}.ROWS", {"url": ["/a"], "caption": ["three"]})
    assert Download(UrlList(source), CONFIG, source).key != stage.key


def test_the_check_of_a_source_is_that_of_the_stage(module: str, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="the site is down"):
        UrlList(config(f"{module}:Table")).check()
    with pytest.raises(UrlListError, match="There is no URL list"):
        UrlList(config(str(tmp_path / "none.csv"))).check()
    UrlList(config("demo")).check()


def test_a_name_that_is_no_source_is_refused_where_it_is_given(module: str) -> None:
    wrong = f"{module}:Other"
    with pytest.raises(
        ConfigFileError, match=rf"--set source\.urls={wrong}: .*write a subclass of"
    ):
        load_config("demo", [f"source.urls={wrong}"])
    with pytest.raises(ConfigFileError, match=r"source: .*has no 'Tabel'; did you mean Table"):
        load_config("demo", [f"source.urls={module}:Tabel"])


def test_paths_and_urls_are_files() -> None:
    for urls in ("list.csv", "folder/", "s3://bucket/list.parquet", "file:///a/list.csv"):
        assert find_source(config(urls)) == FileList(config(urls))


def test_the_demo_serves_its_images_below_the_address_that_relative_urls_need() -> None:
    source = find_source(config("demo"))
    assert isinstance(source, DemoList)
    with (
        source.served() as base,
        urllib.request.urlopen(base + next(source.all_batches())["url"][0].as_py()) as a,
    ):
        assert a.read() == emoji()["image"][0].as_py()


def test_building_a_graph_reads_no_list(tmp_path: Path) -> None:
    graph = unclip_graph(load_config("demo", [f"source.urls={tmp_path}/none.parquet"]))
    with pytest.raises(UrlListError, match="There is no URL list"):
        graph["download"].key  # noqa: B018 - the key is computed here
