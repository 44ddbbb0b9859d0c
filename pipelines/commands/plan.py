"""`unclip plan`: what a run would do, and why."""

import argparse

from pipelines.commands.common import open_project, scope_of
from pipelines.core.plan import make_plan
from pipelines.view import print_plan


def run(arguments: argparse.Namespace) -> None:
    """Print the plan; starts nothing."""
    project = open_project(arguments)
    print_plan(make_plan(project.graph, project.store, scope_of(arguments)))
