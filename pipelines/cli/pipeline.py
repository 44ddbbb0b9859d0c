"""Commands that make results and look at them: init, plan, run, ls, show, prune, ui."""

from typing import TYPE_CHECKING

import click

from pipelines.cli.command import command, output
from pipelines.cli.options import ProjectChoice, ScopeChoice, project_options, scope_options

if TYPE_CHECKING:
    from pipelines.cli.project import Project


@command("init")
@click.argument("path", default="unclip.yaml", help="File to write; default: unclip.yaml.")
@click.option("--like", default="demo", show_default=True, help="demo, small, paper or karlo.")
def init(path: str, like: str) -> None:
    """Write a configuration to start from.

    Copies a packaged configuration with its comments. Existing files are never overwritten.
    """
    from pipelines.cli.project import copy_config

    copy_config(like, path)
    click.echo(f"Wrote {path}, a copy of {like}. Next: unclip plan {path}")


@command("plan")
@project_options
@scope_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def plan(project: ProjectChoice, scope: ScopeChoice, *, as_json: bool) -> None:
    """Show what a run would do, why, and what its trainings need.

    Starts nothing and writes nothing. Reads the list if it has changed, and counts what is new.
    Fails if a training does not fit the GPUs that run.device names.
    """
    from pipelines.cli.plan import show_plan

    show_plan(_open(project), scope, as_json=as_json)


@command("run")
@project_options
@scope_options
def run(project: ProjectChoice, scope: ScopeChoice) -> None:
    """Run the stages that are not done yet.

    Results stay in the store. A run that was interrupted continues from there.
    """
    from pipelines.cli.run import run_project

    run_project(_open(project), scope, output())


@command("ls")
@project_options
def ls(project: ProjectChoice) -> None:
    """List the results in the store.

    Results of the current configuration are marked with a star.
    """
    from pipelines.cli.listing import print_results

    print_results(_open(project))


@command("show")
@click.argument("stage", help="Such as prior.")
@project_options
def show(stage: str, project: ProjectChoice) -> None:
    """Describe one stage of the configuration.

    Shows its state, its lineage, what its key depends on, and its result.
    """
    from pipelines.cli.listing import print_stage
    from pipelines.cli.sizes import print_training

    opened = _open(project)
    print_stage(opened, stage)
    print_training(opened, stage)


@command("prune")
@project_options
@click.option("--yes", is_flag=True, help="Delete the shards, not only list them.")
def prune(project: ProjectChoice, yes: bool) -> None:
    """List shards that no result needs, and delete them.

    Shards of stages that are running, or younger than a day, stay.
    """
    from pipelines.cli.listing import prune_shards

    prune_shards(_open(project).store, delete=yes)


@command("ui")
@project_options
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    metavar="N",
    default=5000,
    show_default=True,
    help="Local port.",
)
def ui(project: ProjectChoice, port: int) -> None:
    """Browse the runs of a store in MLflow.

    The server listens on this machine only, until Ctrl-C.
    """
    from pipelines.tracking.ui import serve_ui

    opened = _open(project)
    serve_ui(opened.store.root, opened.config.run.tracking, port=port)


COMMANDS = (init, plan, run, ls, show, prune, ui)


def _open(choice: ProjectChoice) -> "Project":
    from pipelines.cli.project import open_project

    return open_project(choice)
