"""What the documentation says is what the code does."""

import re
from pathlib import Path

from pipelines.cli.main import cli
from pipelines.config.reference import TARGET, reference

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_reference_of_the_configuration_is_up_to_date() -> None:
    assert TARGET.read_text() == reference(), "run `make docs`"


def test_every_link_of_the_documentation_leads_somewhere() -> None:
    links = [
        (page, target)
        for page in PAGES
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
        if "://" not in target
    ]
    assert links
    missing = [f"{page.name}: {t}" for page, t in links if not (page.parent / t).exists()]
    assert missing == []


def test_every_command_that_the_documentation_names_exists() -> None:
    known = set(cli.commands)
    named = {c for page in PAGES for c in re.findall(r"unclip (\w+)", page.read_text())}
    assert {"run", "plan"} <= named & known
    verbs = {
        c for page in PAGES for c in re.findall(r"^\$ \S*unclip (\w+)", page.read_text(), re.M)
    }
    assert verbs <= known
