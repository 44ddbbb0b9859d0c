"""`unclip import`: public checkpoints in the format of diffusers, as a folder of models."""

import argparse

from pipelines.cli.folders import appearing, new_folder


def run(arguments: argparse.Namespace) -> None:
    """Read and check all folders, then write one. Raises `InteropError`."""
    target = new_folder(arguments.to)

    from unclip.interop import merge, read_pipeline

    pipeline = merge([read_pipeline(path) for path in arguments.paths])
    with appearing(target) as folder:
        pipeline.save(folder)
    for name, model in pipeline.cascade.models.items():
        millions = sum(weight.numel() for weight in model.parameters()) / 1e6
        print(f"{name:<12} {millions:8.1f} million parameters   {type(model).__name__}")
    if pipeline.cascade.prior is None:
        print("No prior: it varies pictures, but `generate` needs the UnCLIPPipeline folder too.")
    if pipeline.clip is None:
        print("No image tower: it reads captions only, until the image variation folder is given.")
    print(f'Wrote {target}. Next: unclip generate "a red heart" --models {target}')
