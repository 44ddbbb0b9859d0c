"""Commands that exchange models with other libraries: import, export."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from pipelines.cli.command import command
from pipelines.cli.options import ModelChoice, model_options
from pipelines.core.errors import PipelineError


def _new_folder(_context: click.Context, _parameter: click.Parameter, name: str) -> Path:
    target = Path(name)
    if target.exists():
        raise click.BadParameter(f"{target} exists already; remove it, or give another name.")
    if not target.absolute().parent.is_dir():
        raise click.BadParameter(f"there is no folder {target.parent} to write {target.name} into.")
    return target


target_option = click.option(
    "--to",
    "target",
    required=True,
    metavar="DIR",
    callback=_new_folder,
    help="Folder to write; it must not exist yet.",
)


@command("import")
@click.argument(
    "paths",
    nargs=-1,
    required=True,
    metavar="PATH...",
    help="Folders or .ckpt files of one checkpoint.",
)
@target_option
def import_(paths: tuple[str, ...], target: Path) -> None:
    """Read a public unCLIP checkpoint.

    Writes a folder for --models from folders of UnCLIPPipeline and UnCLIPImageVariationPipeline, as
    diffusers saves them, or from a folder of Karlo's original checkpoints. The first has the prior,
    which captions need; the second has CLIP's image tower, which images need. Give both to get
    everything. Only weights and settings are read: no code in a file is run.
    """
    from unclip.interop import merge, read_pipeline

    pipeline = merge([read_pipeline(path) for path in paths])
    with _written_whole(target) as folder:
        pipeline.save(folder)
    for name, model in pipeline.cascade.models.items():
        millions = sum(weight.numel() for weight in model.parameters()) / 1e6
        click.echo(f"{name:<12} {millions:8.1f} million parameters   {type(model).__name__}")
    if pipeline.cascade.prior is None:
        click.echo("No prior: `generate` needs the UnCLIPPipeline folder too.")
    if pipeline.clip is None:
        click.echo("No image tower: commands that read images need the image variation folder too.")
    click.echo(f'Wrote {target}. Next: unclip generate "a red heart" --models {target}')


@command("export")
@model_options()
@click.option(
    "--format",
    "layout",
    type=click.Choice(["diffusers", "unclip"]),
    default="diffusers",
    show_default=True,
    help="unclip: a folder for --models and UnclipPipeline.from_pretrained.",
)
@click.option(
    "--variation",
    is_flag=True,
    help="diffusers: UnCLIPImageVariationPipeline, with CLIP's image tower instead of the prior.",
)
@click.option("--half", is_flag=True, help="unclip: store the weights as float16.")
@target_option
def export(models: ModelChoice, layout: str, variation: bool, half: bool, target: Path) -> None:
    """Write models as a folder, for unclip or diffusers.

    For unclip, all models can be written. For diffusers, models of Karlo's architecture, imported
    or trained here, become a folder that it opens as UnCLIPPipeline. Models that diffusers has no
    class for are refused before anything is written.
    """
    if (layout == "unclip" and variation) or (layout == "diffusers" and half):
        flag = "--variation" if variation else "--half"
        raise click.UsageError(f"{flag} has no effect with --format {layout}; leave it out.")
    from pipelines.cli.models import open_models

    source = open_models(models)
    source.check()
    pipeline = source.load()
    with _written_whole(target) as folder:
        if layout == "unclip":
            pipeline.save(folder, half=half)
        else:
            from unclip.interop import write_pipeline

            write_pipeline(folder, pipeline, variation=variation)
    if layout == "unclip":
        click.echo(f'Wrote {target}. Next: unclip generate "a red heart" --models {target}')
        return
    kind = "UnCLIPImageVariationPipeline" if variation else "UnCLIPPipeline"
    click.echo(f"Wrote {target}. Open it with diffusers: {kind}.from_pretrained({str(target)!r})")


COMMANDS = (import_, export)


@contextmanager
def _written_whole(target: Path) -> Iterator[Path]:
    """A scratch folder that gets the target's name at the end, and is removed on errors."""
    parent = target.absolute().parent
    try:
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=parent))
    except OSError as error:
        raise PipelineError(f"{parent} is not writable: {error.strerror}.") from error
    try:
        scratch.chmod(0o755)  # mkdtemp makes it private
        yield scratch
        scratch.rename(target)
    except OSError as error:  # such as a full disk
        raise PipelineError(f"{target} cannot be written: {error}.") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
