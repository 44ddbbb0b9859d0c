"""Commands that draw images with trained models."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipelines.cli.command import command
from pipelines.cli.options import (
    DEFAULT_MODELS,
    MAX_IMAGES,
    ImageRequest,
    ModelChoice,
    caption_option,
    check_caption,
    count_option,
    image_options,
    make_request,
    model_options,
    seed_option,
    writable_target,
)

if TYPE_CHECKING:
    from pipelines.cli.inputs import Inputs

ALONE = 8  # images of a single caption
SETTINGS = {  # flag -> sampling setting
    "steps": "num_inference_steps",
    "guidance": "guidance_scale",
    "sampler": "sampler",
}
COMPONENTS = "20,30,40,80,120,160,200,320"

image_argument = click.argument("image", help="Image file, or key of a pair in the store.")
caption_argument = click.argument("caption", callback=check_caption, help='Such as "a red heart".')
eta_option = click.option(
    "--eta",
    type=click.FloatRange(0, 1),
    metavar="X",
    default=1.0,
    show_default=True,
    help="Amount of fresh noise, from 0 (none) to 1.",
)


@command("generate")
@click.argument(
    "words",
    nargs=-1,
    metavar="[CAPTION]... [CONFIG]",
    help="Captions; - reads them from standard input. A last word that ends in .yaml or "
    "names a packaged configuration, such as demo or emoji, is CONFIG and no caption. To draw such "
    "a word, give it alone or before another caption.",
)
@click.option("--file", metavar="FILE", help="Text file with one caption in each line.")
@click.option(
    "--count",
    type=click.IntRange(1, MAX_IMAGES),
    metavar="N",
    help=f"Images of each caption; default: {ALONE} of one caption, 1 of each of several.",
)
@click.option("--steps", type=click.IntRange(1), metavar="N", help="Steps of the decoder.")
@click.option("--guidance", type=float, metavar="X", help="Guidance scale of the decoder.")
@click.option("--sampler", metavar="NAME", help="Sampler of the decoder, such as ddim.")
@model_options(DEFAULT_MODELS, config=False)
@seed_option
@click.option(
    "--out",
    default="generated.png",
    show_default=True,
    callback=writable_target,
    metavar="PATH",
    help="Image to write, a grid with captions; or a folder, for one file per image.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each image.")
def generate(
    words: tuple[str, ...],
    file: str | None,
    count: int | None,
    seed: int,
    out: Path,
    as_json: bool,
    choose: Callable[[str | None], ModelChoice],
    **sampling: Any,
) -> None:
    """Draw images of captions.

    Without CONFIG, the packaged models draw. With it, those that the project trained.
    """
    from pipelines.cli.captions import read_captions, split_config

    given, config = split_config(words, more=file is not None)
    captions = read_captions(given, file)
    count = count or (ALONE if len(captions) == 1 else 1)
    if out.suffix and not out.is_dir() and len(captions) * count > MAX_IMAGES:
        raise click.UsageError(
            f"{len(captions)} captions with {count} images each are too many for one grid, which "
            f"holds {MAX_IMAGES}; give --out a folder."
        )
    settings = {SETTINGS[name]: value for name, value in sampling.items() if value is not None}
    session = _inputs(make_request(choose(config), seed, out, settings)).open_session()
    if (project := session.models.project) is not None:
        name, store = project.choice.config, project.store.root
        click.echo(f"The models of the project {name} draw, from the store {store}.", err=True)
    from pipelines.cli.drawing import draw_captions

    draw_captions(session, captions, count=count, as_json=as_json)


@command("variations")
@image_argument
@count_option(6)
@eta_option
@image_options("variations.png")
def variations(request: ImageRequest, image: str, count: int, eta: float) -> None:
    """Draw variations of an image.

    The output shows the original, its reconstruction and the variations, as in figure 3 of the
    paper.
    """
    inputs = _inputs(request)
    original = inputs.read_image(image)
    session = inputs.open_session()
    session.write(session.variations(original, count=count, eta=eta))


@command("interpolate")
@image_argument
@click.argument("other", help="Second image: file or key.")
@count_option(7, minimum=2)
@image_options("interpolate.png")
def interpolate(request: ImageRequest, image: str, other: str, count: int) -> None:
    """Draw a transition between two images.

    In the first row, the noise x_T is interpolated together with the image embedding z_i, as in
    figure 4 of the paper. In the second row, x_T is random.
    """
    inputs = _inputs(request)
    start, end = inputs.read_image(image), inputs.read_image(other)
    session = inputs.open_session()
    session.write(session.interpolations(start, end, count=count))


@command("edit")
@image_argument
@caption_option("--to", required=True, help='Caption of the result, such as "a green apple".')
@caption_option("--from-text", help="Caption of the image as it is.")
@count_option(8, minimum=2)
@click.option(
    "--strength",
    type=click.FloatRange(0, 1, min_open=True),
    metavar="X",
    default=0.5,
    show_default=True,
    help="How far to go; the paper uses 0.25 to 0.5.",
)
@image_options("edit.png")
def edit(
    request: ImageRequest, image: str, to: str, from_text: str | None, count: int, strength: float
) -> None:
    """Change an image in the direction of a caption.

    The output shows the original, and steps from no change to --strength, as in figure 5 of the
    paper.
    """
    if to == from_text:
        raise click.UsageError(
            f"--to and --from-text are both {to!r}, which gives no direction; give --from-text "
            "another caption, or leave it out."
        )
    inputs = _inputs(request)
    original = inputs.read_image(image)
    session = inputs.open_session()
    session.write(session.edits(original, to, from_text, count=count, strength=strength))


@command("reconstruct")
@image_argument
@click.option(
    "--components",
    default=COMPONENTS,
    show_default=True,
    metavar="N,N,...",
    callback=lambda _context, _parameter, text: _parse_counts(text),
    help="Numbers of principal components of the image embedding.",
)
@image_options("reconstruct.png", default=None)
def reconstruct(request: ImageRequest, image: str, components: tuple[int, ...]) -> None:
    """Draw an image from parts of its embedding.

    The first row keeps the image's own noise x_T, as in figure 7 of the paper. The second row uses
    random noise.
    """
    if request.models.project is None:
        raise click.UsageError(
            "reconstruct needs a PCA basis of image embeddings, which a folder of models does not "
            "have; leave out --models to use a project, whose stage pca makes one."
        )
    inputs = _inputs(request)
    original = inputs.read_image(image)
    session = inputs.open_session("pca")
    session.write(session.reconstructions(original, components))


@command("inpaint")
@image_argument
@click.argument("mask", help="Image of the same size: white where to paint, black elsewhere.")
@caption_option("--caption", help="Caption of the whole image; default: inferred from the rest.")
@count_option(6)
@image_options("inpaint.png")
def inpaint(request: ImageRequest, image: str, mask: str, caption: str | None, count: int) -> None:
    """Repaint a part of an image."""
    inputs = _inputs(request)
    original = inputs.read_image(image)
    covered = inputs.read_mask(mask, original)
    session = inputs.open_session()
    session.write(session.inpaintings(original, covered, caption, count=count))


@command("importance")
@caption_argument
@click.option("--image", metavar="FILE", help="A true image of the caption, for its embedding.")
@count_option(6)
@image_options("importance.png")
def importance(request: ImageRequest, caption: str, image: str | None, count: int) -> None:
    """Draw a caption with and without the prior.

    Each row shows one condition of the decoder, as in figure 8 of the paper.
    """
    inputs = _inputs(request)
    true_image = inputs.read_image(image) if image else None
    session = inputs.open_session()
    session.write(session.importance(caption, true_image, count=count))


@command("attack")
@image_argument
@click.option(
    "--labels",
    required=True,
    metavar="A,B,...",
    callback=lambda _context, _parameter, text: _parse_labels(text),
    help="Classes to choose from.",
)
@count_option(7)
@eta_option
@image_options("attack.png")
def attack(
    request: ImageRequest, image: str, labels: tuple[str, ...], count: int, eta: float
) -> None:
    """Classify an image and its variations with CLIP.

    Shows typographic attacks, as in figure 6 of the paper.
    """
    inputs = _inputs(request)
    original = inputs.read_image(image)
    session = inputs.open_session()
    rows, probabilities = session.attack(original, labels, count=count, eta=eta)
    for label, probability in zip(labels, probabilities, strict=True):
        click.echo(f"{probability:7.1%}  {label}")
    session.write(rows)


COMMANDS = (generate, variations, interpolate, edit, reconstruct, inpaint, importance, attack)


def _inputs(request: ImageRequest) -> "Inputs":
    # On a busy machine, threads of OpenMP that spin while they wait make an image take 40 times as
    # long. OpenMP reads the variable when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from pipelines.cli.inputs import Inputs

    return Inputs(request)


def _parse_counts(text: str) -> tuple[int, ...]:
    words = text.split(",")
    if not all(word.strip().isdecimal() and int(word) > 0 for word in words):
        raise click.BadParameter(f"{text} is not a list of positive numbers, such as 1,4,16,64.")
    return tuple(int(word) for word in words)


def _parse_labels(text: str) -> tuple[str, ...]:
    labels = tuple(label.strip() for label in text.split(",") if label.strip())
    if len(labels) < 2:
        raise click.BadParameter(
            f"{text!r} leaves nothing to choose from; give two or more, such as apple,pizza."
        )
    return labels
