"""Options that several commands share, read into frozen dataclasses."""

import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

Function = Callable[..., None]

DEFAULT_CONFIG = "demo"
MAX_IMAGES = 256  # of one row or grid
CONFIG_HELP = "YAML file, or packaged configuration: demo (the default), small, paper, karlo."
NOT_PARAMS = ("out", "store", "settings")  # of an image, for the tracking server
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class ProjectChoice:
    """The configuration and the store of a command."""

    config: str
    store: str | None
    settings: tuple[str, ...]  # of --set, each "section.key=value"

    @property
    def overrides(self) -> tuple[str, ...]:
        """The values of `--set`, and that of `--store` as a setting."""
        return (*self.settings, *([f"run.store={self.store}"] if self.store else []))

    @property
    def flags(self) -> list[str]:
        """The command-line flags for the same choice, without CONFIG."""
        words = [word for setting in self.settings for word in ("--set", setting)]
        return [*words, *(["--store", self.store] if self.store else [])]


@dataclass(frozen=True)
class ScopeChoice:
    """Which stages to run again."""

    only: str | None
    start: str | None  # of --from
    force: tuple[str, ...]

    @property
    def flags(self) -> list[str]:
        """The command-line flags for the same choice."""
        words = [word for stage in self.force for word in ("--force", stage)]
        singles = {"--only": self.only, "--from": self.start}
        return [*words, *(w for flag, s in singles.items() if s for w in (flag, s))]


@dataclass(frozen=True)
class ModelChoice:
    """Where the models come from: a project's store, or a folder of models."""

    project: ProjectChoice
    folder: str | None  # of --models; replaces the project


@dataclass(frozen=True)
class ImageRequest:
    """The options that all image commands share."""

    command: str
    models: ModelChoice
    seed: int
    out: Path
    params: Mapping[str, Any]  # the command's arguments as given, for the tracking server


def project_options(function: Function) -> Function:
    """Add CONFIG, --store and --set, which arrive as `project: ProjectChoice`."""

    @functools.wraps(function)
    def call(config: str, store: str | None, settings: tuple[str, ...], **rest: Any) -> None:
        function(project=ProjectChoice(config, store, settings), **rest)

    return _with_params(
        call,
        click.argument("config", default=DEFAULT_CONFIG, help=CONFIG_HELP),
        click.option("--store", metavar="URL", help="Folder or bucket of results (run.store)."),
        click.option(
            "--set",
            "settings",
            multiple=True,
            metavar="SECTION.KEY=VALUE",
            help="Change one setting. Repeatable.",
        ),
    )


def scope_options(function: Function) -> Function:
    """Add --only, --from and --force, which arrive as `scope: ScopeChoice`."""

    @functools.wraps(function)
    def call(only: str | None, start: str | None, force: tuple[str, ...], **rest: Any) -> None:
        function(scope=ScopeChoice(only, start, force), **rest)

    return _with_params(
        call,
        click.option("--only", metavar="STAGE", help="Run this stage again and no other."),
        click.option(
            "--from", "start", metavar="STAGE", help="Run this stage again and all that follow it."
        ),
        click.option(
            "--force", multiple=True, metavar="STAGE", help="Run this stage again. Repeatable."
        ),
    )


def model_options(function: Function) -> Function:
    """Add the project's options and --models, which arrive as `models: ModelChoice`."""

    @functools.wraps(function)
    def call(project: ProjectChoice, folder: str | None, **rest: Any) -> None:
        if folder is not None:
            _check_no_project(folder, project)
        function(models=ModelChoice(project, folder), **rest)

    option = click.option(
        "--models",
        "folder",
        metavar="DIR",
        help="Folder of models, as `unclip import` writes it, instead of CONFIG and its store.",
    )
    return project_options(_with_params(call, option))


def image_options(out: str) -> Callable[[Function], Function]:
    """Add the models' options, --seed and --out, which arrive as `request: ImageRequest`."""

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def call(models: ModelChoice, seed: int, out: Path, **rest: Any) -> None:
            context = click.get_current_context()
            params = {n: v for n, v in context.params.items() if n not in NOT_PARAMS}
            given = {name: value for name, value in params.items() if value is not None}
            function(request=ImageRequest(str(context.info_name), models, seed, out, given), **rest)

        seed = click.option(
            "--seed", default=0, metavar="N", show_default=True, help="Seed of the noise."
        )
        target = click.option(
            "--out",
            default=out,
            show_default=True,
            callback=_writable_image,
            metavar="FILE",
            help=f"Image to write: {', '.join(IMAGE_SUFFIXES)}.",
        )
        return model_options(_with_params(call, seed, target))

    return decorate


def count_option(default: int, *, minimum: int = 1) -> Callable[[Function], Function]:
    """Add --count, a number of images."""
    return click.option(
        "--count",
        type=click.IntRange(minimum, MAX_IMAGES),
        metavar="N",
        default=default,
        show_default=True,
        help="Number of images.",
    )


def caption_option(flag: str, **settings: Any) -> Callable[[Function], Function]:
    """Add an option that takes a caption."""
    return click.option(flag, metavar="CAPTION", callback=check_caption, **settings)


def address_option(function: Function) -> Function:
    """Add --address."""
    return click.option(
        "--address",
        default=os.environ.get("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:8265"),
        show_default=True,
        metavar="URL",
        help="Address of the cluster's dashboard (or RAY_API_SERVER_ADDRESS).",
    )(function)


def check_caption(
    _context: click.Context, _parameter: click.Parameter, caption: str | None
) -> str | None:
    """Raise `BadParameter` for an empty caption; None means that no caption was given."""
    if caption is not None and not caption.strip():
        raise click.BadParameter('the caption is empty; give one, such as "a red heart".')
    return caption


def _writable_image(_context: click.Context, _parameter: click.Parameter, name: str) -> Path:
    target = Path(name)
    if not target.parent.is_dir():
        raise click.BadParameter(f"there is no folder {target.parent} to write {target.name} into.")
    if target.is_dir():
        raise click.BadParameter(f"{target} is a folder; give the name of an image in it.")
    if target.suffix.lower() not in IMAGE_SUFFIXES:
        raise click.BadParameter(f"{target} must end in one of {', '.join(IMAGE_SUFFIXES)}.")
    if not os.access(target.parent, os.W_OK):
        raise click.BadParameter(f"the folder {target.parent} is not writable; choose another.")
    return target


def _check_no_project(folder: str, project: ProjectChoice) -> None:
    given = [f"CONFIG {project.config}"] if project.config != DEFAULT_CONFIG else []
    flags = [*given, *(["--store"] if project.store else []), *(["--set"] * bool(project.settings))]
    if flags:
        raise click.UsageError(
            f"--models {folder} replaces the project, so {', '.join(flags)} would have no effect; "
            "give one or the other. The folder's sampling.json holds its sampling settings."
        )


def _with_params(function: Function, *decorators: Callable[[Function], Function]) -> Function:
    """Apply the decorators so that the help lists the parameters in this order."""
    for decorate in reversed(decorators):
        function = decorate(function)
    return function
