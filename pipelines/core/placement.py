"""Placement groups of trainings: finds a training's groups, and removes those left behind.

Ray Train's controller, an actor, reserves a placement group for its workers. If the controller
dies or hangs, the group can stay behind and keep CPUs and GPUs reserved that nobody uses. So the
controller publishes its actor ID in the stage's folder, and the driver finds groups by creator.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import ray
from ray._private.state import state
from ray._raylet import PlacementGroupID
from ray.core.generated.gcs_pb2 import PlacementGroupTableData  # type: ignore[attr-defined]
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.util.placement_group import PlacementGroup, remove_placement_group

from pipelines.core.folder import Folder

log = logging.getLogger(__name__)

CONTROLLER_FILE = ".ray_train/controller.json"  # the actor ID, in hex


class PublishController(ControllerCallback):
    """Writes the controller's actor ID into the stage's folder."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    def after_controller_start(self, train_run_context: Any) -> None:  # noqa: ARG002
        """Called by Ray Train inside the controller, before it reserves anything."""
        self.folder.write_json(CONTROLLER_FILE, ray.get_runtime_context().get_actor_id())


def release_left_behind(folder: Folder) -> int:
    """Remove the placement groups of the stage's last controller; returns how many there were."""
    left = list(_groups_of(folder))
    for group in left:
        group_id = PlacementGroupID(group.placement_group_id)
        log.warning("removing placement group %s, left by a lost training", group_id.hex())
        remove_placement_group(PlacementGroup(group_id))
    return len(left)


def waits_for_room(folder: Folder) -> bool:
    """Whether the stage's controller has requested workers that are not all placed yet."""
    waiting = (PlacementGroupTableData.PENDING, PlacementGroupTableData.PREPARED)
    return any(group.state in waiting for group in _groups_of(folder))


def _groups_of(folder: Folder) -> Iterator[Any]:
    if not folder.exists(CONTROLLER_FILE):
        return
    creator = bytes.fromhex(folder.read_json(CONTROLLER_FILE))
    for group in _all_groups():
        if group.creator_actor_id == creator and group.state != group.REMOVED:
            yield group


def _all_groups() -> Sequence[Any]:
    table: Any = state._connect_and_get_accessor().get_placement_group_table()
    return [PlacementGroupTableData.FromString(entry) for entry in table]
