"""Encode images and captions with the frozen CLIP."""

from dataclasses import dataclass
from typing import ClassVar

from pipelines.artifacts import ClipWeights, EmbeddingShards, PairShards
from pipelines.artifacts.schema import embeddings
from pipelines.core.stage import Artifact, Context, Stage
from pipelines.core.tables import Precision
from pipelines.embeddings.rows import PairRows
from unclip.config import Config, ConfigError, not_in_key


@dataclass(frozen=True, kw_only=True)
class EmbedConfig(Config):
    """How pairs go through the CLIP."""

    tag: ClassVar[str] = "embed"

    batch_size: int = not_in_key()  # pairs that go through the CLIP at once, at most
    decode_workers: int = not_in_key(0)  # processes that decode images per worker; 0: one thread
    dtype: Precision = "float32"  # of stored embeddings; float16 halves them

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"batch_size={self.batch_size} must be at least 1")
        if self.decode_workers < 0:
            raise ConfigError(
                f"decode_workers={self.decode_workers} must be at least 0; 0 decodes in a thread"
            )


@dataclass(frozen=True)
class Embed(Stage[EmbeddingShards]):
    """CLIP embeddings of every pair, in shards with the same names and row order as the pairs."""

    kind: ClassVar[str] = "embed"
    version: ClassVar[int] = 2  # 2: with image_norm
    artifact: ClassVar[type[Artifact]] = EmbeddingShards

    pairs: Stage[PairShards]
    clip: Stage[ClipWeights]
    config: EmbedConfig

    def run(self, ctx: Context) -> EmbeddingShards:
        """Encode shard by shard."""
        from pipelines.embeddings.encode import EmbedWorker  # open_clip takes seconds to import

        pairs, clip, config = ctx.load(self.pairs), ctx.load(self.clip), self.config
        items = {name: PairRows(pairs.folder.file(f"{name}.parquet")) for name in pairs.rows}
        worker = EmbedWorker(clip, config.batch_size, config.decode_workers, config.dtype)
        schema = embeddings(clip.width, config.dtype)
        metadata = ctx.map_shards(worker, items, schema=schema, unit="shards")
        total = sum(shard["rows"] for shard in metadata.values())
        similarity = sum(shard["similarity_sum"] for shard in metadata.values())
        return EmbeddingShards(
            ctx.folder,
            rows={name: shard["rows"] for name, shard in metadata.items()},
            counts={"embedded": total, "mean_similarity": similarity / max(total, 1)},
            width=clip.width,
            clip_name=clip.name,
            clip_digest=clip.digest,
        )
