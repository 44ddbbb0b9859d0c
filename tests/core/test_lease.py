"""Leases on a local disk, in memory and on a real S3 server."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace

import pytest

from pipelines.core import lease
from pipelines.core.folder import Folder
from pipelines.core.lease import Holder, LeaseLostError, Leases, holder_of
from pipelines.core.store import Store

LABEL = "embed/k1"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_EVERY_S", 0.2)


def put(store: Store, holder: Holder) -> None:
    Folder(f"{store.root}/.leases").write_json(f"{LABEL}.json", vars(holder))


def test_a_lease_has_one_holder_until_it_is_released(store: Store) -> None:
    with Leases(store.root) as first, Leases(store.root) as second:
        assert first.acquire(LABEL) is None
        holder = second.acquire(LABEL)
        assert holder is not None
        assert f"(process {os.getpid()}) since 20" in str(holder)
        assert str(holder_of(store.root, LABEL)) == str(holder)  # it may be renewed meanwhile
        assert second.acquire("embed/k2") is None
        first.release(LABEL)
        assert holder_of(store.root, LABEL) is None
        assert second.acquire(LABEL) is None
    assert holder_of(store.root, LABEL) is None


def test_of_many_drivers_that_start_at_once_one_gets_the_lease(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not store.root.startswith("memory"):  # threads compete as processes do
        monkeypatch.setattr(lease, "_IN_PROCESS", nullcontext())
    drivers = [Leases(store.root) for _ in range(8)]
    with ThreadPoolExecutor(len(drivers)) as threads:
        holders = list(threads.map(lambda driver: driver.acquire(LABEL), drivers))
    assert sum(holder is None for holder in holders) == 1


def test_a_lease_is_renewed_while_it_is_held(store: Store) -> None:
    with Leases(store.root) as driver:
        driver.acquire(LABEL)
        first = holder_of(store.root, LABEL)
        time.sleep(1)
        later = holder_of(store.root, LABEL)
        assert first is not None
        assert later is not None
        assert later.renewed_at > first.renewed_at
        driver.verify(LABEL)


@pytest.mark.parametrize("change", [{"pid": 2**22 + 1}, {"started": "1"}])
def test_a_lease_of_a_dead_process_of_this_machine_is_taken_over(
    store: Store, change: dict[str, object]
) -> None:
    put(store, replace(lease._own_holder(), **change))
    assert holder_of(store.root, LABEL) is None
    with Leases(store.root) as driver:
        assert driver.acquire(LABEL) is None


def test_a_lease_of_another_machine_expires_and_not_before(store: Store) -> None:
    far = replace(lease._own_holder(), machine="elsewhere", pid=2**22 + 1)
    with Leases(store.root) as driver:
        put(store, replace(far, renewed_at=time.time() - lease.EXPIRY_S + 20))
        assert driver.acquire(LABEL) is not None
        put(store, replace(far, renewed_at=time.time() - lease.EXPIRY_S - 1))
        assert driver.acquire(LABEL) is None


def test_a_driver_whose_lease_is_held_by_another_stops_and_leaves_it_alone(store: Store) -> None:
    with Leases(store.root) as driver:
        driver.acquire(LABEL)
        other = replace(lease._own_holder(), host="elsewhere")
        put(store, other)
        with pytest.raises(LeaseLostError, match=r"lost the lease of embed/k1: it is held by .*@e"):
            driver.verify(LABEL)
        with pytest.raises(LeaseLostError, match="elsewhere"):
            driver.check()
    assert holder_of(store.root, LABEL) == other


def test_a_released_lease_cannot_be_committed_under(store: Store) -> None:
    with Leases(store.root) as driver:
        driver.acquire(LABEL)
        driver.release(LABEL)
        with pytest.raises(LeaseLostError, match="released its lease"):
            driver.verify(LABEL)


def test_half_a_lease_counts_as_none(store: Store) -> None:
    Folder(f"{store.root}/.leases").write_bytes(f"{LABEL}.json", b'{"host": "a"')
    with Leases(store.root) as driver:
        assert driver.acquire(LABEL) is None
        driver.verify(LABEL)
