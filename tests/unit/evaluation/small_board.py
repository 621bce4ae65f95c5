"""A board of two systems with figures that are worked by hand."""

from typing import Any

from hashtag_core.evaluation.metrics import index_metrics, judge, post_scores
from hashtag_core.evaluation.significance import bootstrap

KS = [1, 2, 3, 4, 5]


TRUTH = [[0, 1], [0], [2, 3, 4], [1]]


USERS = ["u0", "u1", "u2", "u2"]


def entry(name: str, ranked: list[list[int]], kind: str = "neural", **changed: Any) -> dict[str, Any]:
    judged = judge(ranked, TRUTH, 6)
    figures = index_metrics(judged, KS, "headline", USERS, [0.5] * 6)
    found = bootstrap(post_scores(judged, KS, "headline"), USERS, 50)
    intervals = {metric: [interval.low, interval.high] for metric, interval in found.items()}
    return {
        "name": name,
        "family": name,
        "kind": kind,
        "recipe": f"{name}.toml",
        "reads": ["caption", "image"],
        "status": "done",
        "curve_of": None,
        "train_share": 1.0,
        "k": 2,
        "parameters": 1234567,
        "epochs": 3 if kind == "neural" else None,
        "best_epoch": 2 if kind == "neural" else None,
        "train_seconds": 12.4,
        "judge_seconds": 1.2,
        "posts_per_second": 420.2,
        "megabytes": 6.49,
        "history_posts": 50,
        "metrics": dict.fromkeys(("headline", "papers", "floor"), figures),
        "intervals": {"headline": intervals},
        "slices": {"with image": figures, "caption absent": figures},
        "tags": {"head": {"tags": 2.0, "uses": 5.0, "recall_at_5": 0.4}},
        "thresholded": {},
        "bleu": {},
        "history": {"train_loss": [3.0, 2.0, 1.0], "validation_loss": [3.0, 2.5, 2.6], "selected_by": [0.1, 0.3, 0.2]},
        "differences": {"linear": {"value": -0.05, "low": -0.1, "high": 0.01, "p_value": 0.08}},
        **changed,
    }


def rows_of(markdown: str, heading: str) -> list[list[str]]:
    """Cells of the first table after a heading, the line of dashes left out."""
    text = markdown[markdown.index(heading) :]
    lines = text[text.index("\n|") + 1 :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if not line.startswith("| ---")]
