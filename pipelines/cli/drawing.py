"""Draws captions in batches, and writes a grid or one file for each image."""

import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
from PIL import Image

from pipelines.evaluation.grids import Tile, draw_grid, in_rows
from unclip.output import to_images
from unclip.samplers import generator_for

if TYPE_CHECKING:
    from pipelines.cli.session import Session

BATCH = 8  # images at once, after the first, which is drawn alone to be there soon
GRID_COLUMNS = 4
MAX_NAME = 40  # letters of the caption in a file name


@dataclass(frozen=True)
class Drawing:
    """One image to draw: the caption, and the image's number among those of the caption."""

    caption: str
    number: int


def draw_captions(
    session: "Session", captions: Sequence[str], *, count: int, as_json: bool
) -> None:
    """Draw `count` images of each caption; write them, print what was written, and track it."""
    session.pipeline.warn_if_cut(captions)
    wanted = [Drawing(caption, n) for caption in captions for n in range(count)]
    out = session.request.out
    if out.suffix and not out.is_dir():
        images = [image for _, image in _draw(session, wanted)]
        _grid(captions, images, count).save(out)
        files = [out] * len(wanted)
        for drawing in wanted if as_json else ():
            _print_json(session, drawing, out)
    else:
        files = []
        for drawing, image in _draw(session, wanted):
            out.mkdir(parents=True, exist_ok=True)
            files.append(out / _file_name(len(files), drawing.caption))
            image.save(files[-1])
            if as_json:
                _print_json(session, drawing, files[-1])
    print(f"Wrote {out}.", file=sys.stderr if as_json else sys.stdout)
    session.track(list(dict.fromkeys(files)))


def _draw(session: "Session", wanted: Sequence[Drawing]) -> Iterator[tuple[Drawing, Image.Image]]:
    """Each image when it is drawn, with a progress bar if standard error is a terminal."""
    starts = [0, *range(1, len(wanted), BATCH)]
    pipeline, hidden = session.pipeline, not sys.stderr.isatty()
    with click.progressbar(
        length=len(wanted), label="Drawing", file=sys.stderr, hidden=hidden
    ) as bar:
        for start, end in zip(starts, [*starts[1:], len(wanted)], strict=True):
            some = wanted[start:end]
            noise = [generator_for(session.request.seed, drawing.number) for drawing in some]
            made = pipeline.generate([drawing.caption for drawing in some], generator=noise)
            bar.update(len(some))
            yield from zip(some, to_images(made.pixels[-1]), strict=True)


def _grid(captions: Sequence[str], images: Sequence[Image.Image], count: int) -> Image.Image:
    """One caption: rows of images. Several: a row for each if it has several images."""
    labels = [caption for caption in captions for _ in range(count)]
    tiles = [Tile(*pair) for pair in zip(images, labels, strict=True)]
    columns = count if len(captions) > 1 and 1 < count <= BATCH else GRID_COLUMNS
    return draw_grid(in_rows(tiles, columns))


def _file_name(index: int, caption: str) -> str:
    words = re.sub(r"\W+", "-", caption.lower()).strip("-")[:MAX_NAME].strip("-")
    return f"{index:04d}-{words}.png" if words else f"{index:04d}.png"


def _print_json(session: "Session", drawing: Drawing, file: Path) -> None:
    """One line about an image, for programs."""
    line = {
        "caption": drawing.caption,
        "number": drawing.number,
        "seed": session.request.seed,
        "file": str(file),
    }
    print(json.dumps(line, ensure_ascii=False), flush=True)
