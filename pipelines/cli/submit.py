"""`unclip submit`: the same run, on a cluster."""

import argparse
from pathlib import Path

from pipelines.cli.common import open_project
from pipelines.config.load import find_config
from pipelines.submit.jobs import submit


def run(arguments: argparse.Namespace) -> None:
    """Check the configuration here, then let the cluster run it with the same flags."""
    project = open_project(arguments)
    submit(
        Path(find_config(arguments.config)),
        flags_of(arguments),
        address=arguments.address,
        store=project.config.run.store,
        follow=not arguments.no_wait,
        attempts=arguments.attempts,
    )


def flags_of(arguments: argparse.Namespace) -> list[str]:
    """The flags of `unclip run` that were given."""
    flags = [("--set", value) for value in arguments.overrides]
    flags += [("--force", value) for value in arguments.force]
    singles = {"--store": arguments.store, "--only": arguments.only, "--from": arguments.start}
    flags += [(flag, value) for flag, value in singles.items() if value]
    return [word for pair in flags for word in pair]
