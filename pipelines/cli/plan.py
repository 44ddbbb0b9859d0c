"""`unclip plan`: what a run would do, and what its trainings need."""

import json
from collections.abc import Mapping

from pipelines.cli.options import ScopeChoice
from pipelines.cli.progress import print_plan
from pipelines.cli.project import Project
from pipelines.cli.sizes import plan_as_json, print_data, print_sizes
from pipelines.core.errors import PipelineError
from pipelines.core.outlook import outlooks
from pipelines.core.plan import Plan
from pipelines.core.stage import Outlook
from pipelines.sizing.data import data_sizes
from pipelines.sizing.trainings import check_sizes, sizes_of


def show_plan(project: Project, scope: ScopeChoice, *, as_json: bool) -> None:
    """Print the plan. Raises `PipelineError` if the run could not start.

    The sizes of the trainings need neither the list nor the store, so they are printed even if
    these cannot be read.
    """
    plan: Plan | None = None
    new: Mapping[str, Outlook] = {}
    problem: PipelineError | None = None
    try:
        plan = project.plan(scope)
        new = outlooks(plan, project.store)
    except PipelineError as error:
        problem = error
    sizes = sizes_of(plan.stages_to_run if plan else project.graph.stages.values(), project.run)
    data = data_sizes(project.config, sum(new["list"].rows.values())) if "list" in new else []
    if as_json:
        print(json.dumps(plan_as_json(plan, new, sizes, data, project.run.device), indent=2))
    else:
        if plan:
            print_plan(plan, new)
        print_sizes(sizes, project.run.device)
        print_data(data)
    check_sizes(sizes, project.run.device)
    if problem:
        raise problem
