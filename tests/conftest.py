"""The order of the tests."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start Ray come first, so that two test processes end at about the same time."""
    files = {item.path for item in items if item.get_closest_marker("ray")}
    items.sort(key=lambda item: item.path not in files)
