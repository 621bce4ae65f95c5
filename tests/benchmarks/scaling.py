"""The cost model of docs/scaling.md: fitted to measured runs, checked against others, worked out for larger archives.

    python tests/benchmarks/scaling.py [--runs docs/benchmarks/tagging_runs.json] [--price 0.048]   # money a CPU hour

The model. A run costs a start (Ray, plan, actors), and then for every post CPU seconds that add up from what the job does with it:
decode its picture, encode and score it, carry it through Ray to a file. Parts cost the driver requests. A
cluster does the CPU seconds side by side, in tasks of a few chunks; what it loses by nodes that are slow, and by nodes that go, is not
in a formula but in a simulation of the schedule (`simulate`), since it is the last tasks that decide.
"""

import argparse
import heapq
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
RUNS = ROOT / "docs" / "benchmarks" / "tagging_runs.json"
TASK_POSTS = 8 * 512
"""`chunks_per_task` times `chunk_rows`."""
BYTES_A_POST = {"pictures": 20_000, "text": 150}
"""A 256-px JPEG and a caption; a caption, an id and a date. Compressed."""
TAGGED_BYTES = 120
"""A row of output, compressed."""
PART_POSTS = 50_000
REQUESTS_A_PART, PARTS_AT_ONCE = 7, 16
ID_CPU_S = 2.1e-6
"""Of the driver, to read and compare the id of a post that is new (a million of them: 2.13 s)."""
HEAD_CPUS, MANY_PARTS = 2, 4_000
"""Processes that share that work, from so many parts on."""
REQUEST_S = 0.025
NODE_CPUS = 16
NODE_START_S = 300.0
"""From the autoscaler's wish to a node that works: a machine, an image of 2.4 GB, a model."""


@dataclass(frozen=True)
class Cost:
    """What one run costs: seconds that nothing shortens, CPU seconds a post by what is done with it."""

    start_s: float
    carry_cpu_s: float
    decode_cpu_s: float
    forward_cpu_s: float

    def post_cpu_s(self, case: str) -> float:
        """`text`: posts without a picture and a model that does not encode; `pictures`: the default encoders."""
        return self.carry_cpu_s + (self.decode_cpu_s + self.forward_cpu_s if case == "pictures" else 0.0)

    def seconds(self, case: str, posts: int, cpus: float) -> float:
        """Of a run on one machine, its start included."""
        return self.start_s + posts * self.post_cpu_s(case) / cpus


def fit(measured: dict[str, Any]) -> Cost:
    """Least squares over the runs of case `text` for start and carrying; the rates give the rest."""
    runs = [run for run in measured["runs"] if run["case"] == "text"]
    design = np.array([[1.0, run["posts"] / run["cpus"]] for run in runs])
    (start_s, carry), *_ = np.linalg.lstsq(design, np.array([run["seconds"] for run in runs]), rcond=None)
    rates = {name: rate["cpus"] / rate["posts_per_second"] for name, rate in measured["rates"].items()}
    return Cost(float(start_s), float(carry), rates["decode"], rates["forward"])


@dataclass(frozen=True)
class Cluster:
    """Nodes of `NODE_CPUS`; a share of them `slow` by a factor, and a rate at which a node goes."""

    nodes: int
    slow_share: float = 0.05
    slow_factor: float = 2.0
    losses_a_node_hour: float = 0.02


def simulate(tasks: int, task_s: float, cluster: Cluster, rng: np.random.Generator) -> float:
    """Seconds until every task is done, greedily placed on actors of one CPU each.

    A node that goes takes the tasks in hand with it, which begin anew elsewhere, and a new one stands in `NODE_START_S` later.
    """
    slow = rng.random(cluster.nodes) < cluster.slow_share
    speed = np.where(slow, 1 / cluster.slow_factor, 1.0)
    loss_s = rng.exponential(3600 / max(cluster.losses_a_node_hour, 1e-12), cluster.nodes)
    free = [(0.0, node) for node in range(cluster.nodes) for _ in range(NODE_CPUS)]
    heapq.heapify(free)
    left, end = tasks, 0.0
    again: list[float] = []  # when a task that was lost may begin anew
    while left or again:
        at, node = heapq.heappop(free)
        if left:
            left -= 1
        else:
            at = max(at, heapq.heappop(again))
        if at >= loss_s[node]:  # the node's successor
            at = max(at, loss_s[node] + NODE_START_S)
        done = at + task_s / speed[node]
        if at < loss_s[node] < done:
            heapq.heappush(again, loss_s[node])
            heapq.heappush(free, (loss_s[node] + NODE_START_S, node))
        else:
            end = max(end, done)
            heapq.heappush(free, (done, node))
    return end


def plan_s(posts: int) -> float:
    """The driver's before the first task, where all parts are new: the requests of a part one after another, those of several parts
    side by side; and their ids."""
    parts = posts / PART_POSTS
    processes = HEAD_CPUS if parts >= MANY_PARTS else 1
    return (parts * REQUESTS_A_PART * REQUEST_S / PARTS_AT_ONCE + posts * ID_CPU_S) / processes


def worked_out(cost: Cost, case: str, posts: int, nodes: int, price: float, seeds: int = 20) -> dict[str, float]:
    """Hours (median and the ninth of ten), money, GB in and out a second, of a night on `nodes`."""
    task_s = TASK_POSTS * cost.post_cpu_s(case)
    tasks = -(-posts // TASK_POSTS)
    fixed = cost.start_s + NODE_START_S + plan_s(posts)
    ends = [simulate(tasks, task_s, Cluster(nodes), np.random.default_rng(seed)) for seed in range(seeds)]
    hours = [(fixed + end) / 3600 for end in ends]
    median = float(np.median(hours))
    busy = float(np.median(ends))
    return {
        "hours": median,
        "hours_bad": float(np.quantile(hours, 0.9)),
        "ideal_hours": posts * cost.post_cpu_s(case) / (nodes * NODE_CPUS) / 3600,
        "money": median * (nodes * NODE_CPUS + 2) * price,
        "read_gb_s": posts * BYTES_A_POST[case] / busy / 1e9,
        "written_gb": posts * TAGGED_BYTES / 1e9,
        "plan_s": plan_s(posts),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=RUNS)
    parser.add_argument("--price", type=float, default=0.048, help="money a CPU hour")
    arguments = parser.parse_args()
    measured = json.loads(arguments.runs.read_text())
    cost = fit(measured)
    print(f"start {cost.start_s:.1f} s; CPU ms a post: carried {cost.carry_cpu_s * 1e3:.3f}, ", end="")
    print(f"decoded {cost.decode_cpu_s * 1e3:.2f}, encoded and scored {cost.forward_cpu_s * 1e3:.2f}")
    for check in measured["checks"]:
        told = cost.seconds(check["case"], check["posts"], check["cpus"])
        least = told - cost.start_s  # a part of the start was over before such a run began
        range_told = f"{least:.1f} to {told:.1f} s" if check.get("ray_is_up") else f"{told:.1f} s"
        shown = "" if check.get("ray_is_up") else f" ({told / check['seconds'] - 1:+.0%})"
        print(
            f"check: {check['posts']} posts, {check['seconds']} s measured, {range_told} told{shown}; {check['from']}"
        )
    print(
        f"\n| case | posts | nodes of {NODE_CPUS} | hours | in a bad night | no loss | money | GB/s read | GB written | plan |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for case, posts, nodes in (
        ("pictures", 10**7, 1), ("pictures", 10**7, 10), ("pictures", 10**9, 100), ("pictures", 10**9, 400),
        ("text", 10**7, 1), ("text", 10**9, 10),
    ):  # fmt: skip
        row = worked_out(cost, case, posts, nodes, arguments.price)
        print(
            f"| {case} | {posts:,} | {nodes} | {row['hours']:.1f} | {row['hours_bad']:.1f} | {row['ideal_hours']:.1f} | "
            f"{row['money']:,.0f} | {row['read_gb_s']:.2f} | {row['written_gb']:.1f} | {row['plan_s']:.0f} s |"
        )


if __name__ == "__main__":
    main()
