"""For each of the first samples, the training image that is most like it: a copy shows at once."""

# Q samples, N embeddings of a batch, E their width, K candidates

import logging
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor

from pipelines.core.folder import Folder
from pipelines.data.pixels import decode_pixels
from pipelines.data.shard_reader import training_embeds
from pipelines.evaluation.images import decode_png, encode_png
from pipelines.evaluation.inputs import Sources
from pipelines.evaluation.rows import Row, Values, read_rows
from pipelines.evaluation.samples import first_samples
from unclip.judges import JudgeConfig
from unclip.judges.judge import Judge

log = logging.getLogger(__name__)

NEAREST_FILE = "nearest.parquet"
NEAREST = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),  # of the sample
        pa.field("nearest_key", pa.string(), nullable=False),  # of the training pair
        pa.field("nearest_caption", pa.string(), nullable=False),
        pa.field("nearest", pa.binary(), nullable=False),  # PNG of the sample's size
    ]
)
LIMIT = 24  # samples of each split
CANDIDATES = 64  # training images that are compared with a sample


def write_nearest(folder: Folder, names: Sequence[str], sources: Sources) -> None:
    """Write `NEAREST_FILE` for the first samples in the shards of these names.

    The candidates are the training images whose CLIP embeddings are nearest to the sample's. Of
    these, the nearest by the judge `gradients` is taken: it sees outlines and colours, as an eye
    does that looks for a copy, and had no part in training.
    """
    from unclip.judges.networks import load_judge  # timm takes seconds to import

    found = first_samples(folder, names, ["generated", "generated_embeds"], LIMIT)
    samples = [row for rows in found.values() for row in rows]
    queries = torch.tensor(
        np.array([row["generated_embeds"] for row in samples], np.float32)
    )  # (Q, E)
    candidates = nearest_embeddings(sources, queries)
    every = list({row for rows in candidates for row in rows})
    pairs = read_rows(sources.pairs, every, ("key", "caption", "image"), "row")
    judge = load_judge(JudgeConfig(kind="gradients"), torch.device("cpu"))
    rows = [
        _row(sample, [pairs[row.key] for row in near], judge)
        for sample, near in zip(samples, candidates, strict=True)
    ]
    folder.write_table(NEAREST_FILE, pa.Table.from_pylist(rows, schema=NEAREST))
    log.info("Compared %d samples with %d training images", len(samples), len(every))


def nearest_embeddings(sources: Sources, queries: Tensor) -> list[list[Row]]:
    """For each of (Q, E) unit-norm embeddings, at most K training rows, the nearest first.

    Reads the embeddings batch by batch.
    """
    best = torch.empty(len(queries), 0)  # (Q, K) cosines
    rows: list[list[Row]] = [[] for _ in queries]
    for batch, embeds in _training_rows(sources):
        cosines = torch.cat([best, queries @ embeds.T], dim=1)  # (Q, K + N)
        best, chosen = cosines.topk(min(CANDIDATES, cosines.shape[1]), dim=1)
        rows = [
            [(*kept, *batch)[i] for i in indices]
            for kept, indices in zip(rows, chosen.tolist(), strict=True)
        ]
    return rows


def _training_rows(sources: Sources) -> Iterator[tuple[list[Row], Tensor]]:
    """The rows to train on, with their embeddings (N, E), in the order of the shards."""
    for name in sorted(name for name, count in sources.selection.training.items() if count):
        shard = training_embeds(sources.embeddings.url(name), sources.selection.url(name))
        for selected, embeds in shard:
            rows = [
                Row(row["key"], False, name, row["row"], row["position"])
                for row in selected.to_pylist()
            ]
            yield rows, torch.tensor(embeds, dtype=torch.float32)


def _row(sample: Values, candidates: Sequence[Values], judge: Judge) -> Values:
    """The sample's key, and the candidate that is most like its image."""
    generated = decode_png(sample["generated"])
    images = [Image.fromarray(decode_pixels(pair["image"], generated.width)) for pair in candidates]
    of_sample, *features = judge.features([generated, *images])
    nearest = min(range(len(images)), key=lambda i: float((features[i] - of_sample).norm()))
    return {
        "key": sample["key"],
        "nearest_key": candidates[nearest]["key"],
        "nearest_caption": candidates[nearest]["caption"],
        "nearest": encode_png(images[nearest]),
    }
