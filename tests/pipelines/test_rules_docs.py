"""The examples of docs/how-to/filters.md work."""

import re
from pathlib import Path

import pytest
import yaml
from PIL import Image

from pipelines.data.filter import FilterWorker
from pipelines.data.rules import RULES, Deny
from tests.pipelines.rule_rows import encoded, read, row

PAGE = (Path(__file__).parents[2] / "docs/how-to/filters.md").read_text()


def blocks(language: str) -> list[str]:
    found = re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)
    assert found
    return found


@pytest.fixture
def own_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for code in blocks("python"):
        name = code.splitlines()[0].removeprefix("# ")
        (tmp_path / name).write_text(code)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("own_modules")
def test_every_example_is_a_valid_section_with_columns_that_the_list_carries() -> None:
    for text in blocks("yaml"):
        sections = yaml.safe_load(text)
        config = read(sections["filter"]["rules"])
        config.check_columns(sections.get("source", {}).get("columns", {}))


@pytest.mark.usefixtures("own_modules")
def test_the_examples_of_own_rules_reject_what_they_say() -> None:
    price = FilterWorker(read({"my_rules:no_price": {}}))
    assert [price.reason(row(caption=c)) for c in ("$5", "a cat")] == ["price", None]
    bright = FilterWorker(read({"my_images:too_bright": {}}))
    images = [encoded(Image.new("RGB", (8, 8), colour)) for colour in ("white", "grey")]
    assert bright.config.needs_image
    assert [bright.reason(row(image=image)) for image in images] == ["too_bright", None]
    total = FilterWorker(read({"my_scores:TotalScore": {"min_total": 8.0}}))
    scores = [{"similarity": 0.3, "aesthetic": 5.5}, {"similarity": 0.2, "aesthetic": None}]
    assert [total.reason(row(**each)) for each in scores] == [None, "total_low"]


def test_the_example_of_a_deny_list_is_read(tmp_path: Path) -> None:
    (text,) = blocks("text")
    path = tmp_path / "hosts.txt"
    path.write_text(text)
    rule = Deny(hosts=str(path))
    for host in ("example.org", "www.example.org", "xn--bcher-kva.example", "192.0.2.7"):
        assert rule.reason(row(url=f"http://{host}/a.jpg")) == "denied_host"


def test_the_page_lists_every_rule_and_the_reasons_of_its_docstring() -> None:
    table = PAGE.partition("## The rules")[2].partition("\n\nRules with")[0]
    lines = {line.split("`")[1]: line for line in table.splitlines() if line.startswith("| `")}
    assert lines.keys() == RULES.keys()
    for name, rule in RULES.items():
        assert ("*" in lines[name].split("|")[1]) == rule.needs_image
        said = re.findall(r"\w+_\w+|\b(?:language|duplicate|blank|unsafe)\b", rule.reason.__doc__)
        assert [word for word in said if word not in lines[name]] == [], name
