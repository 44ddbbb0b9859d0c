"""The settings of tracking. Importing them does not import MLflow."""

from dataclasses import dataclass

from unclip.config import Config, ConfigError


@dataclass(frozen=True, kw_only=True)
class TrackingSettings(Config):
    """Where and how runs are tracked. Without a URI, in an SQLite file in the store."""

    uri: str | None = None  # "http://host:5000", "sqlite:///file.db", "postgresql://…"
    experiment: str = "unclip"
    max_artifact_mb: int = 500  # a larger model is linked to, not copied
    required: bool = True  # False: start even if the server does not answer

    def __post_init__(self) -> None:
        if not self.experiment.strip():
            raise ConfigError("tracking.experiment is empty; give a name, such as unclip")
        if self.max_artifact_mb < 0:
            raise ConfigError(
                f"tracking.max_artifact_mb={self.max_artifact_mb} is negative; "
                "give 0 to copy no model"
            )
