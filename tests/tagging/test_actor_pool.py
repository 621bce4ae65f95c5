"""What a tagging run asks of a machine, and of a cluster that grows."""

from typing import Any

import pytest

from hashtag_core.config import TaggingSection
from hashtag_core.errors import ConfigError
from hashtag_core.tagging.actor_pool import STALL_TIMEOUT_S, TASKS_PER_ACTOR, ActorPool, actor_pool


def pool(cpus: float, gpus_up: float = 0, grows: bool = False, **tagging: Any) -> ActorPool:
    return actor_pool(TaggingSection(**tagging), cpus, gpus_up, grows)


@pytest.mark.parametrize(
    ("cpus", "gpus", "tagging", "expected"),
    [
        (8, 0, {}, ActorPool(8)),
        (8, 0, {"actors": 2}, ActorPool(2, threads=4)),
        (0.5, 0, {}, ActorPool(1)),
        (8, 0, {"gpus": "cluster"}, ActorPool(8)),
        (8, 2, {"gpus": "never"}, ActorPool(8)),
        (64, 0, {"actors": 64}, ActorPool(64)),
        (1, 1, {}, ActorPool(1, gpus=1.0)),  # half a CPU is left: no task that opens posts would ever begin
        (2, 1, {}, ActorPool(1, gpus=1.0, threads=2, decode_ahead=2)),
        (8, 1, {}, ActorPool(1, gpus=1.0, threads=8, decode_ahead=8)),
        (16, 4, {}, ActorPool(4, gpus=1.0, threads=4, decode_ahead=5)),
        (2, 2, {}, ActorPool(2, gpus=1.0, decode_ahead=2)),
        (2, 3, {}, ActorPool(3, gpus=1.0)),
    ],
)
def test_a_machine_is_divided(cpus: float, gpus: float, tagging: Any, expected: ActorPool) -> None:
    found = pool(cpus, gpus, **tagging)
    assert found == expected
    assert found.device == ("cuda" if expected.gpus else "cpu")
    assert found.size(1000) == expected.actors
    assert found.size(1) == 1


def test_a_machine_without_the_gpu_that_was_asked_for() -> None:
    with pytest.raises(ConfigError, match="'always' needs a GPU"):
        pool(8, gpus="always")


@pytest.mark.parametrize(
    ("cpus", "gpus", "tagging", "asked"),
    [
        (0, 0, {}, (1.0, None, 1, 0)),
        (8, 0, {}, (1.0, None, 1, 0)),
        (8, 2, {}, (0.5, 1.0, 4, 5)),  # seven CPUs beside two actors
        (0, 0, {"gpus": "cluster"}, (0.5, 1.0, 4, 4)),
        (0, 0, {"gpus": "always"}, (0.5, 1.0, 4, 4)),
        (8, 2, {"gpus": "never"}, (1.0, None, 1, 0)),
    ],
)
def test_what_an_actor_of_a_cluster_reserves(cpus: float, gpus: float, tagging: Any, asked: Any) -> None:
    found = pool(cpus, gpus, grows=True, **tagging)
    assert (found.cpus, found.gpus, found.threads, found.decode_ahead) == asked


def test_a_cluster_is_asked_for_as_many_as_the_work_can_use() -> None:
    at_rest, two_up = pool(0, grows=True), pool(16, grows=True)
    assert [at_rest.size(tasks) for tasks in (1, TASKS_PER_ACTOR, TASKS_PER_ACTOR + 1, 1000)] == [1, 1, 2, 250]
    assert [two_up.size(tasks) for tasks in (1, 16, 40, 1000)] == [1, 16, 16, 250]
    assert [at_rest.least, two_up.least] == [1, 16]
    fixed = pool(0, grows=True, actors=12)
    assert (fixed.size(1000), fixed.least) == (12, None)


def test_a_cluster_is_left_time_to_start_machines() -> None:
    assert pool(8).end_s == STALL_TIMEOUT_S
    assert pool(0, grows=True).end_s == 1200
    assert pool(0, grows=True, start_timeout_s=10).end_s == STALL_TIMEOUT_S
