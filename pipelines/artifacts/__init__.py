"""The artifacts that stages pass to each other: typed, and small enough for a manifest."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import pyarrow as pa

from pipelines.artifacts.schema import SELECTION, VERDICTS, embeddings, pairs, url_list
from pipelines.core.folder import Folder
from pipelines.core.stage import Artifact, Shards
from pipelines.core.tables import Precision

OUTCOMES_NAME = "outcomes"  # of the table beside each shard of pairs
OUTCOMES_FILE = f".{OUTCOMES_NAME}.parquet"  # the end of its file's name
BASIS_FILE = "basis.parquet"  # of the principal components
MODEL_FILE = "model.safetensors"  # of every trained model of the cascade
HISTORY_FILE = "history.json"  # the values that a training logged
TRAINING_FILE = "training.json"  # the figures of a `TrainedModel`
SAMPLE_FILE = "samples/step-{:08d}.png"  # what a model draws after this step of its training
INTERPOLATION_FILE = "interpolation.png"  # of the evaluation
STUDY_FILE = "study.json"  # records of the variants, and of the scenes
REPORT_FILE = "report.html"
PROGRESS_FILE = "decoder-progress.png"  # beside the report


@dataclass(frozen=True)
class ListShards(Shards):
    """The list of URLs, cut into slices; the name of a slice is a digest of its rows."""

    columns: Mapping[str, str]  # extra columns: name → "number" or "text"

    def schema(self) -> pa.Schema:
        """The schema that every slice has."""
        return url_list(self.columns)


@dataclass(frozen=True)
class PairShards(Shards):
    """Image-text pairs, a shard for each slice; `counts` holds what was rejected, by reason.

    Beside each shard is a table of the outcomes of the slice's rows (`schema.OUTCOMES`).
    """

    columns: Mapping[str, str] = field(default_factory=dict)  # as in the list
    renditions: tuple[int, ...] = ()  # sides in pixels, ascending

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "renditions", tuple(self.renditions))

    def schema(self) -> pa.Schema:
        """The schema that every shard has."""
        return pairs(self.columns, self.renditions)

    def outcomes_url(self, name: str) -> str:
        """The URL of the outcomes of a slice."""
        return self.url(name).removesuffix(".parquet") + OUTCOMES_FILE


@dataclass(frozen=True)
class VerdictShards(Shards):
    """The filter's verdicts on the pairs, row-aligned with them."""

    kept_digests: Mapping[str, str]  # by shard, of which pairs are kept

    def schema(self) -> pa.Schema:
        """The schema that every shard has."""
        return VERDICTS


@dataclass(frozen=True)
class ClipWeights(Artifact):
    """A frozen CLIP: the files in this folder that `unclip.clip.frozen.FrozenClip.load` reads."""

    name: str  # architecture and source of the weights
    digest: str  # of architecture and weights
    width: int  # of the embeddings
    image_size: int
    context_length: int


@dataclass(frozen=True)
class EmbeddingShards(Shards):
    """CLIP embeddings (`schema.embeddings(width)`) of the pairs that the filter kept."""

    width: int
    clip_name: str
    clip_digest: str
    dtype: Precision = "float32"

    def schema(self) -> pa.Schema:
        """The schema that every shard has."""
        return embeddings(self.width, self.dtype)


@dataclass(frozen=True)
class SelectionShards(Shards):
    """Verdicts on the embedded pairs (`schema.SELECTION`)."""

    training: Mapping[str, int]  # selected pairs of each shard that are not held out
    held_out: Mapping[str, int]  # selected pairs of each shard that are

    @property
    def training_rows(self) -> int:
        """Pairs to train on."""
        return sum(self.training.values())

    @property
    def held_out_rows(self) -> int:
        """Pairs to evaluate on."""
        return sum(self.held_out.values())

    def schema(self) -> pa.Schema:
        """The schema that every shard has."""
        return SELECTION


@dataclass(frozen=True)
class PcaBasisFile(Artifact):
    """`BASIS_FILE` (`schema.pca_basis(width)`)."""

    width: int
    explained: float  # share of the variance that `dimensions` components keep
    dimensions: int


@dataclass(frozen=True)
class TrainedModel(Artifact):
    """`model.safetensors`: the averaged weights, with their config inside."""

    parameters: int
    steps: int
    final_loss: float | None  # None if no step was taken
    model: str = ""  # the tag of its config
    steps_per_s: float | None = None  # None if no step was taken, or in an earlier version
    peak_bytes: int | None = None  # of the first worker: allocated on its GPU, or resident

    @classmethod
    def read(cls, folder: Folder, model: str) -> Self:
        """What a training wrote about itself in `TRAINING_FILE`; model: the tag of the config."""
        summary = folder.read_json(TRAINING_FILE)
        return cls(
            folder,
            parameters=summary["parameters"],
            steps=summary["steps"],
            final_loss=summary["final_loss"],
            model=model,
            steps_per_s=summary.get("steps_per_s"),
            peak_bytes=summary.get("peak_bytes"),
        )

    @property
    def sample_files(self) -> dict[int, str]:
        """The images that were drawn during the training, by step in ascending order."""
        steps = sorted(int(digits) for digits in map(_step_of, self.folder.files()) if digits)
        return {step: SAMPLE_FILE.format(step) for step in steps}


@dataclass(frozen=True)
class Evaluation(Artifact):
    """`metrics.json` (name → figures with intervals, meaning, comparison) and the sample shards.

    `INTERPOLATION_FILE` and other images show some of the samples.
    """

    metrics: dict[str, float]
    judges: list[str]  # their names; the first one decides the verdict


@dataclass(frozen=True)
class Study(Artifact):
    """`study.json` (a record for each variant, with figures and gains) and the images' shards."""

    captions: int
    variants: list[str]  # their names


@dataclass(frozen=True)
class DataReport(Artifact):
    """`data.html`: one file with its images inside. `data.json`, `pictures.json`: what it shows."""


@dataclass(frozen=True)
class Report(Artifact):
    """`REPORT_FILE`: one file with its images inside. Beside it, a copy of `data.html`.

    `PROGRESS_FILE`: samples of the decoder's training, if it stored any.
    """

    title: str
    verdict: str = ""  # what the images are, in one line; "" if they were not judged
    first_step: str = ""  # what to do first, in one line; "" without advice


def _step_of(file: str) -> str:
    """The digits of the step in the name of a `SAMPLE_FILE`; "" for other files."""
    found = re.fullmatch(r"samples/step-(\d{8,})\.png", file)
    return found[1] if found else ""
