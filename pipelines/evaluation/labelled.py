"""Rows of pictures with a label below each, as one picture that people can read."""

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

LEAST_SIDE = 128  # pixels; smaller pictures are enlarged for a person to see
GAP = 8  # pixels around every picture
FONT_SIZE = 13
INK = "#222222"


class Tile(NamedTuple):
    """A square picture and the words below it."""

    picture: Image.Image
    label: str


def labelled_grid(rows: Sequence[Sequence[Tile]]) -> Image.Image:
    """All rows, one below the other; labels are wrapped to the width of their picture."""
    side = max(LEAST_SIDE, *(tile.picture.width for row in rows for tile in row))
    font = ImageFont.load_default(FONT_SIZE)
    labels = [[wrap(tile.label, side, font) for tile in row] for row in rows]
    line = FONT_SIZE + 3
    heights = [side + line * max(len(lines) for lines in row) + 2 * GAP for row in labels]
    width = max(len(row) for row in rows) * (side + GAP) + GAP
    canvas = Image.new("RGB", (width, sum(heights)), "white")
    draw = ImageDraw.Draw(canvas)
    top = GAP
    for row, lines, height in zip(rows, labels, heights, strict=True):
        for place, (tile, words) in enumerate(zip(row, lines, strict=True)):
            left = GAP + place * (side + GAP)
            canvas.paste(_scaled(tile.picture, side), (left, top))
            draw.rectangle((left - 1, top - 1, left + side, top + side), outline="#dddddd")
            text = "\n".join(words)
            draw.multiline_text((left, top + side + 3), text, INK, font, spacing=2)
        top += height
    return canvas


def in_rows(tiles: Sequence[Tile], columns: int = 8) -> list[Sequence[Tile]]:
    """Tiles in rows of at most `columns`."""
    return [tiles[start : start + columns] for start in range(0, len(tiles), columns)]


def wrap(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """Lines of at most `width` pixels, broken between words; a longer word is cut short."""
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


def _cut(line: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(f"{line}…") > width:
        line = line[:-1]
    return f"{line}…"


def _scaled(picture: Image.Image, side: int) -> Image.Image:
    if picture.size == (side, side):
        return picture
    return picture.resize((side, side), Image.Resampling.BICUBIC)
