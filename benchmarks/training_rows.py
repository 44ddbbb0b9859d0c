"""The rows of a finished run, in the forms that the contestants of `benchmarks.trainers` read.

A folder has, besides shards with wider embeddings, the files of the other libraries:

    pictures/0000.png ..., image_embeds.npy, text_embeds.npy, captions.json   for a DataLoader
    tars/00000.tar: 00000000.jpg and .txt, embeds/img_emb_00000.npy           for the decoder
    prior/embeds/img_emb_0.npy, prior/metadata/metadata_0.parquet             for the prior
"""

# N rows, D stored width of embeddings, E width that the models take, B batch, L tokens

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from benchmarks.contest import VOCABULARY
from benchmarks.sizes import Sizes
from pipelines.core.folder import Folder
from pipelines.core.shard_writer import ShardWriter
from pipelines.core.tables import read_table, to_column, to_numpy
from pipelines.data.shard_reader import RowReader, ShardFiles

EMBEDS = ("image_embeds", "text_embeds")

Tick = Callable[[], None]  # what a training calls before each forward pass


@dataclass(frozen=True)
class Case:
    """A model to train, and its data."""

    model: str
    sizes: Sizes
    folder: Path  # of `write_files`, and for checkpoints
    shards: tuple[ShardFiles, ...]
    steps: int
    save_at: int  # the number of steps after which a checkpoint is saved
    padded: bool  # whether short captions are padded; else padding counts as words


def word_ids(tokens: Tensor, case: Case) -> Tensor:
    """Token ids (B, L) of CLIP's vocabulary as ids of the benchmark's; 0 is padding."""
    words = tokens % (VOCABULARY - 1) + 1
    return words.where(tokens != 0, 0) if case.padded else words


class TextTower:
    """In place of CLIP's frozen text tower, which takes no time here: looks words up."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.table = torch.randn(VOCABULARY, case.sizes.embed_dim)
        self.table[0] = 0.0  # padding

    def __call__(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """tokens: (B, L) of CLIP's vocabulary. Returns ids (B, L) and hidden states (B, L, E)."""
        ids = word_ids(tokens, self.case)
        return ids, self.table[ids]


def wide_embeddings(
    shards: Sequence[ShardFiles], width: int, folder: Path
) -> tuple[ShardFiles, ...]:
    """The same shards with embeddings of `width`: the stored ones repeated, of unit norm."""
    wider = []
    for files in shards:
        assert files.embeddings is not None
        table = read_table(files.embeddings)
        for name in EMBEDS:
            stored = to_numpy(table[name])
            repeats = width // stored.shape[1]
            column = to_column(np.tile(stored, repeats) / np.float32(repeats**0.5))
            table = table.set_column(table.schema.get_field_index(name), name, column)
        with ShardWriter(Folder(str(folder)), files.name, table.schema) as out:
            out.write(table)
            out.finish({})
        wider.append(replace(files, embeddings=str(folder / f"{files.name}.parquet")))
    return tuple(wider)


def write_files(shards: Sequence[ShardFiles], folder: Path) -> None:
    """Write every row that is trained on."""
    reader = RowReader(("keys", "tokens", "pixels", *EMBEDS), image_size=1)
    images: list[bytes] = []
    captions: list[str] = []
    embeds: dict[str, list[np.ndarray]] = {name: [] for name in EMBEDS}
    for name in ("pictures", "tars", "embeds", "prior/embeds", "prior/metadata"):
        (folder / name).mkdir(parents=True)
    for shard, files in enumerate(shards):
        rows = reader.read(files, np.arange(files.rows))
        own = rows.pairs["image"].to_pylist()
        _write_tar(folder, shard, own, rows.captions, rows.embeds["image_embeds"])
        images += own
        captions += rows.captions
        for name in EMBEDS:
            embeds[name].append(rows.embeds[name])
    for row, image in enumerate(images):
        (folder / "pictures" / f"{row:06d}.png").write_bytes(image)
    (folder / "captions.json").write_text(json.dumps(captions))
    for name in EMBEDS:
        np.save(folder / f"{name}.npy", np.concatenate(embeds[name]))
    np.save(folder / "prior/embeds/img_emb_0.npy", np.concatenate(embeds["image_embeds"]))
    metadata = pa.table({"caption": captions})
    pq.write_table(metadata, folder / "prior/metadata/metadata_0.parquet")


def _write_tar(
    folder: Path, shard: int, images: Sequence[bytes], captions: Sequence[str], embeds: np.ndarray
) -> None:
    """A tar as img2dataset writes it, with embeddings beside it."""
    np.save(folder / f"embeds/img_emb_{shard:05d}.npy", embeds)
    with tarfile.open(folder / f"tars/{shard:05d}.tar", "w") as tar:
        for row, (image, caption) in enumerate(zip(images, captions, strict=True)):
            for suffix, content in (("jpg", image), ("txt", caption.encode())):
                member = tarfile.TarInfo(f"{shard:05d}{row:04d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
