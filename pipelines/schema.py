"""The Parquet schema of every artifact. One row is one pair; `key` never changes on its way.

A schema is checked when a shard is written and when it is read (`core.tables.check_schema`).
Embedding columns are fixed-size float32 lists of the CLIP's width, unit-norm; images stay encoded
bytes.
"""

import hashlib

import pyarrow as pa

# What `download` and `filter` write.
PAIRS = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),  # pair_key(url, caption)
        pa.field("url", pa.string(), nullable=False),
        pa.field("caption", pa.string(), nullable=False),
        pa.field("image", pa.binary(), nullable=False),  # RGB JPEG or PNG, resized
        pa.field("width", pa.int32(), nullable=False),  # of `image`, in pixels
        pa.field("height", pa.int32(), nullable=False),
        pa.field("original_width", pa.int32(), nullable=False),  # as downloaded
        pa.field("original_height", pa.int32(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),  # of the downloaded bytes
    ]
)

# What `select` writes: the rows that training and evaluation read, by position in the pairs shard.
SELECTION = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),  # in the pairs and the embeddings shard
        pa.field("held_out", pa.bool_(), nullable=False),
    ]
)


def embeddings(width: int) -> pa.Schema:
    """What `embed` writes, row-aligned with the pairs shard of the same name."""
    vector = pa.list_(pa.float32(), width)
    return pa.schema(
        [
            pa.field("key", pa.string(), nullable=False),
            pa.field("image_embeds", vector, nullable=False),
            pa.field("text_embeds", vector, nullable=False),
            pa.field("similarity", pa.float32(), nullable=False),  # cosine of the two
        ]
    )


def pca_basis(width: int) -> pa.Schema:
    """What `pca` writes: one row a component, by falling eigenvalue; `mean` repeats."""
    vector = pa.list_(pa.float32(), width)
    return pa.schema(
        [
            pa.field("component", vector, nullable=False),
            pa.field("eigenvalue", pa.float32(), nullable=False),
            pa.field("mean", vector, nullable=False),
        ]
    )


def pair_key(url: str, caption: str) -> str:
    """The key of a pair: 20 hex digits that follow from its address and caption alone."""
    return hashlib.sha256(f"{url}\0{caption}".encode()).hexdigest()[:20]


def is_held_out(key: str, fraction: float) -> bool:
    """Whether the pair belongs to the held-out split: follows from the key alone."""
    return int(key[-8:], 16) < fraction * 2**32
