"""Embedding of a pairs shard against a bare loop over the CLIP, and against clip-retrieval.

`python -m benchmarks.embedding PICTURES --against clip-retrieval` makes a shard of the pictures in
a folder (captions from `<name>.txt`, else the name), and prints the rows of a table. All
contestants have the same model with random weights, and take turns on one thread.
"""

import argparse
import io
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from benchmarks.timing import Run, machine, median, race, ratio
from pipelines.artifacts import ClipWeights
from pipelines.artifacts.schema import embeddings, pair_key, pairs
from pipelines.core.folder import Folder
from pipelines.core.shards import make_shard
from pipelines.embeddings.encode import EmbedWorker
from pipelines.embeddings.rows import PairRows
from unclip.clip.config import ClipArchitecture, ClipConfig
from unclip.clip.frozen import CPU_PIXEL_BYTES, FrozenClip
from unclip.clip.training import build_clip

CPU = torch.device("cpu")
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
GROUP_ROWS = 64
TINY = ClipArchitecture(
    embed_dim=16,
    image_size=32,
    patch_size=8,
    vision_width=32,
    vision_layers=1,
    vision_heads=2,
    text_context_length=77,
    text_width=32,
    text_layers=1,
    text_heads=2,
    init_temperature=0.07,
)


@dataclass(frozen=True)
class Given:
    """What every contestant gets."""

    clip: FrozenClip
    weights: Path  # the state dict
    folder: Path  # scratch
    shard: Path  # the pairs
    batch_size: int

    def pairs(self) -> pa.Table:
        """The pairs as `download` stores them."""
        return pq.read_table(self.shard)


def ours(given: Given) -> Run:
    """From the pairs shard to the embeddings shard, as the stage does it."""
    clip, folder = given.clip, Folder(str(given.folder / "clip"))
    clip.save(given.folder / "clip")
    weights = ClipWeights(
        folder, clip.name, clip.digest, clip.width, clip.image_size, clip.context_length
    )
    worker = EmbedWorker(weights, given.batch_size)

    def run() -> None:
        item = PairRows(str(given.shard))
        make_shard(worker, item, Folder(str(given.folder)), "embeddings", embeddings(clip.width))

    return run


def bare_loop(given: Given, encode_texts: Callable[[torch.Tensor], object]) -> Run:
    """Only the model, over images and captions that are ready in memory."""
    clip, pairs = given.clip, given.pairs()
    images = [Image.open(io.BytesIO(image)) for image in pairs["image"].to_pylist()]
    pixels = clip.preprocess(images)
    tokens = clip.tokenize(pairs["caption"].to_pylist())
    at_once = max(CPU_PIXEL_BYTES // pixels[0].nbytes, 1)  # as many as in ours

    @torch.inference_mode()
    def run() -> None:
        for part in torch.split(pixels, at_once):
            clip.model.encode_image(part)  # type: ignore[operator]
        for part in torch.split(tokens, given.batch_size):
            encode_texts(part)

    return run


def contestants(given: Given, against: Sequence[str]) -> dict[str, Run]:
    """Name → run; the first is ours, the second the bare loop."""
    runs = {
        "unclip": ours(given),
        "bare loop": bare_loop(given, given.clip.encode_texts),
        "bare loop, padded captions": bare_loop(given, given.clip.model.encode_text),  # type: ignore[arg-type]
    }
    if "clip-retrieval" in against:
        from benchmarks.with_clip_retrieval import inference

        runs["clip-retrieval"] = inference(
            given.pairs(), given.weights, given.folder, batch_size=given.batch_size
        )
    return runs


def write_shard(pictures: Path, path: Path, *, rows: int, side: int) -> None:
    """A pairs shard of the first pictures, repeated if there are fewer, of `side` pixels."""
    files = sorted(file for file in pictures.iterdir() if file.suffix.lower() in SUFFIXES)
    if not files:
        raise SystemExit(f"{pictures} holds no pictures; give a folder of JPEG or PNG files")
    table = pa.Table.from_pylist(list(islice(_pairs(files, side), rows)), schema=pairs({}, ()))
    pq.write_table(table, path, row_group_size=GROUP_ROWS)


def _pairs(files: Sequence[Path], side: int) -> Iterator[dict[str, object]]:
    for number, file in enumerate(cycle(files)):
        text = file.with_suffix(".txt")
        caption = text.read_text().strip() if text.exists() else file.stem
        image = io.BytesIO()
        Image.open(file).convert("RGB").resize((side, side)).save(image, "JPEG", quality=95)
        sizes = dict.fromkeys(("width", "height", "original_width", "original_height"), side)
        url = f"http://example.invalid/{number}/{file.name}"
        key = pair_key(url, caption)
        texts = {"key": key, "url": url, "caption": caption, "sha256": "", "phash": 0}
        yield {**texts, **sizes, "image": image.getvalue()}


def random_clip(model: str, folder: Path) -> tuple[FrozenClip, Path]:
    """A CLIP with random weights, and its state dict in a file."""
    path = folder / "weights.pt"
    if model == "tiny":
        network = build_clip(TINY)
        torch.save(network.state_dict(), path)
        return FrozenClip.from_trained(network, TINY, name=model, device=CPU), path
    torch.save(open_clip.create_model(model).state_dict(), path)
    config = ClipConfig(model=model, pretrained=str(path))
    return FrozenClip.from_config(config, device=CPU), path


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table of the contestants: milliseconds per pair, and their time over ours."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--model", default="ViT-B-32", help="a name of open_clip, or tiny")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--side", type=int, default=256, help="of the stored images, in pixels")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", nargs="*", default=[], choices=["clip-retrieval"])
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        shard = folder / "pairs.parquet"
        write_shard(options.pictures, shard, rows=options.rows, side=options.side)
        clip, weights = random_clip(options.model, folder)
        given = Given(clip, weights, folder, shard, options.batch_size)
        runs = contestants(given, options.against)
        times = race(list(runs.values()), rounds=options.rounds)
    sys.stdout.write(
        f"{machine(CPU)}, {options.model}, {options.rows} pairs of {options.side} px\n"
    )
    for name, own in zip(runs, times, strict=True):
        each = [1000 * seconds / options.rows for seconds in median(own)]
        over = ratio(own, times[0])
        row = (
            f"| {name} | {each[0]:.2f} ms | {each[1]:.2f} ms | **{over.cpu:.3f}** ({over.wall:.2f})"
        )
        sys.stdout.write(f"{row} |\n")


if __name__ == "__main__":
    main()
