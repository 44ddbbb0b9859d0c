"""`unclip export`: trained or imported models as a folder that diffusers opens."""

import argparse

from pipelines.cli.folders import appearing, new_folder
from pipelines.cli.models import check_models, find_project, open_models


def run(arguments: argparse.Namespace) -> None:
    """Write the folder. Raises `InteropError` for models that it cannot hold."""
    target = new_folder(arguments.to)
    project = find_project(arguments)
    check_models(arguments, project)

    from unclip.interop import write_pipeline

    pipeline = open_models(arguments, project)
    with appearing(target) as folder:
        write_pipeline(folder, pipeline, variation=arguments.variation)
    kind = "UnCLIPImageVariationPipeline" if arguments.variation else "UnCLIPPipeline"
    print(f"Wrote {target}. Open it with diffusers: {kind}.from_pretrained({str(target)!r})")
