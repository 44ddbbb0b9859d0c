"""Storage and hours of the stages before the trainings, as far as the configuration tells.

Rates and image sizes are assumptions, which the constants state. All rows count as kept.
"""

from dataclasses import asdict, dataclass
from typing import Any

from pipelines.config.devices import HOUR_S
from pipelines.config.sections import PipelineConfig
from pipelines.core.resources import Resources
from pipelines.stages.clip import PretrainedClip

BYTES_PER_PIXEL = {"jpg": 0.4, "png": 1.7}  # of photographs at high quality
DOWNLOADS_PER_S = 250  # of one CPU; benchmarks/README.md has 290
FLOAT_BYTES = {"float32": 4, "float16": 2}


@dataclass(frozen=True, kw_only=True)
class DataSize:
    """What one stage makes of all rows."""

    stage: str
    rows: int
    storage_bytes: int
    hours: float | None  # None if the device is not known

    def as_json(self) -> dict[str, Any]:
        """All figures."""
        return asdict(self)


def data_sizes(config: PipelineConfig, rows: int) -> list[DataSize]:
    """The sizes of `download` and `embed` for a list of so many rows."""
    return [
        DataSize(
            stage="download",
            rows=rows,
            storage_bytes=_image_bytes(config, rows),
            hours=_hours(config, rows),
        ),
        DataSize(
            stage="embed",
            rows=rows,
            storage_bytes=2 * rows * (config.clip.width or 0) * FLOAT_BYTES[config.embed.dtype],
            hours=_embed_hours(config, rows),
        ),
    ]


def _image_bytes(config: PipelineConfig, rows: int) -> int:
    sides = (config.download.image_size, *config.download.renditions)
    per_pixel = BYTES_PER_PIXEL[config.download.encode_format]
    return int(rows * per_pixel * sum(side**2 for side in sides))


def _hours(config: PipelineConfig, rows: int) -> float:
    resources = config.run.resources.get("download", Resources())
    return rows / (DOWNLOADS_PER_S * resources.workers * max(resources.cpus, 1)) / HOUR_S


def _embed_hours(config: PipelineConfig, rows: int) -> float | None:
    resources = config.run.resources.get("embed", Resources())
    flops, device = clip_flops(config), config.run.device
    if device is None or flops is None or not resources.gpus:
        return None
    gpus = resources.workers * resources.gpus
    return rows * flops / (gpus * device.flops_per_s("bfloat16")) / HOUR_S


def clip_flops(config: PipelineConfig) -> float | None:
    """FLOPs of one image and its caption; None for a CLIP without public sizes."""
    if not isinstance(config.clip, PretrainedClip) or config.clip.width is None:
        return None
    from unclip.clip.check import read_model_config  # open_clip takes seconds to import

    sizes = read_model_config(config.clip.source)
    vision, text = sizes["vision_cfg"], sizes["text_cfg"]
    if not isinstance(vision.get("layers"), int):
        return None
    patches = (vision["image_size"] // vision["patch_size"]) ** 2
    return _tower(vision["layers"], vision["width"], patches + 1) + _tower(
        text["layers"], text["width"], text["context_length"]
    )


def _tower(layers: int, width: int, tokens: int) -> float:
    """A forward pass: 12 width² weights in a layer, and attention."""
    return layers * tokens * (24 * width**2 + 4 * tokens * width)
