"""The decoder's progress as one image: the same captions after more and more steps."""

from collections.abc import Sequence

from PIL import Image

from pipelines.artifacts import TrainedModel
from pipelines.evaluation.grids import Tile, cut_grid, draw_grid
from pipelines.evaluation.images import decode_png, encode_png

CAPTIONS = 4  # rows at most
STEPS = 7  # columns of samples at most
ROWS = 2  # of a preview of a decoder: real images, samples


def decoder_progress(decoder: TrainedModel) -> bytes | None:
    """PNG: a row for each caption, with its samples after some steps and its real image at the end.

    None if the training stored no samples, or if they are not in `ROWS` rows, as those of a kind of
    decoder from elsewhere may be.
    """
    files = decoder.sample_files
    steps = spread(list(files), STEPS)
    columns: list[Sequence[Image.Image]] = []
    for step in steps:
        with decoder.folder.open(files[step]) as file:
            grid = cut_grid(decode_png(file.read()), ROWS)
        if grid is None:
            return None
        real, sampled = grid
        columns.append(sampled[:CAPTIONS])
    if not columns:
        return None
    columns.append(real[:CAPTIONS])
    rows = [[Tile(image) for image in row] for row in zip(*columns, strict=True)]
    header = [*(f"step {step:,}" for step in steps), "real image"]
    return encode_png(draw_grid(rows, side=rows[0][0].image.width, header=header))


def spread(steps: Sequence[int], limit: int) -> list[int]:
    """At most `limit` of the ascending steps, with the first and the last.

    Each is about the same multiple of the one before: the early steps change the images most.
    """
    if len(steps) <= limit:
        return list(steps)
    ratio = steps[-1] / steps[0]
    wanted = [steps[0] * ratio ** (n / (limit - 1)) for n in range(limit)]
    return sorted({min(steps, key=lambda step: abs(step - each)) for each in wanted})
