"""`unclip attack`: what CLIP takes a picture for, beside its variations (figure 6 of the paper)."""

import argparse
from typing import TYPE_CHECKING

from pipelines.cli.images import read_picture
from pipelines.cli.models import find_project
from pipelines.cli.session import open_studio
from pipelines.core.errors import PipelineError
from pipelines.evaluation.grids import in_rows

if TYPE_CHECKING:
    from torch import Tensor

SHOWN = 3  # classes below a picture


def run(arguments: argparse.Namespace) -> None:
    """Write the original and its variations, each with its most probable classes."""
    classes = [label.strip() for label in arguments.labels.split(",") if label.strip()]
    if len(classes) < 2:
        raise PipelineError(
            f"--labels {arguments.labels!r} leaves nothing to choose from; give two or more with "
            "commas between, such as --labels apple,pizza."
        )
    project = find_project(arguments)
    picture = read_picture(arguments.image, project)
    studio = open_studio(arguments, project)

    from pipelines.evaluation.grids import Tile
    from unclip.manipulate import class_probabilities, typographic_attack

    class_embeds, logit_scale = studio.pipeline.text_embeds(classes), studio.clip.logit_scale
    probabilities, pixels = typographic_attack(
        studio.cascade,
        studio.latent(picture),
        class_embeds,
        logit_scale=logit_scale,
        count=arguments.count,
        eta=arguments.eta,
        generator=studio.generator(),
    )
    images = studio.enlarged(pixels)
    embeds = studio.clip.encode_images(images)
    judged = class_probabilities(embeds, class_embeds, logit_scale=logit_scale)
    tiles = [studio.original(picture, "original\n" + _told(classes, probabilities))]
    tiles += [
        Tile(image, f"no. {n + 1}\n" + _told(classes, own))
        for n, (image, own) in enumerate(zip(images, judged, strict=True))
    ]
    for name, share in zip(classes, probabilities.tolist(), strict=True):
        print(f"{share:7.1%}  {name}")
    studio.finish(in_rows(tiles))


def _told(classes: list[str], probabilities: "Tensor") -> str:
    """The most probable classes, a line each."""
    most = probabilities.topk(min(SHOWN, len(classes)))
    pairs = zip(most.indices.tolist(), most.values.tolist(), strict=True)
    return "\n".join(f"{share:.0%} {classes[index]}" for index, share in pairs)
