"""Make the packaged drawings of three emoji families: `python -m pipelines.emoji.make_data`.

A developer's tool, run once for a release. It downloads the families' SVG files with the `npm`
client, and draws those code points that the demo has. It needs the package `resvg-py`.
"""

import argparse
import io
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipelines.demo.dataset import emoji
from pipelines.demo.make_data import code_points, fetch

FLUENT_FLAT = "@lobehub/fluent-emoji-flat@1.1.0"  # MIT
NOTO = "@iconify-json/noto@1.2.9"  # Apache 2.0
TWEMOJI = "@twemoji/svg@15.0.0"  # CC BY 4.0
SIDE = 64  # pixels
DRAWN_SIDE = 256  # pixels, averaged down to SIDE
SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),  # as in the demo's data
        pa.field("family", pa.string(), nullable=False),
        pa.field("image", pa.binary(), nullable=False),  # WebP
    ]
)


def read_folder(folder: Path) -> dict[str, str]:
    """The SVG files of a folder by code points."""
    return {code_points(path.stem): path.read_text() for path in folder.glob("*.svg")}


def read_iconify(package: Path) -> dict[str, str]:
    """The icons of an Iconify package as SVG, by code points."""
    icons = json.loads((package / "icons.json").read_text())
    names: Mapping[str, str] = json.loads((package / "chars.json").read_text())
    found = {code_points(chars): _svg(icons, name) for chars, name in names.items()}
    return {key: svg for key, svg in found.items() if svg}


def _svg(icons: dict[str, Any], name: str) -> str:
    alias = icons["aliases"].get(name)
    if alias is not None:
        return _svg(icons, alias["parent"])
    icon = icons["icons"].get(name)
    if icon is None:
        return ""
    width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
    )


def draw(svg: str) -> bytes:
    """An SVG as a lossless WebP of `SIDE` pixels, centred on white."""
    import resvg_py  # type: ignore[import-not-found]

    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=DRAWN_SIDE, height=DRAWN_SIDE))
    drawn = Image.open(io.BytesIO(png)).convert("RGBA")
    canvas = Image.new("RGBA", (DRAWN_SIDE, DRAWN_SIDE), "white")
    margins = ((DRAWN_SIDE - drawn.width) // 2, (DRAWN_SIDE - drawn.height) // 2)
    canvas.alpha_composite(drawn, margins)
    encoded = io.BytesIO()
    small = canvas.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
    small.save(encoded, "WEBP", lossless=True)
    return encoded.getvalue()


def make_rows(families: Mapping[str, Mapping[str, str]]) -> Iterator[dict[str, Any]]:
    """One row for each emoji of the demo that a family has."""
    for family, drawings in families.items():
        for key in sorted(emoji()["key"].to_pylist()):
            svg = drawings.get(code_points(key))
            if svg:
                yield {"key": key, "family": family, "image": draw(svg)}


def main() -> None:
    """Write families.parquet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "data/families.parquet")
    out: Path = parser.parse_args().out
    with tempfile.TemporaryDirectory() as scratch:
        folders = {name: Path(scratch) / name for name in ("flat", "noto", "twemoji")}
        for folder in folders.values():
            folder.mkdir()
        families = {
            "fluent_flat": read_folder(fetch(FLUENT_FLAT, folders["flat"]) / "assets"),
            "noto": read_iconify(fetch(NOTO, folders["noto"])),
            "twemoji": read_folder(fetch(TWEMOJI, folders["twemoji"])),
        }
        table = pa.Table.from_pylist(list(make_rows(families)), schema=SCHEMA)
    # Small row groups, because images are large; no compression, because WebP is compressed.
    pq.write_table(table, out, compression="none", row_group_size=256)
    print(f"{out}: {table.num_rows} rows, {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
