"""Commands about the rows of the list: rows, retry."""

from typing import TYPE_CHECKING

import click

from pipelines.cli.command import command, output
from pipelines.cli.options import ProjectChoice, project_options

if TYPE_CHECKING:
    from pipelines.cli.project import Project

REASONS = click.option(
    "--reason", "reasons", multiple=True, metavar="CODE", help="Such as http_404. Repeatable."
)
URLS = click.option("--url", "urls", multiple=True, help="As in the list. Repeatable.")
KEYS = click.option("--key", "keys", multiple=True, help="Of a pair. Repeatable.")


@command("rows")
@project_options
@REASONS
@URLS
@KEYS
@click.option(
    "--stage",
    "stages",
    multiple=True,
    metavar="STAGE",
    help="That rejected the row: download, filter, select. Repeatable.",
)
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="To print.")
@click.option("--out", metavar="FILE", help="Write all of them: .csv, .jsonl or .parquet.")
def rows(
    project: ProjectChoice,
    reasons: tuple[str, ...],
    urls: tuple[str, ...],
    keys: tuple[str, ...],
    stages: tuple[str, ...],
    limit: int,
    out: str | None,
) -> None:
    """Look up what became of rows of the list.

    Prints the number of rows by stage and reason, and the first of them. An unfinished download
    can be looked at too.
    """
    from pipelines.cli.rows import show_rows
    from pipelines.data.fates import Wanted

    wanted = Wanted(reasons=reasons, stages=stages, urls=urls, keys=keys)
    show_rows(_open(project), wanted, limit=limit, out=out)


@command("retry")
@project_options
@REASONS
@URLS
@KEYS
def retry(
    project: ProjectChoice, reasons: tuple[str, ...], urls: tuple[str, ...], keys: tuple[str, ...]
) -> None:
    """Fetch rejected rows again.

    Fetches the rows with one of these reasons, URLs or keys, and nothing else. Then `unclip run`
    brings the later stages up to date.
    """
    from pipelines.cli.rows import retry_rows
    from pipelines.data.earlier import Retry

    retry_rows(_open(project), Retry(reasons=reasons, urls=urls, keys=keys), output())


COMMANDS = (rows, retry)


def _open(choice: ProjectChoice) -> "Project":
    from pipelines.cli.project import open_project

    return open_project(choice)
