"""The cost model behind docs/scaling.md: it finds what was planted, and its schedule is right where the right one is plain."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from hashtag_core.tagging import part_ids

ROOT = Path(__file__).resolve().parents[2]
_spec = importlib.util.spec_from_file_location("scaling", ROOT / "tests" / "benchmarks" / "scaling.py")
assert _spec is not None
assert _spec.loader is not None
scaling = importlib.util.module_from_spec(_spec)
sys.modules["scaling"] = scaling
_spec.loader.exec_module(scaling)

CALM = {"slow_share": 0.0, "losses_a_node_hour": 0.0}


def simulate(tasks: int, task_s: float, nodes: int, seed: int = 0, **trouble: float) -> float:
    cluster = scaling.Cluster(nodes, **{**CALM, **trouble})
    return float(scaling.simulate(tasks, task_s, cluster, np.random.default_rng(seed)))


def test_the_fit_finds_what_was_planted() -> None:
    planted = scaling.Cost(start_s=20.0, carry_cpu_s=1e-4, decode_cpu_s=2e-3, forward_cpu_s=2e-2)
    runs = [
        {"case": "text", "posts": n, "cpus": cpus, "seconds": planted.seconds("text", n, cpus)}
        for n, cpus in ((100_000, 2), (1_000_000, 2), (1_000_000, 8))
    ]
    rates = {"decode": {"posts_per_second": 1000, "cpus": 2}, "forward": {"posts_per_second": 100, "cpus": 2}}
    found = scaling.fit({"runs": runs, "rates": rates})
    assert vars(found) == pytest.approx(vars(planted))
    assert found.seconds("pictures", 1_000, 2) == pytest.approx(20 + 1_000 * 0.0221 / 2)


def test_a_schedule_without_trouble_is_rounds_of_equal_tasks() -> None:
    per_round = 3 * scaling.NODE_CPUS
    assert simulate(per_round, 10.0, 3) == 10.0
    assert simulate(per_round * 4, 10.0, 3) == 40.0
    assert simulate(per_round + 1, 10.0, 3) == 20.0


def test_a_slow_cluster_takes_its_factor_and_one_slow_node_the_last_tasks() -> None:
    assert simulate(scaling.NODE_CPUS * 2, 10.0, 2, slow_share=1.0, slow_factor=3.0) == 30.0
    # 40 nodes, about half of them slow: shares go by speed, and the end is within one slow task of the ideal.
    tasks, task_s = 40 * scaling.NODE_CPUS * 20, 10.0
    found = simulate(tasks, task_s, 40, slow_share=0.5, slow_factor=2.0)
    slow = (np.random.default_rng(0).random(40) < 0.5).sum()
    ideal = tasks * task_s / (scaling.NODE_CPUS * (40 - slow + slow / 2))
    assert ideal <= found <= ideal + 2 * task_s


def test_lost_nodes_cost_time_and_no_task() -> None:
    calm = simulate(scaling.NODE_CPUS * 400, 60.0, 4)
    found = [simulate(scaling.NODE_CPUS * 400, 60.0, 4, seed, losses_a_node_hour=0.3) for seed in range(5)]
    assert all(value >= calm for value in found)
    # A node that goes costs what it had in hand, and its absence: a few times in two hours on four nodes.
    assert max(found) <= calm + 4 * (60 + scaling.NODE_START_S)
    assert min(found) < max(found)


def test_the_published_runs_are_fitted_and_the_checks_hold() -> None:
    measured = json.loads(scaling.RUNS.read_text())
    cost = scaling.fit(measured)
    for run in measured["runs"]:
        assert cost.seconds(run["case"], run["posts"], run["cpus"]) == pytest.approx(run["seconds"], rel=0.2)
    for check in measured["checks"]:
        told = cost.seconds(check["case"], check["posts"], check["cpus"])
        least = told - cost.start_s if check.get("ray_is_up") else told
        assert least * 0.8 <= check["seconds"] <= told * 1.2


def test_planning_is_counted_as_it_is_done() -> None:
    assert (scaling.PARTS_AT_ONCE, scaling.MANY_PARTS) == (part_ids.PARTS_AT_ONCE, part_ids.MANY_PARTS)
    few, many = 100 * scaling.PART_POSTS, scaling.MANY_PARTS * scaling.PART_POSTS
    assert scaling.plan_s(few) == pytest.approx(100 * 7 * 0.025 / 16 + few * 2.1e-6)
    assert scaling.plan_s(many) == pytest.approx((4000 * 7 * 0.025 / 16 + many * 2.1e-6) / 2)
