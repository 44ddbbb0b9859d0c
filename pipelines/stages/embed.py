"""Encode images and captions with the frozen CLIP."""

from dataclasses import dataclass
from typing import ClassVar

from pipelines.artifacts import ClipWeights, EmbeddingShards, PairShards, VerdictShards
from pipelines.artifacts.schema import embeddings
from pipelines.core.stage import Artifact, Context, Stage, entries
from pipelines.core.tables import Precision
from pipelines.embeddings.rows import PairRows
from pipelines.stages.counts import check_books, total_counts
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
    """CLIP embeddings of every pair that the filter kept, in shards with the pairs' names."""

    kind: ClassVar[str] = "embed"
    version: ClassVar[int] = 3  # 3: with the row of the pair
    artifact: ClassVar[type[Artifact]] = EmbeddingShards

    pairs: Stage[PairShards]
    verdicts: Stage[VerdictShards]
    clip: Stage[ClipWeights]
    config: EmbedConfig

    def run(self, ctx: Context) -> EmbeddingShards:
        """Encode shard by shard; a shard whose kept pairs did not change is not encoded again."""
        from pipelines.embeddings.encode import EmbedWorker  # open_clip takes seconds to import

        pairs, verdicts, clip = ctx.load(self.pairs), ctx.load(self.verdicts), ctx.load(self.clip)
        config = self.config
        records = ctx.map_shards(
            EmbedWorker(clip, config.batch_size, config.decode_workers, config.dtype),
            {name: PairRows(pairs.url(name), verdicts.url(name)) for name in pairs.shards},
            schema=embeddings(clip.width, config.dtype),
            unit="shards",
            made_from={
                name: [entry.digest, verdicts.kept_digests[name], clip.digest]
                for name, entry in pairs.shards.items()
            },
        )
        counts = total_counts(record.metadata for record in records.values())
        total = sum(record.rows for record in records.values())
        similarity = sum(record.metadata["similarity_sum"] for record in records.values())
        check_books(self.name, verdicts.counts["kept"], total, {})
        return EmbeddingShards(
            ctx.folder,
            entries(records),
            counts={**counts, "embedded": total, "mean_similarity": similarity / max(total, 1)},
            width=clip.width,
            clip_name=clip.name,
            clip_digest=clip.digest,
            dtype=config.dtype,
        )
