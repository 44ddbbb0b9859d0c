import gzip
import hashlib
import pickle
from pathlib import Path

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.config.load import load_config
from pipelines.core.fingerprint import canonical
from pipelines.data.filter import FilterWorker
from pipelines.data.filter_config import FilterConfig
from pipelines.data.host_names import host_of
from pipelines.data.rules import Deny
from pipelines.data.rules.deny import read_deny_list
from tests.pipelines.rule_rows import row
from unclip.config import ConfigError

HOSTS = """\
# Hosts that asked to be left out.
Example.ORG.      # and its subdomains
bücher.example
192.0.2.7
[2001:DB8::1]

my_pictures.example
☃.example
"""


def written(folder: Path, text: str, name: str = "list.txt") -> str:
    path = folder / name
    content = text.encode()
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return str(path)


@pytest.mark.parametrize(
    ("url", "is_denied"),
    [
        ("http://example.org/a.jpg", True),
        ("https://EXAMPLE.org:8443/a.jpg", True),
        ("http://example.org./a.jpg", True),
        ("http://cdn.img.example.org/a.jpg", True),
        ("http://-old.example.org/a.jpg", True),
        ("http://notexample.org/a.jpg", False),
        ("http://example.org.test/a.jpg", False),
        ("http://other.test/example.org", False),
        ("http://xn--bcher-kva.example/a.jpg", True),
        ("http://BÜCHER.example/a.jpg", True),
        ("http://bu\u0308cher.example/a.jpg", True),
        ("http://www.bücher。example/a.jpg", True),
        ("http://under_score.bücher.example/a.jpg", True),
        ("http://bucher.example/a.jpg", False),
        ("http://192.0.2.7:80/a.jpg", True),
        ("http://192.0.2.70/a.jpg", False),
        ("http://[2001:db8:0:0::1]:80/a.jpg", True),
        ("http://[2001:db8::2]/a.jpg", False),
        ("http://user@my_pictures.example/a.jpg", True),
        ("http://www.☃.example/a.jpg", True),
        ("http://xn--n3h.example/a.jpg", True),
        ("/relative/a.jpg", False),
        ("http://[bad/a.jpg", False),
    ],
)
@pytest.mark.parametrize("name", ["hosts.txt", "hosts.txt.gz"])
def test_a_host_is_denied_with_its_subdomains_in_every_spelling(tmp_path, url, is_denied, name):
    rule = Deny(hosts=written(tmp_path, HOSTS, name))
    assert rule.reason(row(url=url)) == ("denied_host" if is_denied else None)


LABELS = st.lists(st.text("abcäß", min_size=1, max_size=4), min_size=1, max_size=4)


@given(LABELS, LABELS, st.sampled_from(["", ".", ":80", ".:443"]))
@settings(max_examples=200, deadline=None)
def test_a_url_is_denied_exactly_if_its_labels_end_with_those_of_an_entry(
    tmp_path_factory: pytest.TempPathFactory, entry: list[str], labels: list[str], ending: str
) -> None:
    folder = tmp_path_factory.mktemp("deny")
    rule = Deny(hosts=written(folder, ".".join(entry)))
    denied = rule.reason(row(url=f"http://{'.'.join(labels).upper()}{ending}/a")) is not None
    # "ß".upper() is "SS", so the expectation compares what a URL says after that.
    said = ".".join(labels).upper().lower().split(".")
    assert denied == (said[-len(entry) :] == entry)


def test_keys_and_digests_are_denied_in_any_case(tmp_path: Path) -> None:
    body = b"the downloaded bytes"
    digest = hashlib.sha256(body).hexdigest()
    key = "0123456789abcdef0123"
    rule = Deny(
        keys=written(tmp_path, f"{key.upper()}\n", "keys.txt"),
        hashes=written(tmp_path, f"\ufeff{digest.upper()} # asked for by its owner\r\n", "sha.txt"),
    )
    assert rule.reason(row(key=key)) == "denied_key"
    assert rule.reason(row(sha256=digest)) == "denied_hash"
    assert rule.reason(row()) is None


@pytest.mark.parametrize(
    ("setting", "entry"),
    [
        ("hosts", "https://example.org/"),
        ("hosts", "example.org:80"),
        ("hosts", "*.example.org"),
        ("hosts", "example org"),
        ("hosts", "10.0.1"),
        ("hosts", "a..b"),
        ("keys", "0123"),
        ("hashes", "g" * 64),
        ("hashes", "0" * 63),
    ],
)
def test_an_entry_that_is_none_is_refused_with_its_file_and_line(tmp_path, setting, entry) -> None:
    path = written(tmp_path, f"# comment\n\n{entry}\n")
    with pytest.raises(ConfigError, match=f"deny.{setting}: {path}, line 3: .* is not a") as error:
        Deny(**{setting: path}).check()
    assert entry in str(error.value)


def test_a_list_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    truncated = tmp_path / "cut.gz"
    truncated.write_bytes(gzip.compress(b"example.org\n" * 100)[:-10])
    binary = tmp_path / "binary.txt"
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "missing.txt", tmp_path, truncated, binary):
        with pytest.raises(ConfigError, match=r"deny.hosts: the list .* cannot be read"):
            Deny(hosts=str(path)).check()
    with pytest.raises(ConfigError, match="cannot be read"):
        Deny(hosts=str(tmp_path / "missing.txt")).digests()
    with pytest.raises(ConfigError, match="give one of hosts, keys, hashes"):
        Deny()


def test_the_content_of_a_list_is_in_the_key_and_its_path_is_not(tmp_path: Path) -> None:
    first = Deny(hosts=written(tmp_path, "example.org\n", "a.txt"))
    moved = Deny(hosts=written(tmp_path, "example.org\n", "b.txt"))
    changed = Deny(hosts=written(tmp_path, "example.org\nexample.com\n", "c.txt"))
    rules = [FilterConfig(rules={"deny": rule}) for rule in (first, moved, changed)]
    assert len({str(canonical(config, where="filter")) for config in rules}) == 1
    assert first.digests() == moved.digests() != changed.digests()
    assert first.digests().keys() == {"hosts"}


def test_a_list_may_be_on_any_file_system() -> None:
    with fsspec.open("memory://deny/hosts.txt", "wt") as file:
        file.write("example.org\n")
    rule = Deny(hosts="memory://deny/hosts.txt")
    rule.check()
    assert rule.reason(row()) == "denied_host"
    assert len(rule.digests()["hosts"]) == 64


def test_each_process_reads_the_lists_itself(tmp_path: Path) -> None:
    path = written(tmp_path, "\n".join(f"host-{n}.example" for n in range(10_000)))
    worker = FilterWorker(FilterConfig(rules={"deny": Deny(hosts=path)}))
    assert worker.reason(row(url="http://host-7.example/")) == "denied_host"
    pickled = pickle.dumps(worker)
    assert len(pickled) < 1000
    again = pickle.loads(pickled)
    assert again == worker
    assert again.reason(row(url="http://host-9999.example/")) == "denied_host"


def test_a_list_takes_eight_bytes_an_entry(tmp_path: Path) -> None:
    entries = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(1000)]
    found = read_deny_list("hashes", written(tmp_path, "\n".join([*entries, entries[0]])))
    assert found.hashes.itemsize * len(found.hashes) == 8 * 1001
    assert all(entry in found for entry in entries)
    others = [hashlib.sha256(str(-n).encode()).hexdigest() for n in range(1, 1000)]
    assert not any(entry in found for entry in others)


def test_a_list_of_comments_denies_nothing(tmp_path: Path) -> None:
    rule = Deny(hosts=written(tmp_path, "# none yet\n"))
    rule.check()
    assert rule.reason(row()) is None


def test_paths_start_from_the_folder_of_the_configuration(tmp_path: Path) -> None:
    path = written(tmp_path, "example.org\n", "hosts.txt")
    text = (Path(__file__).parents[2] / "pipelines/config/packaged/demo.yaml").read_text()
    line = "    duplicate: {}\n"
    assert line in text
    own = tmp_path / "own.yaml"
    own.write_text(text.replace(line, f"{line}    deny: {{ hosts: hosts.txt }}\n"))
    assert load_config(str(own)).filter.rules["deny"] == Deny(hosts=path)


def test_a_url_without_a_host_has_none() -> None:
    assert host_of("a.jpg") is None
    assert host_of("http:///a.jpg") is None
