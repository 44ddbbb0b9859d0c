"""Checkpoints in stores of every kind."""

import torch

from pipelines.core.store import Store
from pipelines.training.checkpoints import StoreCheckpoints
from unclip.training import Keep


def state(step: int) -> dict[str, torch.Tensor]:
    return {"weights": torch.arange(6.0).view(3, 2) + step, "count": torch.tensor(step)}


def test_checkpoints_are_kept_found_and_the_last_becomes_an_output(store: Store) -> None:
    folder = store.folder("decoder", "k1")
    checkpoints = StoreCheckpoints(folder, keep=Keep(2), final_step=4)
    for step in (1, 2, 3, 4):
        checkpoints.save(step, {"loss": 0.1 * step}, state(step))
    checkpoints.wait()
    files = ("0.bin", "checkpoint.json")
    assert list(folder.files()) == [f"state/step-00000004/{file}" for file in files]
    assert sorted(folder.marks(".checkpoints")) == [
        f".checkpoints/step-0000000{step}/{file}" for step in (2, 3) for file in files
    ]
    own, longer = (
        StoreCheckpoints(folder, keep=Keep(2), final_step=4),
        StoreCheckpoints(store.folder("decoder", "k2"), keep=Keep(2), start=folder),
    )
    for resumed in (own, longer):
        found = resumed.latest(print)
        assert found is not None
        assert (found.step, found.manifest.values) == (4, {"loss": 0.4})
        tensors = {name: torch.zeros_like(tensor) for name, tensor in state(4).items()}
        resumed.load(found, tensors)
        assert all(torch.equal(tensors[name], tensor) for name, tensor in state(4).items())


def test_a_torn_output_leads_back_to_the_working_state(store: Store) -> None:
    folder = store.folder("decoder", "k1")
    checkpoints = StoreCheckpoints(folder, keep=Keep(2), final_step=2)
    for step in (1, 2):
        checkpoints.save(step, {}, state(step))
    checkpoints.wait()
    folder.write_bytes("state/step-00000002/0.bin", b"torn")
    notices: list[str] = []
    found = StoreCheckpoints(folder, keep=Keep(2), final_step=2).latest(notices.append)
    assert found is not None
    assert found.step == 1
    assert ["0.bin has 4 of 32 bytes" in notice for notice in notices] == [True]


def test_checkpoints_at_multiples_become_outputs_and_the_best_is_found(store: Store) -> None:
    folder = store.folder("decoder", "k5")
    checkpoints = StoreCheckpoints(folder, Keep(1, every=2, best=True))
    for step, loss in enumerate((0.3, 0.1, 0.4, 0.5, 0.6), 1):
        checkpoints.save(step, {"validation_loss": loss}, state(step))
    checkpoints.wait()
    files = ("0.bin", "checkpoint.json")
    assert list(folder.files()) == [f"state/step-{s:08d}/{file}" for s in (2, 4) for file in files]
    assert {name.split("/")[1] for name in folder.names() if name.startswith(".")} == {
        "step-00000001",  # the best of those that are no outputs
        "step-00000005",
    }
    found = checkpoints.best(), checkpoints.latest(print)
    assert [each and each.step for each in found] == [2, 5]
