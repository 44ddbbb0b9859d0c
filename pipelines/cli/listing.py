"""Results of a store as text, for `unclip ls`, `unclip show` and `unclip prune`."""

from collections.abc import Mapping, Sequence

import yaml

from pipelines.cli.project import Project
from pipelines.core.lookup import recorded
from pipelines.core.plan import Scope, make_plan
from pipelines.core.prune import delete_unreachable, find_unreachable
from pipelines.core.stage import Artifact, Stage
from pipelines.core.store import Manifest, Store

MAX_ENTRIES = 40  # of a mapping that is printed


def print_results(project: Project) -> None:
    """Print one line for each result; those of the current configuration are marked."""
    project.store.check_exists()
    current = {
        (name, key)
        for lookup in recorded(project.graph, project.store)
        for name, key in lookup.keys.items()
    }
    rows = [["", "stage", "key", "made", "took", "size"]]
    for name in project.graph.stages:
        for manifest in project.store.manifests(name):
            mark = "*" if (name, manifest.key) in current else ""
            rows.append([mark, name, *_cells(manifest)])
    if len(rows) == 1:
        print(f"{project.store.root} holds no results yet. `unclip run` makes them.")
        return
    print(format_table(rows))
    print(f"\n* of the current configuration, in {project.store.root}")


def print_stage(project: Project, name: str) -> None:
    """Print a stage of the current configuration, whether or not it has finished."""
    stage = project.graph[name]
    step = make_plan(project.graph, project.store, Scope())[name]
    print(f"{stage.label}   {step.action}: {step.reason}")
    print(f"in {project.store.folder(name, stage.key).url}\n")
    print("Lineage")
    _print_lineage(project, stage, "  ")
    print("\nThe key is the digest of")
    print(_as_yaml(stage.description))
    if step.manifest:
        _print_manifest(step.manifest)


def prune_shards(store: Store, *, delete: bool) -> None:
    """Print the shards that no result needs, by stage; delete them if that is asked for."""
    store.check_exists()
    found = find_unreachable(store)
    rows = [["stage", "files", "size", ""]]
    for each in found:
        busy = f"kept: {each.holder} is making the stage" if each.holder else ""
        rows.append([each.stage, str(len(each.files)), f"{each.size / 1e6:.1f} MB", busy])
    if not found:
        print(f"Every shard in {store.root} that is older than a day belongs to a result.")
        return
    print(format_table(rows))
    if delete:
        freed = sum(delete_unreachable(store, each) for each in found)
        print(f"\nDeleted {freed / 1e6:.1f} MB in {store.root}")
    else:
        print(f"\nNothing was deleted in {store.root}. `unclip prune --yes` deletes these files.")


def format_table(rows: Sequence[Sequence[str]], *, numbers: bool = False) -> str:
    """Rows of cells in aligned columns; with `numbers`, all but the first to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    sides = ["<", *(">" if numbers else "<") * (len(widths) - 1)]
    columns = list(zip(sides, widths, strict=True))
    lines = [
        "  ".join(f"{word:{side}{width}}" for word, (side, width) in zip(row, columns, strict=True))
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def _cells(manifest: Manifest) -> list[str]:
    size_mb = manifest.total_bytes / 1e6
    made = _minute(manifest)
    return [manifest.key, made, f"{manifest.duration_s:.0f} s", f"{size_mb:.1f} MB"]


def _minute(manifest: Manifest) -> str:
    return manifest.created_at[:16].replace("T", " ")


def _print_lineage(project: Project, stage: Stage[Artifact], indent: str) -> None:
    for path, dependency in stage.dependencies.items():
        manifest = project.store.manifest(dependency.name, dependency.key)
        made = _minute(manifest) if manifest else "not finished"
        print(f"{indent}{path}: {dependency.label}   {made}")
        _print_lineage(project, dependency, indent + "  ")


def _print_manifest(manifest: Manifest) -> None:
    print("\nMetadata")
    print(_as_yaml({name: _shortened(value) for name, value in manifest.metadata.items()}))
    print("\nOutputs")
    print(format_table([["", name, f"{size:,} bytes"] for name, size in manifest.outputs.items()]))
    if manifest.shards:
        print(f"and {len(manifest.shards):,} files of shared shards, ", end="")
        print(f"{sum(manifest.shards.values()) / 1e6:,.1f} MB")
    print("\nMade by")
    print(_as_yaml({**manifest.provenance, **manifest.links, "took_s": manifest.duration_s}))


def _shortened(value: object) -> object:
    """A mapping by shard as its number of entries."""
    if isinstance(value, Mapping) and len(value) > MAX_ENTRIES:
        return f"{len(value):,} entries"
    return value


def _as_yaml(value: object) -> str:
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=96)
    return "\n".join(f"  {line}" for line in text.splitlines())
