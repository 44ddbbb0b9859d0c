"""Contact sheets of the samples: small image files for the store and the tracking server."""

import logging
from collections.abc import Sequence

from PIL import Image

from pipelines.core.folder import Folder
from pipelines.evaluation.grids import Tile, draw_grid
from pipelines.evaluation.images import decode_png, encode_png
from pipelines.evaluation.rows import Values
from pipelines.evaluation.samples import first_samples

log = logging.getLogger(__name__)

TILE_SIDE = 64  # pixels
MAX_ROWS = 12  # captions on a sheet
COLUMNS = ("original", "generated", "from_true_embedding", "variations")


def write_contact_sheets(folder: Folder, names: Sequence[str]) -> list[str]:
    """Write samples-<split>.png and reconstructions-<split>.png; returns their names.

    names: of the sample shards in `folder`. A sheet of samples has the originals in its first row
    and the generated images below them. A sheet of reconstructions has one probe in each row: the
    original, the image decoded from its true embedding, and the variations.
    """
    files = []
    for split, rows in first_samples(folder, names, COLUMNS, MAX_ROWS).items():
        probes = [row for row in rows if row["variations"] is not None]
        samples = [[row["original"] for row in rows], [row["generated"] for row in rows]]
        files += [f"samples-{split}.png", f"reconstructions-{split}.png"]
        folder.write_bytes(files[-2], _sheet(samples))
        folder.write_bytes(files[-1], _sheet([_reconstructions(row) for row in probes]))
        log.debug("Wrote %s and %s from %d captions", *files[-2:], len(rows))
    return files


def _reconstructions(row: Values) -> list[bytes]:
    return [row["original"], row["from_true_embedding"], *row["variations"]]


def _sheet(rows: Sequence[Sequence[bytes]]) -> bytes:
    """PNG files in rows as one PNG file."""
    tiles = [[Tile(decode_png(content)) for content in row] for row in rows]
    grid = draw_grid(tiles, side=TILE_SIDE, enlarge=Image.Resampling.NEAREST)
    return encode_png(grid)
