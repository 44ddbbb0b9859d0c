"""`unclip ui`: MLflow on the store, on this machine."""

import argparse

from pipelines.cli.common import open_project
from pipelines.tracking.ui import serve_ui


def run(arguments: argparse.Namespace) -> None:
    """Serve until Ctrl-C."""
    project = open_project(arguments)
    serve_ui(project.store.root, project.config.run.tracking, port=arguments.port)
