"""Click commands with the project's conventions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import click

from pipelines.core.logs import show_logs


@dataclass
class Output:
    """What to print besides the results."""

    verbose: bool = False  # log messages of our packages
    debug: bool = False  # tracebacks of errors


def output() -> Output:
    """The choice of the running command."""
    return click.get_current_context().ensure_object(Output)


class Command(click.Command):
    """A command that takes --verbose and --debug, as its group does."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.params += output_options()


class Sections(click.Group):
    """A group whose help lists the commands by section."""

    def __init__(self, *args: Any, sections: Mapping[str, Sequence[click.Command]], **rest: Any):
        super().__init__(*args, **rest)
        self.sections = sections
        self.params += output_options()
        for section in sections.values():
            for each in section:
                self.add_command(each)

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002
        formatter: click.HelpFormatter,
    ) -> None:
        """Write a list of commands for each section."""
        width = max(len(name) for name in self.commands)
        for title, commands in self.sections.items():
            rows = [
                (f"{each.name:<{width}}", each.get_short_help_str(formatter.width - width - 6))
                for each in commands
            ]
            with formatter.section(title):
                formatter.write_dl(rows)


def output_options() -> list[click.Parameter]:
    """--verbose and --debug."""
    add = partial(click.Option, is_flag=True, expose_value=False)
    return [
        add(["-v", "--verbose"], callback=_set_verbose, help="Show log messages."),
        add(["--debug"], callback=_set_debug, help="Show tracebacks of errors."),
    ]


def _set_verbose(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        context.ensure_object(Output).verbose = True
        show_logs()


def _set_debug(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        context.ensure_object(Output).debug = True


command = partial(click.command, cls=Command)
