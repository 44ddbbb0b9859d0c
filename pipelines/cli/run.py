"""`unclip run`: carry out the plan, show it, track it."""

import argparse
import dataclasses
import json
import shlex
import sys
import time
from pathlib import Path

from pipelines.artifacts import Report
from pipelines.cli.common import Project, open_project, plan_of
from pipelines.core.plan import Plan


def run(arguments: argparse.Namespace) -> None:
    """Run what is not done yet. Raises `PipelineError`."""
    project = open_project(arguments)
    plan = plan_of(project, arguments)
    began = time.monotonic()
    if plan.to_run:
        _carry_out(project, plan, arguments)
    _print_summary(project, plan, arguments, time.monotonic() - began)


def _carry_out(project: Project, plan: Plan, arguments: argparse.Namespace) -> None:
    from pipelines.cli.progress import ProgressDisplay
    from pipelines.core.runner import RunSettings, run_plan
    from pipelines.tracking.preflight import prepare
    from pipelines.tracking.tracker import Tracker

    section = project.config.run
    project.store.check_writable()
    display = ProgressDisplay(plan)
    uri = prepare(section.tracking, project.store, display.say)
    tracker = Tracker(plan, project.store, section.tracking, uri=uri, warn=display.say)
    settings = RunSettings(
        resources=section.resources,
        retries=section.retries,
        wait_s=section.wait_s,
        cluster=section.cluster,
        debug=arguments.debug,
    )
    config = json.loads(json.dumps(dataclasses.asdict(project.config)))
    tracker.begin(name=Path(arguments.config).stem, config=config)
    try:
        with display:
            run_plan(plan, project.store, settings, [display, tracker])
    except (KeyboardInterrupt, SystemExit):
        tracker.end("KILLED")
        raise
    except BaseException:
        tracker.end("FAILED")
        raise
    tracker.end("FINISHED")


def _print_summary(
    project: Project, plan: Plan, arguments: argparse.Namespace, took_s: float
) -> None:
    ran = len(plan.to_run)
    print(
        f"\n{ran} stage{'s' * (ran > 1)} ran in {took_s / 60:.1f} minutes."
        if ran
        else "Everything is there already: no stage had to run."
    )
    command = shlex.quote(sys.argv[0] if sys.argv[0].endswith("unclip") else "unclip")
    store = f" --store {shlex.quote(arguments.store)}" if arguments.store else ""
    which = f"{shlex.quote(arguments.config)}{store}"
    report = _report(project)
    if report:
        print(f"  report    {report}")
    print(f"  runs      {command} ui {which}")
    print(f'  generate  {command} generate "a red heart" {which}')


def _report(project: Project) -> str | None:
    stage = project.graph["report"]
    manifest = project.store.manifest(stage.name, stage.key)
    if manifest is None:
        return None
    report = Report(project.store.folder(stage.name, stage.key), **manifest.metadata)
    return _readable(report.folder.file("report.html"))


def _readable(url: str) -> str:
    """A path relative to the present folder where it lies below it."""
    path = Path(url)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else url
