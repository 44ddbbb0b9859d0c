"""What a failed group of workers is taken for: an error of the function, or a lost process."""

import pytest
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from pipelines.core.worker_group import raised_by_function
from unclip.config import ConfigError

DISCONNECTED = RuntimeError("[gloo] Connection closed by peer")
GONE = WorkerHealthCheckFailedError("health check failed", RuntimeError("actor died"))


@pytest.mark.parametrize("failures", [[GONE], [DISCONNECTED, GONE], [GONE, DISCONNECTED], []])
def test_a_lost_process_is_no_error_of_the_function_whatever_its_peers_then_see(
    failures: list[Exception],
) -> None:
    assert raised_by_function(failures) is None


def test_of_several_errors_that_of_the_function_is_told_and_not_that_of_a_connection() -> None:
    own = ConfigError("no such shard")
    assert raised_by_function([DISCONNECTED, own]) is own
    assert raised_by_function([own, DISCONNECTED]) is own
    assert raised_by_function([DISCONNECTED]) is DISCONNECTED
