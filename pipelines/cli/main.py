"""The command `unclip`: its entry point, its exit codes, and how errors are printed."""

import contextlib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import click

from pipelines.cli import checkpoints, cluster, data, images, pipeline
from pipelines.cli.command import Output, Sections
from pipelines.core.errors import EXIT_ERROR, AbortedError, PipelineError
from unclip.config import UnclipError

EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143

HELP = """\
unCLIP (DALL-E 2), from a list of image URLs to evaluated text-to-image models.

\b
  unclip run demo                    run the whole pipeline on the packaged data
  unclip plan my.yaml                show what a run would do, and why
  unclip run my.yaml --from prior    train the prior again, and all that depends on it
  unclip generate "a red heart"      draw images with the packaged models
  unclip generate "a red heart" demo    the same, with the models of a project
  unclip edit a.png --to "a heart"   change an image
  unclip import PATH --to DIR        read a public checkpoint; then: generate --models DIR
  unclip submit my.yaml --address http://head:8265
"""

EPILOG = """\
\b
Exit codes:
  0    success
  1    a bug, shown with its traceback
  2    an error that you can fix: a setting, an input, the store, a stage that failed
  75   workers or the cluster were lost; the same command continues the work
  130  interrupted (Ctrl-C); 143 terminated (SIGTERM)
"""

cli = Sections(
    "unclip",
    help=HELP,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    sections={
        "Pipeline": pipeline.COMMANDS,
        "Data": data.COMMANDS,
        "Images": images.COMMANDS,
        "Checkpoints": checkpoints.COMMANDS,
        "Cluster": cluster.COMMANDS,
    },
)
click.version_option(package_name="unclip", message="%(prog)s %(version)s")(cli)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    output = Output()
    logging.basicConfig(format="%(message)s")  # else open_clip chooses a format for warnings
    signal.signal(signal.SIGTERM, _terminate)
    try:
        words = list(sys.argv[1:] if argv is None else argv)
        with cli.make_context("unclip", words, obj=output) as context:
            cli.invoke(context)
    except click.exceptions.Exit as done:  # of --help
        return done.exit_code
    except click.ClickException as error:
        return _print_usage_error(error)
    except KeyboardInterrupt:
        print("\nInterrupted. Finished work is kept; run again to continue.", file=sys.stderr)
        _leave(EXIT_INTERRUPTED)
    except BrokenPipeError:  # the reader of the output closed it, as `head` does
        _leave(0)
    except SystemExit as terminated:
        if terminated.code == EXIT_TERMINATED:
            _leave(EXIT_TERMINATED)
        raise
    except (PipelineError, UnclipError) as error:
        if output.debug:
            traceback.print_exc()
        _print_error(str(error))
        code = error.exit_code if isinstance(error, PipelineError) else EXIT_ERROR
        if isinstance(error, AbortedError):
            _leave(code)
        return code
    return 0


def _print_usage_error(error: click.ClickException) -> int:
    """Print the error as one paragraph, or the help if no command was given."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        print(error.format_message())
        return EXIT_ERROR
    path = context.command_path if context else "unclip"
    message = error.format_message().rstrip(".")
    end = "" if message.endswith(("?", ")")) else "."
    _print_error(f"{message}{end} See `{path} --help`.")
    return EXIT_ERROR


def _print_error(message: str) -> None:
    """Print the message; its lines after the first are indented."""
    first, *rest = message.splitlines() or [""]
    lines = [f"unclip: {first}", *(f"  {line.strip()}" if line.strip() else "" for line in rest)]
    print("\n".join(lines), file=sys.stderr)


def _terminate(*_: object) -> NoReturn:
    raise SystemExit(EXIT_TERMINATED)


def _leave(code: int) -> NoReturn:
    """Exit at once: threads of interrupted stages may wait for workers that are gone."""
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
