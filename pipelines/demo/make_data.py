"""Make the packaged data set of the demo: `python -m pipelines.demo.make_data`.

A developer's tool, run once for a release. It downloads two packages under the MIT licence with
the `npm` client: images (256 px WebP with alpha) and their words (label, tags, group). The images
get a white background and are shrunk, so that the Parquet file has only a few MB.
"""

import argparse
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

IMAGES = "@lobehub/fluent-emoji-3d@1.1.0"
WORDS = "emojibase-data@17.0.0"
SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),  # the code points
        pa.field("label", pa.string(), nullable=False),
        pa.field("tags", pa.list_(pa.string()), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("image", pa.binary(), nullable=False),  # JPEG
    ]
)


def fetch(package: str, folder: Path) -> Path:
    """Download one package with npm. Returns the folder of its files."""
    command = ["npm", "pack", "--silent", package]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"`{' '.join(command)}` failed: {done.stderr.strip()}. Is npm installed?")
    archive = folder / done.stdout.strip().splitlines()[-1]
    target = folder / archive.stem
    with tarfile.open(archive) as files:
        files.extractall(target, filter="data")
    return target / "package"


def code_points(name: str) -> str:
    """A spelling common to both packages: no leading zeros, no variation selectors."""
    parts = [part.lstrip("0") for part in name.lower().split("-")]
    return "-".join(part for part in parts if part != "fe0f")


def read_words(package: Path) -> dict[str, dict[str, Any]]:
    """Label, tags and group by code points; skin tones and components are left out."""
    entries = json.loads((package / "en" / "data.json").read_text())
    messages = json.loads((package / "en" / "messages.json").read_text())
    groups = {group["order"]: group["message"] for group in messages["groups"]}
    return {
        code_points(entry["hexcode"]): {
            "label": entry["label"],
            "tags": entry.get("tags", []),
            "group": groups[entry["group"]],
        }
        for entry in entries
        if "group" in entry
    }


def on_white(path: Path, side: int, quality: int) -> bytes:
    """The image as a JPEG of `side` x `side` pixels, on white."""
    with Image.open(path) as stored:
        image = stored.convert("RGBA")
    canvas = Image.new("RGBA", image.size, "white")
    canvas.alpha_composite(image)
    encoded = io.BytesIO()
    small = canvas.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
    small.save(encoded, "JPEG", quality=quality, optimize=True)
    return encoded.getvalue()


def make_table(images: Path, words: Path, *, side: int, quality: int) -> pa.Table:
    """One row for each image with words, sorted by key."""
    known = read_words(words)
    paths = sorted((images / "assets").glob("*.webp"))
    rows = [
        {"key": path.stem, **known[code_points(path.stem)], "image": on_white(path, side, quality)}
        for path in paths
        if code_points(path.stem) in known
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def main() -> None:
    """Write emoji.parquet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "data/emoji.parquet")
    parser.add_argument("--side", type=int, default=128, help="side of the images in pixels")
    parser.add_argument("--quality", type=int, default=80, help="JPEG quality")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        images = fetch(IMAGES, Path(folder))
        words = fetch(WORDS, Path(folder))
        table = make_table(images, words, side=arguments.side, quality=arguments.quality)
    # Small row groups, because images are large; no compression, because JPEG is compressed.
    pq.write_table(table, arguments.out, compression="none", row_group_size=256)
    print(f"{arguments.out}: {table.num_rows} rows, {arguments.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
