"""Draw a grid of images, each with an optional label below it.

Every grid of the project is drawn here: those of commands, training previews and the evaluation's
contact sheets. Needs only Pillow, so commands can import it at start-up.
"""

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

MIN_SIDE = 128  # pixels; smaller images are enlarged so that a person can see them
GAP = 8  # pixels around every image
FONT_SIZE = 13
LINE_HEIGHT = FONT_SIZE + 3
INK, OUTLINE = "#222222", "#dddddd"

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


class Tile(NamedTuple):
    """A square image and the words below it."""

    image: Image.Image
    label: str = ""


def draw_grid(
    rows: Sequence[Sequence[Tile]],
    *,
    side: int | None = None,
    enlarge: Image.Resampling = Image.Resampling.BICUBIC,
    header: Sequence[str] = (),
) -> Image.Image:
    """Rows of tiles as one image; labels are wrapped to the width of their image.

    side: of every tile in pixels; by default that of the widest image, and at least `MIN_SIDE`.
    enlarge: the filter for smaller images (`NEAREST` shows their pixels). Larger images are
    averaged by area. header: the words above each column. A row without labels takes no space for
    them.
    """
    if side is None:
        side = max(MIN_SIDE, *(tile.image.width for row in rows for tile in row))
    font = ImageFont.load_default(FONT_SIZE)
    labels = [[wrap(tile.label, side, font) for tile in row] for row in rows]
    heights = [side + _label_height(row) + 2 * GAP for row in labels]
    titles = [wrap(title, side, font) for title in header]
    above = _label_height(titles)
    width = max(len(row) for row in rows) * (side + GAP) + GAP
    canvas = Image.new("RGB", (width, above + sum(heights)), "white")
    draw = ImageDraw.Draw(canvas)
    for column, lines in enumerate(titles):
        draw.multiline_text(
            (GAP + column * (side + GAP), 3), "\n".join(lines), INK, font, spacing=2
        )
    top = GAP + above
    for row, row_labels, height in zip(rows, labels, heights, strict=True):
        for column, (tile, lines) in enumerate(zip(row, row_labels, strict=True)):
            left = GAP + column * (side + GAP)
            canvas.paste(_fit(tile.image, side, enlarge), (left, top))
            draw.rectangle((left - 1, top - 1, left + side, top + side), outline=OUTLINE)
            draw.multiline_text((left, top + side + 3), "\n".join(lines), INK, font, spacing=2)
        top += height
    return canvas


def in_rows(tiles: Sequence[Tile], columns: int = 8) -> list[Sequence[Tile]]:
    """Tiles in rows of at most `columns`."""
    return [tiles[start : start + columns] for start in range(0, len(tiles), columns)]


def cut_grid(grid: Image.Image, rows: int) -> list[list[Image.Image]] | None:
    """The tiles of a grid that `draw_grid` drew, by row, as large as they were drawn.

    Returns None unless the grid can have this number of rows, all of them full and none labelled.
    """
    height, left_over = divmod(grid.height, rows)
    side = height - 2 * GAP
    columns, odd = divmod(grid.width - GAP, side + GAP) if side > 0 else (0, 0)
    if left_over or odd or side < MIN_SIDE:
        return None
    tops = [GAP + row * height for row in range(rows)]
    lefts = [GAP + column * (side + GAP) for column in range(columns)]
    return [[grid.crop((x, y, x + side, y + side)) for x in lefts] for y in tops]


def whole_enlargement(size: int) -> int:
    """The side at which to show images of `size` pixels: the largest multiple up to `MIN_SIDE`.

    Larger images are reduced to `MIN_SIDE`.
    """
    return size * (MIN_SIDE // size) if size < MIN_SIDE else MIN_SIDE


def wrap(text: str, width: int, font: Font) -> list[str]:
    """Lines of at most `width` pixels, broken between words; a word that is too long is cut."""
    lines: list[str] = []
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}".strip()
            if line and font.getlength(longer) > width:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    return [_cut(line, width, font) for line in lines]


def _cut(line: str, width: int, font: Font) -> str:
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(f"{line}…") > width:
        line = line[:-1]
    return f"{line}…"


def _label_height(row: Sequence[Sequence[str]]) -> int:
    return LINE_HEIGHT * max((len(lines) for lines in row), default=0)


def _fit(image: Image.Image, side: int, enlarge: Image.Resampling) -> Image.Image:
    if image.size == (side, side):
        return image
    return image.resize((side, side), Image.Resampling.BOX if image.width > side else enlarge)
