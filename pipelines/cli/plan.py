"""`unclip plan`: what a run would do, and why."""

import argparse

from pipelines.cli.common import open_project, plan_of
from pipelines.cli.progress import print_plan


def run(arguments: argparse.Namespace) -> None:
    """Print the plan; starts nothing."""
    print_plan(plan_of(open_project(arguments), arguments))
