"""`unclip init`: a configuration to start from."""

import argparse
from pathlib import Path

from pipelines.core.errors import PipelineError


def run(arguments: argparse.Namespace) -> None:
    """Copy a packaged configuration with its comments; never overwrites."""
    from pipelines.config.load import find_config

    target = Path(arguments.path)
    text = find_config(arguments.like).read_text()
    try:
        with target.open("x") as file:
            file.write(text)
    except OSError as error:
        raise PipelineError(
            f"{target} cannot be written: {error.strerror}. Give another path: unclip init PATH."
        ) from error
    print(f"Wrote {target}, like {arguments.like}. Next: unclip plan {target}")
