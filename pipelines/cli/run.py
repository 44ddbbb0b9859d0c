"""Runs a plan: shows and tracks its progress, and prints commands to continue with."""

import dataclasses
import json
import logging
import shlex
import sys
import time
from pathlib import Path

from pipelines.artifacts import INTERPOLATION_FILE, PROGRESS_FILE, REPORT_FILE, Report
from pipelines.cli.command import Output
from pipelines.cli.options import ScopeChoice
from pipelines.cli.progress import ProgressDisplay
from pipelines.cli.project import Project
from pipelines.core.plan import Plan
from pipelines.core.runner import RunSettings, run_plan
from pipelines.core.stage import Artifact, Stage
from pipelines.sizing.trainings import check_sizes, sizes_of
from pipelines.tracking.preflight import prepare
from pipelines.tracking.tracker import Tracker

log = logging.getLogger(__name__)


def run_project(project: Project, scope: ScopeChoice, output: Output) -> None:
    """Run what is not done yet. Raises `PipelineError`."""
    plan = project.plan(scope)
    started = time.monotonic()
    if plan.to_run:
        if project.run.device:
            check_sizes(sizes_of(plan.stages_to_run, project.run), project.run.device)
        _carry_out(project, plan, output)
    _print_summary(project, plan, time.monotonic() - started)


def _carry_out(project: Project, plan: Plan, output: Output) -> None:
    section = project.config.run
    project.store.check_writable()
    live = False if output.verbose else None  # log lines would break the table
    display = ProgressDisplay(plan, live=live)
    uri = prepare(section.tracking, project.store, display.say)
    tracker = Tracker(plan, project.store, section.tracking, uri=uri, warn=display.say)
    settings = RunSettings(
        resources=section.resources,
        retries=section.retries,
        wait_s=section.wait_s,
        on_busy=section.on_busy,
        cluster=section.cluster,
        debug=output.debug,
    )
    config = json.loads(json.dumps(dataclasses.asdict(project.config)))
    log.info("%d stages to run, tracked at %s", len(plan.to_run), uri)
    tracker.begin(name=Path(project.choice.config).stem, config=config)
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


def _print_summary(project: Project, plan: Plan, took_s: float) -> None:
    ran = len(plan.to_run)
    print(
        f"\n{ran} stage{'s' * (ran > 1)} ran in {took_s / 60:.1f} minutes."
        if ran
        else "Everything is done already: no stage had to run."
    )
    program = sys.argv[0] if sys.argv[0].endswith("unclip") else "unclip"
    commands = {
        label: shlex.join([program, *words]) for label, words in next_commands(project).items()
    }
    lines = {**result_lines(project), **commands}
    wide = max(map(len, lines))
    for label, text in lines.items():
        print(f"  {label:<{wide}}  {text}")


def next_commands(project: Project) -> dict[str, list[str]]:
    """Commands to continue with, label -> words after `unclip`; they choose the same project."""
    words = [project.choice.config, *project.choice.flags]
    return {"runs": ["ui", *words], "generate": ["generate", "a red heart", *words]}


def result_lines(project: Project) -> dict[str, str]:
    """What the report and the evaluation say and show, label -> text; nothing that is missing."""
    stage = project.graph["report"]
    manifest = project.store.manifest(stage.name, stage.key)
    if manifest is None:
        return {}
    report = Report(project.store.folder(stage.name, stage.key), **manifest.metadata)
    found = {
        "verdict": report.verdict,
        "first": report.first_step,
        "report": _relative(report.folder.file(REPORT_FILE)),
        "interpolation": _path(project, project.evaluation, INTERPOLATION_FILE),
        "progress": _path(project, stage, PROGRESS_FILE),
    }
    return {label: text for label, text in found.items() if text}


def _path(project: Project, stage: Stage[Artifact], file: str) -> str:
    """Where the file of a finished stage is; "" if there is none."""
    manifest = project.store.manifest(stage.name, stage.key)
    if manifest is None or file not in manifest.outputs:
        return ""
    return _relative(project.store.folder(stage.name, stage.key).file(file))


def _relative(url: str) -> str:
    """A path below the working directory as a relative path; any other URL unchanged."""
    path = Path(url)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else url
