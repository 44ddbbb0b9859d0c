"""`unclip show STAGE`: what a result is, what it was made from, and why it has this key."""

import argparse

import yaml

from pipelines.cli.common import Project, format_table, open_project
from pipelines.core.plan import Scope, make_plan
from pipelines.core.stage import Artifact, Stage
from pipelines.core.store import Manifest


def run(arguments: argparse.Namespace) -> None:
    """Print the stage of the present configuration, finished or not."""
    project = open_project(arguments)
    stage = project.graph[arguments.stage]
    manifest = project.store.manifest(stage.name, stage.key)
    step = make_plan(project.graph, project.store, Scope())[stage.name]
    print(f"{stage.label}   {step.action}: {step.reason}")
    print(f"in {project.store.folder(stage.name, stage.key).url}\n")
    print("Lineage")
    _print_lineage(project, stage, "  ")
    print("\nThe key is the digest of")
    print(_indented(stage.description))
    if manifest:
        _print_manifest(manifest)


def _print_lineage(project: Project, stage: Stage[Artifact], indent: str) -> None:
    for field, dependency in stage.dependencies.items():
        there = project.store.manifest(dependency.name, dependency.key)
        made = there.created_at[:16].replace("T", " ") if there else "not there"
        print(f"{indent}{field}: {dependency.label}   {made}")
        _print_lineage(project, dependency, indent + "  ")


def _print_manifest(manifest: Manifest) -> None:
    print("\nFacts")
    print(_indented(dict(manifest.metadata)))
    print("\nOutputs")
    print(format_table([["", name, f"{size:,} bytes"] for name, size in manifest.outputs.items()]))
    print("\nMade by")
    print(_indented({**manifest.provenance, **manifest.links, "took_s": manifest.duration_s}))


def _indented(value: object) -> str:
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=96)
    return "\n".join(f"  {line}" for line in text.splitlines())
