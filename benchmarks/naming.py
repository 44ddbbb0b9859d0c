"""Sheets to name objects from: what a person sees in the images of 100 captions of each split.

`python -m benchmarks.naming emoji --out DIR` draws one image for each caption with these models (a
name, folder or URL) and writes sheets of 25 images with numbers but no captions, and
`captions.json`. Show the sheets to somebody who has not seen the captions, compare the answers, and
write the numbers of the images that were named to a file such as `{"training": [2, 3], "held_out":
[1]}`: with `--named FILE`, the command writes one sheet for each split with captions and "yes" or
"no" before them.

The captions are names of emoji, such as "a red heart": those of the packaged list's training split
and those that it holds out, a random choice that is the same every time.
"""

import argparse
import hashlib
import json
from pathlib import Path

from pipelines.demo import dataset as demo
from pipelines.emoji.captions import phrase
from pipelines.emoji.dataset import rows
from pipelines.evaluation.grids import Tile, draw_grid, in_rows
from unclip import UnclipPipeline

CAPTIONS, ON_A_SHEET, COLUMNS = 100, 25, 5
SIDE = 128  # of an image on a sheet, in pixels


def captions() -> dict[str, list[str]]:
    """Names of emoji by split."""
    held_out = {row.url for row in rows() if row.split == "held_out"}
    splits: dict[str, list[str]] = {"training": [], "held_out": []}
    for emoji in demo.emoji().to_pylist():
        is_held_out = f"/emoji/{emoji['key']}.jpg" in held_out
        splits["held_out" if is_held_out else "training"].append(phrase(emoji["label"]))
    return {
        split: sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())[:CAPTIONS]
        for split, names in splits.items()
    }


def main() -> None:
    """Draw and write the sheets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", help="the name, folder or URL of models")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--named", type=Path, help="JSON: numbers of named images, by split")
    options = parser.parse_args()
    named = json.loads(options.named.read_text()) if options.named else None
    pipeline = UnclipPipeline.from_pretrained(options.models)
    options.out.mkdir(parents=True, exist_ok=True)
    chosen = captions()
    (options.out / "captions.json").write_text(json.dumps(chosen, indent=1) + "\n")
    for split, names in chosen.items():
        images = pipeline(names, num_images=1, seed=0).images
        if named is not None:
            marks = ["yes" if n in named[split] else "no" for n in range(1, CAPTIONS + 1)]
            labels = [f"{mark}: {name}" for mark, name in zip(marks, names, strict=True)]
            sheet = draw_grid(
                in_rows(list(map(Tile, images, labels)), 2 * COLUMNS), side=3 * SIDE // 4
            )
            sheet.save(options.out / f"{split}.webp", quality=85)
            continue
        tiles = [Tile(image, str(number)) for number, image in enumerate(images, start=1)]
        for start in range(0, CAPTIONS, ON_A_SHEET):
            sheet = draw_grid(in_rows(tiles[start : start + ON_A_SHEET], COLUMNS), side=SIDE)
            sheet.save(options.out / f"{split}-{start + 1:03d}.png")


if __name__ == "__main__":
    main()
