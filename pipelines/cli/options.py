"""Options that several commands share, read into frozen dataclasses."""

import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from unclip import captions
from unclip.config import UnclipError

Function = Callable[..., None]

DEFAULT_CONFIG = "demo"
DEFAULT_MODELS = "emoji"  # of the image commands: the generator that comes with the package
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
    """Where the models come from: exactly one of a project's store and a folder of models."""

    project: ProjectChoice | None
    name: str | None  # of --models: packaged models, a folder, or its URL


@dataclass(frozen=True)
class ImageRequest:
    """The options that all image commands share."""

    command: str
    models: ModelChoice
    seed: int
    out: Path
    params: Mapping[str, Any]  # the command's arguments as given, for the tracking server
    sampling: Mapping[str, Any] = field(default_factory=dict)  # settings that replace the models'


def project_options(function: Function) -> Function:
    """Add CONFIG, --store and --set, which arrive as `project: ProjectChoice`."""

    @functools.wraps(function)
    def call(config: str, store: str | None, settings: tuple[str, ...], **rest: Any) -> None:
        function(project=ProjectChoice(config, store, settings), **rest)

    config_argument = click.argument("config", default=DEFAULT_CONFIG, help=CONFIG_HELP)
    return _with_params(call, config_argument, *_project_flags())


def _project_flags() -> list[Callable[[Function], Function]]:
    """--store and --set."""
    return [
        click.option("--store", metavar="URL", help="Folder or bucket of results (run.store)."),
        click.option(
            "--set",
            "settings",
            multiple=True,
            metavar="SECTION.KEY=VALUE",
            help="Change one setting. Repeatable.",
        ),
    ]


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


def model_options(
    default: str | None = None, *, config: bool = True
) -> Callable[[Function], Function]:
    """Add the project's options and --models, which arrive as `models: ModelChoice`.

    default: packaged models to use if no project is named; None: the project demo. config: whether
    CONFIG is an argument of its own; else the command takes it from its arguments.
    """

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def call(
            store: str | None, settings: tuple[str, ...], name: str | None, **rest: Any
        ) -> None:
            flags = (store, settings)
            if not config:
                function(choose=lambda given: choose_models(given, *flags, name, default), **rest)
                return
            given = rest.pop("config")
            function(models=choose_models(given, *flags, name, default), **rest)

        use = f"default: {default}" if default else "instead of CONFIG and its store"
        option = click.option(
            "--models",
            "name",
            metavar="NAME",
            help=f"Packaged models, a folder of models, or its URL; {use}.",
        )
        argument = [click.argument("config", default=None, required=False, help=CONFIG_HELP)]
        return _with_params(call, *(argument if config else []), *_project_flags(), option)

    return decorate


def choose_models(
    config: str | None,
    store: str | None,
    settings: tuple[str, ...],
    name: str | None,
    default: str | None,
) -> ModelChoice:
    """The models that the options name. Raises `UsageError` if they name two."""
    given = [*([f"CONFIG {config}"] if config else []), *(["--store"] if store else [])]
    given += ["--set"] if settings else []
    if name is not None and given:
        raise click.UsageError(
            f"--models {name} replaces the project, so {', '.join(given)} would have no effect; "
            "give one or the other. The folder's sampling.json holds its sampling settings."
        )
    if name is None and (given or default is None):
        return ModelChoice(ProjectChoice(config or DEFAULT_CONFIG, store, settings), None)
    return ModelChoice(None, name or default)


def image_options(out: str, default: str | None = DEFAULT_MODELS) -> Callable[[Function], Function]:
    """Add the models' options, --seed and --out, which arrive as `request: ImageRequest`."""

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def call(models: ModelChoice, seed: int, out: Path, **rest: Any) -> None:
            function(request=make_request(models, seed, out), **rest)

        target = click.option(
            "--out",
            default=out,
            show_default=True,
            callback=_writable_image,
            metavar="FILE",
            help=f"Image to write: {', '.join(IMAGE_SUFFIXES)}.",
        )
        return model_options(default)(_with_params(call, seed_option, target))

    return decorate


seed_option = click.option(
    "--seed", default=0, metavar="N", show_default=True, help="Seed of the noise."
)


def make_request(
    models: ModelChoice, seed: int, out: Path, sampling: Mapping[str, Any] | None = None
) -> ImageRequest:
    """The request of the running command."""
    context = click.get_current_context()
    params = {n: v for n, v in context.params.items() if n not in NOT_PARAMS}
    given = {name: value for name, value in params.items() if value not in (None, ())}
    return ImageRequest(str(context.info_name), models, seed, out, given, sampling or {})


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
    """Raise `BadParameter` for a caption that is empty, too long or not text."""
    if caption is None:
        return None
    try:
        return captions.check_caption(caption)
    except UnclipError as error:
        raise click.BadParameter(f"{error}.") from error


def writable_target(_context: click.Context, _parameter: click.Parameter, name: str) -> Path:
    """An image to write, or a folder: an existing one, or a name without a suffix."""
    target = Path(name)
    if target.suffix and not target.is_dir() and not name.endswith("/"):
        return _writable_image(_context, _parameter, name)
    nearest = next(p for p in (target.absolute(), *target.absolute().parents) if p.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise click.BadParameter(f"{target} cannot be made in {nearest}; choose another folder.")
    return target


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


def _with_params(function: Function, *decorators: Callable[[Function], Function]) -> Function:
    """Apply the decorators so that the help lists the parameters in this order."""
    for decorate in reversed(decorators):
        function = decorate(function)
    return function
