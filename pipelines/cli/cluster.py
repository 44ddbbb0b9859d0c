"""Commands for a run on a cluster: submit, status, logs, stop."""

import click

from pipelines.cli.command import command
from pipelines.cli.options import (
    ProjectChoice,
    ScopeChoice,
    address_option,
    project_options,
    scope_options,
)

job_argument = click.argument("job", help="Id, as `unclip submit` printed it.")


@command("submit")
@project_options
@scope_options
@address_option
@click.option("--no-wait", is_flag=True, help="Return as soon as the job is submitted.")
@click.option(
    "--attempts",
    type=click.IntRange(1),
    metavar="N",
    default=3,
    show_default=True,
    help="Submissions in total, if the driver or its cluster is lost.",
)
def submit(
    project: ProjectChoice, scope: ScopeChoice, address: str, no_wait: bool, attempts: int
) -> None:
    """Run on a Ray cluster, and follow the output.

    The configuration is checked on this machine first. Ctrl-C leaves the job running.
    """
    from pipelines.cli.project import open_project
    from pipelines.config.files import find_config
    from pipelines.submit import jobs

    jobs.submit(
        find_config(project.config),
        run_flags(project, scope),
        address=address,
        store=open_project(project).config.run.store,
        follow=not no_wait,
        attempts=attempts,
    )


@command("status")
@job_argument
@address_option
def status(job: str, address: str) -> None:
    """Print the state of a submitted run."""
    from pipelines.submit import jobs

    click.echo(jobs.status(job, address=address))


@command("logs")
@job_argument
@address_option
@click.option("-f", "--follow", is_flag=True, help="Follow the output until the job ends.")
def logs(job: str, address: str, follow: bool) -> None:
    """Print the output of a submitted run."""
    from pipelines.submit import jobs

    jobs.logs(job, address=address, follow=follow)


@command("stop")
@job_argument
@address_option
def stop(job: str, address: str) -> None:
    """Stop a submitted run; finished results stay in the store."""
    from pipelines.submit import jobs

    click.echo(jobs.stop(job, address=address))


COMMANDS = (submit, status, logs, stop)


def run_flags(project: ProjectChoice, scope: ScopeChoice) -> list[str]:
    """The flags of `unclip run` for the same run, without CONFIG."""
    return [*project.flags, *scope.flags]
