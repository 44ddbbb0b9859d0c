"""The Parquet schema of every artifact. One row is one pair, which keeps its `key` in all stages.

A schema is checked when a shard is written and when it is read (`core.tables.check_schema`).
Embedding columns are fixed-size lists of the CLIP's width, unit-norm, float32 unless stated
otherwise; images stay encoded bytes.
"""

import hashlib
from collections.abc import Mapping, Sequence

import pyarrow as pa

from pipelines.core.tables import Precision

COLUMN_TYPES = {"number": pa.float64(), "text": pa.string()}  # of a list's extra columns


def columns_of(columns: Mapping[str, str]) -> list[pa.Field]:
    """The fields of a list's extra columns, which travel with the row."""
    return [pa.field(name, COLUMN_TYPES[kind]) for name, kind in columns.items()]


def url_list(columns: Mapping[str, str]) -> pa.Schema:
    """What `list` writes: a row of the list."""
    return pa.schema(
        [
            pa.field("url", pa.string(), nullable=False),
            pa.field("caption", pa.string(), nullable=False),
            pa.field("hash", pa.string()),  # of the file behind the URL, if the list has it
            pa.field("held_out", pa.bool_()),  # null if the list does not say
            *columns_of(columns),
        ]
    )


# What `list` writes about each file: the slices that it was cut into.
SLICES = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),  # a digest of its rows
        pa.field("rows", pa.int32(), nullable=False),
    ]
)


def pairs(columns: Mapping[str, str], renditions: Sequence[int]) -> pa.Schema:
    """What `download` writes. renditions: sides in pixels of the smaller versions."""
    image = pa.large_binary()  # a column may hold more than 2 GiB
    return pa.schema(
        [
            pa.field("key", pa.string(), nullable=False),  # pair_key(url, caption)
            pa.field("url", pa.string(), nullable=False),
            pa.field("caption", pa.string(), nullable=False),
            pa.field("image", image, nullable=False),  # RGB JPEG or PNG, resized
            *(pa.field(rendition(size), image, nullable=False) for size in renditions),
            pa.field("width", pa.int32(), nullable=False),  # of `image`, in pixels
            pa.field("height", pa.int32(), nullable=False),
            pa.field("original_width", pa.int32(), nullable=False),  # as downloaded
            pa.field("original_height", pa.int32(), nullable=False),
            pa.field("sha256", pa.string(), nullable=False),  # of the downloaded bytes
            pa.field("phash", pa.uint64(), nullable=False),  # perceptual hash of the image
            pa.field("held_out", pa.bool_()),  # as the list says; null if it does not
            *columns_of(columns),
        ]
    )


def rendition(size: int) -> str:
    """The column of the centre squares of `size` pixels."""
    return f"image_{size}"


# What became of each row of a slice, in the slice's order.
OUTCOMES = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("url", pa.string(), nullable=False),
        pa.field("row", pa.int32()),  # in the shard of pairs; null if the row was rejected
        pa.field("reason", pa.string()),  # null if it was downloaded
        pa.field("detail", pa.string()),
        pa.field("attempts", pa.int32(), nullable=False),  # requests for it; 0 if none was needed
        pa.field("time", pa.timestamp("ms", "UTC"), nullable=False),  # of the last attempt
    ]
)

# What `filter` writes: a verdict on each pair, in the order of the shard of pairs.
VERDICTS = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("reason", pa.string()),  # null if the pair is kept
        pa.field("repeats", pa.string()),  # for duplicates: the key of the pair that is kept
    ]
)

# What `select` writes: a verdict on each embedded pair. Training and evaluation read those without
# a reason.
SELECTION = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),  # in the shard of pairs
        pa.field("position", pa.int32(), nullable=False),  # in the shard of embeddings
        pa.field("held_out", pa.bool_(), nullable=False),
        pa.field("reason", pa.string()),  # null if the pair is selected
        pa.field("repeats", pa.string()),  # for near duplicates: the key of the pair that is kept
    ]
)


# The sums that `pca` computes over each group of shards. W: width of the embeddings.
MOMENTS = pa.schema(
    [
        pa.field("count", pa.int64(), nullable=False),
        pa.field("sum", pa.list_(pa.float64()), nullable=False),  # (W,)
        pa.field("outer", pa.list_(pa.float64()), nullable=False),  # (W * W,)
    ]
)


def embeddings(width: int, precision: Precision = "float32") -> pa.Schema:
    """What `embed` writes: the pairs that the filter kept, in their order.

    precision: of the two embeddings; the other numbers are float32.
    """
    vector = pa.list_(pa.type_for_alias(precision), width)
    return pa.schema(
        [
            pa.field("key", pa.string(), nullable=False),
            pa.field("row", pa.int32(), nullable=False),  # in the shard of pairs
            pa.field("image_embeds", vector, nullable=False),
            pa.field("text_embeds", vector, nullable=False),
            pa.field("image_norm", pa.float32(), nullable=False),  # of z_i before normalization
            pa.field("similarity", pa.float32(), nullable=False),  # cosine of the two
        ]
    )


def pca_basis(width: int) -> pa.Schema:
    """What `pca` writes: one row per component, largest eigenvalue first, all with one `mean`."""
    vector = pa.list_(pa.float32(), width)
    return pa.schema(
        [
            pa.field("component", vector, nullable=False),
            pa.field("eigenvalue", pa.float32(), nullable=False),
            pa.field("mean", vector, nullable=False),
        ]
    )


def pair_key(url: str, caption: str) -> str:
    """The key of a pair: 20 hex digits that depend only on its URL and caption."""
    return hashlib.sha256(f"{url}\0{caption}".encode()).hexdigest()[:20]


def is_held_out(given: bool | None, sha256: str, fraction: float) -> bool:
    """Whether a pair belongs to the held-out split.

    If the list does not say, the downloaded bytes decide, so that an image with several captions
    is in one split only.
    """
    return int(sha256[-8:], 16) < fraction * 2**32 if given is None else given


PIXEL_STATISTICS = ("roughness", "colourfulness")
THUMBNAIL_SIDE = 16  # pixels; enough to compare colours and coarse shapes


def predicted_by(prior: str) -> str:
    """The column of samples with the predictions of a prior that did not draw the images."""
    return f"{prior}_predicted_image_embeds"


def features_of(image: str, judge: str) -> str:
    """The column with a judge's features of the images in another column."""
    return f"{image}_{judge}_features"


def reference(width: int, judges: Sequence[str]) -> pa.Schema:
    """What `evaluate` writes of real training images, to compare the samples with."""
    return pa.schema(
        [
            pa.field("key", pa.string(), nullable=False),
            pa.field("image_embeds", pa.list_(pa.float32(), width), nullable=False),
            *(pa.field(features_of("original", n), pa.list_(pa.float32())) for n in judges),
        ]
    )


def samples(
    width: int, other_priors: Sequence[str], judges: Sequence[str], judged: Sequence[str]
) -> pa.Schema:
    """What `evaluate` writes: one row for each caption, with its images (PNG) and embeddings.

    other_priors: the names of all priors but the first, which drew the images. judges: their names.
    judged: the columns of images of which judges give features. The columns of
    probes are null in rows that are not probes. Thumbnails are raw RGB bytes of `THUMBNAIL_SIDE`
    squared pixels.
    """
    vector = pa.list_(pa.float32(), width)
    probe_vector = pa.list_(pa.float32())  # Parquet cannot store a null of a fixed size
    predictions = ["predicted_image_embeds", *map(predicted_by, other_priors)]
    return pa.schema(
        [
            pa.field("key", pa.string(), nullable=False),
            pa.field("caption", pa.string(), nullable=False),
            pa.field("held_out", pa.bool_(), nullable=False),
            pa.field("original", pa.binary(), nullable=False),  # at the cascade's final size
            pa.field("generated", pa.binary(), nullable=False),  # final size
            pa.field("generated_small", pa.binary(), nullable=False),  # by the decoder
            # By all upsamplers but the last, in their order.
            pa.field("generated_middle", pa.list_(pa.binary()), nullable=False),
            pa.field("untrained", pa.binary(), nullable=False),  # by random weights, final size
            pa.field("from_true_embedding", pa.binary()),  # probes only, like the next two
            pa.field("from_shuffled_embedding", pa.binary()),
            pa.field("variations", pa.list_(pa.binary())),
            pa.field("image_embeds", vector, nullable=False),  # of the original
            pa.field("image_norm", pa.float32(), nullable=False),  # before scaling to unit norm
            pa.field("text_embeds", vector, nullable=False),
            *(pa.field(name, vector, nullable=False) for name in predictions),
            pa.field("generated_embeds", vector, nullable=False),
            pa.field("untrained_embeds", vector, nullable=False),
            pa.field("from_true_embedding_embeds", probe_vector),
            pa.field("from_shuffled_embedding_embeds", probe_vector),
            pa.field("variation_embeds", pa.list_(probe_vector)),
            *(
                pa.field(f"{image}_{statistic}", pa.float32(), nullable=False)
                for image in ("original", "generated", "untrained")
                for statistic in PIXEL_STATISTICS
            ),
            pa.field("original_thumbnail", pa.binary(), nullable=False),
            pa.field("generated_thumbnail", pa.binary(), nullable=False),
            pa.field("from_true_embedding_thumbnail", pa.binary()),
            pa.field("from_shuffled_embedding_thumbnail", pa.binary()),
            *(
                pa.field(features_of(image, judge), pa.list_(pa.float32()))
                for judge in judges
                for image in judged
            ),
        ]
    )
