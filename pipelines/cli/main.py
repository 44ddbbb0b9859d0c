"""The command `unclip`. Only arguments are read here; a command imports its work when called."""

import argparse
import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

EXIT_ERROR = 2  # something that the user can mend
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143

DEFAULT_CONFIG = "demo"

DESCRIPTION = """\
unCLIP (DALL-E 2) from a list of image URLs to evaluated text-to-image models.

  unclip run demo                  the whole pipeline on the packaged data, on this machine
  unclip plan my.yaml              what a run would do, and why, before anything starts
  unclip run my.yaml --from prior  the prior and all that depends on it, again
  unclip generate "a red heart"    pictures from the trained models
  unclip edit a.png --to "a heart" a picture, changed by the trained models
  unclip import PATH --to DIR      a public unCLIP checkpoint; then: generate --models DIR
  unclip submit my.yaml --address http://head:8265

CONFIG is the path of a YAML file, or the name of a packaged one: demo, small, paper,
karlo.
"""

POSITIONALS = {
    "image": "a picture file, or a pair's key in the store",
    "other": "another one",
    "mask": "of the same size, white where to paint and black elsewhere",
    "caption": 'such as "a red heart"',
}


def parser() -> argparse.ArgumentParser:
    """All commands with their flags."""
    root = argparse.ArgumentParser(
        prog="unclip",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root.add_argument("--debug", action="store_true", help="show tracebacks of errors")
    commands = root.add_subparsers(title="commands", metavar="COMMAND", required=True)

    init = commands.add_parser("init", help="write a configuration to start from")
    init.add_argument("path", nargs="?", default="unclip.yaml", help="default: %(default)s")
    init.add_argument(
        "--like", default="demo", help="demo, small, paper or karlo; default: %(default)s"
    )
    init.set_defaults(module="init")

    plan = commands.add_parser("plan", help="what would run and why; starts nothing")
    _add_config(plan)
    _add_scope(plan)
    plan.set_defaults(module="plan")

    run = commands.add_parser("run", help="run what is not done yet")
    _add_config(run)
    _add_scope(run)
    run.set_defaults(module="run")

    ls = commands.add_parser("ls", help="the results in the store")
    _add_config(ls)
    ls.set_defaults(module="ls")

    show = commands.add_parser("show", help="one stage: its manifest, lineage, and why this key")
    show.add_argument("stage", help="such as prior")
    _add_config(show)
    show.set_defaults(module="show")

    ui = commands.add_parser("ui", help="browse the runs in MLflow, on this machine")
    _add_config(ui)
    ui.add_argument("--port", type=int, default=5000, help="default: %(default)s")
    ui.set_defaults(module="ui")

    generate = commands.add_parser("generate", help="pictures of a caption")
    generate.add_argument("caption", help='such as "a red heart"')
    _add_config(generate)
    _add_models(generate)
    generate.add_argument("--count", type=int, default=8, help="pictures; default: %(default)s")
    generate.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    generate.add_argument("--out", default="generated.png", help="default: %(default)s")
    generate.set_defaults(module="generate")

    _add_manipulations(commands)
    _add_interop(commands)
    _add_cluster_commands(commands)
    return root


def _add_manipulations(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    def add(
        name: str, message: str, *positionals: str, count: int | None
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=message)
        for positional in positionals:
            command.add_argument(
                positional, metavar=positional.upper(), help=POSITIONALS[positional]
            )
        _add_config(command)
        _add_models(command)
        if count is not None:
            command.add_argument(
                "--count", type=int, default=count, help="pictures; default: %(default)s"
            )
        command.add_argument("--seed", type=int, default=0, help="default: %(default)s")
        command.add_argument("--out", default=f"{name}.png", help="default: %(default)s")
        command.set_defaults(module=name)
        return command

    variations = add("variations", "pictures like a picture", "image", count=6)
    add("interpolate", "from one picture to another", "image", "other", count=7)
    edit = add("edit", "turn a picture towards a caption", "image", count=8)
    edit.add_argument("--to", required=True, metavar="CAPTION", help='such as "a green apple"')
    edit.add_argument("--from-text", metavar="CAPTION", help="of the picture as it is")
    edit.add_argument(
        "--strength", type=float, default=0.5, help="how far, of 1; default: %(default)s"
    )
    reconstruct = add("reconstruct", "a picture from fewer dimensions", "image", count=None)
    reconstruct.add_argument(
        "--components",
        default="20,30,40,80,120,160,200,320",
        metavar="N,N,…",
        help="of the embedding; default: %(default)s",
    )
    inpaint = add("inpaint", "paint a part of a picture anew", "image", "mask", count=6)
    inpaint.add_argument("--caption", help="of the whole picture; default: as the rest suggests")
    importance = add("importance", "a caption with and without the prior", "caption", count=6)
    importance.add_argument("--image", help="a true picture of the caption, for its embedding")
    attack = add("attack", "what CLIP takes a picture for", "image", count=7)
    attack.add_argument("--labels", required=True, metavar="A,B,…", help="classes to choose from")
    for command in (variations, attack):
        command.add_argument(
            "--eta", type=float, default=1.0, help="0: none to 1: most noise; default: %(default)s"
        )


def _add_config(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "config",
        nargs="?",
        default=DEFAULT_CONFIG,
        metavar="CONFIG",
        help="default: %(default)s",
    )
    command.add_argument("--store", help="where results live; overrides run.store")
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        dest="overrides",
        help="change one setting; may be repeated",
    )


def _add_models(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--models",
        metavar="DIR",
        help="a folder of models, as `unclip import` writes it, in place of CONFIG and its store",
    )


def _add_interop(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    importing = commands.add_parser(
        "import",
        help="read a public unCLIP checkpoint",
        description="Read folders of UnCLIPPipeline or UnCLIPImageVariationPipeline, as diffusers "
        "saves them, and write a folder of models that --models takes. The first has the prior, "
        "which captions need; the second CLIP's image tower, which pictures need; both together "
        "can do everything. Only JSON and safetensors are read, and nothing is unpickled.",
    )
    importing.add_argument("paths", nargs="+", metavar="PATH", help="folders of one Karlo")
    importing.set_defaults(module="import_models")
    exporting = commands.add_parser(
        "export",
        help="write trained models for another library",
        description="Write models of Karlo's architecture, imported or trained here, as a folder "
        "that diffusers opens as UnCLIPPipeline. What diffusers has no class for is refused "
        "before anything is written.",
    )
    _add_config(exporting)
    _add_models(exporting)
    exporting.add_argument(
        "--format", choices=("diffusers",), default="diffusers", help="default: %(default)s"
    )
    exporting.add_argument(
        "--variation",
        action="store_true",
        help="as UnCLIPImageVariationPipeline, with CLIP's image tower in place of the prior",
    )
    exporting.set_defaults(module="export_models")
    for command in (importing, exporting):
        command.add_argument("--to", required=True, metavar="DIR", help="a folder not there yet")


def _add_scope(command: argparse.ArgumentParser) -> None:
    command.add_argument("--only", metavar="STAGE", help="run this stage again, and no other")
    command.add_argument(
        "--from", dest="start", metavar="STAGE", help="run this stage and all after it again"
    )
    command.add_argument(
        "--force",
        action="append",
        default=[],
        metavar="STAGE",
        help="run this stage again; may be repeated",
    )


def _add_cluster_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    submit = commands.add_parser("submit", help="run on a cluster, and follow what it prints")
    _add_config(submit)
    _add_scope(submit)
    _add_address(submit)
    submit.add_argument("--no-wait", action="store_true", help="return once it is submitted")
    submit.add_argument(
        "--attempts", type=int, default=3, help="starts of a driver that dies; default: %(default)s"
    )
    submit.set_defaults(module="submit")
    for name, message in (
        ("status", "the state of a submitted run"),
        ("logs", "what a submitted run printed"),
        ("stop", "end a submitted run; what is finished stays"),
    ):
        command = commands.add_parser(name, help=message)
        command.add_argument("job", help="as `unclip submit` printed it")
        _add_address(command)
        if name == "logs":
            command.add_argument("-f", "--follow", action="store_true", help="until it ends")
        command.set_defaults(module="jobs", verb=name)


def _add_address(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--address",
        default=os.environ.get("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:8265"),
        help="of the cluster's dashboard; default: %(default)s",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 2 for what the user can mend, or 130 for Ctrl-C."""
    arguments = parser().parse_args(argv)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        import_module(f"pipelines.cli.{arguments.module}").run(arguments)
    except KeyboardInterrupt:
        print("\nInterrupted. What was finished stays; the same command goes on.", file=sys.stderr)
        _leave(EXIT_INTERRUPTED)
    except BrokenPipeError:  # whoever read the output has seen enough, as `head` does
        _leave(0)
    except SystemExit as terminated:
        if terminated.code == EXIT_TERMINATED:
            _leave(EXIT_TERMINATED)
        raise
    except Exception as error:
        if arguments.debug:
            traceback.print_exc()
        elif not _is_expected(error):
            raise
        print(f"unclip: {error}", file=sys.stderr)
        if _has_threads_left(error):
            _leave(EXIT_ERROR)
        return EXIT_ERROR
    return 0


def _is_expected(error: Exception) -> bool:
    from pipelines.core.errors import PipelineError
    from unclip.config import UnclipError

    return isinstance(error, PipelineError | UnclipError)


def _has_threads_left(error: Exception) -> bool:
    from pipelines.core.errors import AbortedError

    return isinstance(error, AbortedError)


def _terminate(*_: object) -> NoReturn:
    raise SystemExit(EXIT_TERMINATED)


def _leave(code: int) -> NoReturn:
    """End now: threads of stages that were cut off may wait for workers that are gone."""
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
