"""A YAML file and `--set` overrides as a validated `PipelineConfig`."""

import json
from collections.abc import Sequence

from pydantic import TypeAdapter, ValidationError

from pipelines.config.explain import explain
from pipelines.config.files import ConfigFileError, read_config
from pipelines.config.presets import with_preset
from pipelines.config.renamed import refuse_old_keys
from pipelines.config.sections import PipelineConfig


def load_config(name: str, overrides: Sequence[str] = ()) -> PipelineConfig:
    """The configuration in a file, or the packaged one of this name.

    Raises `ConfigFileError`, which names the line or the flag of each mistake and a fix.
    """
    raw = read_config(name, overrides)
    refuse_old_keys(raw)
    values = with_preset(raw)
    try:
        return TypeAdapter(PipelineConfig).validate_json(json.dumps(values))
    except ValidationError as error:
        raise ConfigFileError(explain(error, raw)) from error
    except TypeError as error:  # such as a YAML date, which JSON does not have
        raise ConfigFileError(f"{raw.name}: {error}. Put the value in quotes.") from error
