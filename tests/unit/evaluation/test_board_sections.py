"""Sections of a board's page: seeds, trials, calibration."""

from typing import Any

import pytest

from hashtag_core.evaluation.board_figures import report_figures
from hashtag_core.evaluation.board_page import (
    side_by_side_markdown,
)
from hashtag_core.evaluation.board_sections import done_entries
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


@pytest.fixture
def report() -> dict[str, Any]:
    best = entry("amnn", [[0, 1, 5, 4, 3], [0, 1, 2, 3, 4], [2, 3, 4, 0, 1], [1, 0, 2, 3, 4]])
    worst = entry("popularity", [[5, 4, 3, 2, 0]] * 4, "fitted", differences={}, history={})
    return {
        "format": 1,
        "name": "toy <1>",
        "command": "python jobs/leaderboard.py --archive toy",
        "dataset_hash": "f" * 64,
        "data": {
            "posts": {"train": 9, "validation": 3, "test": 4},
            "vocabulary": 6,
            "users": 3,
            "split": "by_user",
            "seed": 0,
            "captions": "remove",
        },
        "split": "test",
        "ks": KS,
        "bootstrap_samples": 50,
        "notes": ["a note"],
        "entries": [
            worst,
            best,
            {"name": "nic", "status": "not_applicable", "reason": "reads image alone, which no post here has"},
            {"name": "svm", "status": "failed", "reason": "TrainingError: a <b> loss"},
        ],
        "pairs": [
            {
                "claim": "it helps",
                "first": "amnn",
                "second": "popularity",
                "slice": "caption of 1-4 words",
                "against": "caption of 5+ words",
                "metric": "f1_at_5",
                "protocol": "headline",
                "posts": 3,
                "difference": {"value": 0.125, "low": -0.25, "high": 0.5, "p_value": 0.4},
            },
            {
                "claim": "it hurts",
                "first": "amnn",
                "second": "svm",
                "slice": "all",
                "against": None,
                "metric": "f1_at_5",
                "protocol": "headline",
                "missing": "svm not done",
            },
        ],
    }


def rows_of(markdown: str, heading: str) -> list[list[str]]:
    """Cells of the first table after a heading, the line of dashes left out."""
    text = markdown[markdown.index(heading) :]
    lines = text[text.index("\n|") + 1 :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if not line.startswith("| ---")]


def test_learning_curves_stand_apart(report: dict[str, Any]) -> None:
    ranked = [[0, 5, 4, 3, 2]] * 4
    points = [entry(f"amnn-{n}", ranked, curve_of="amnn", train_share=n / 100) for n in (50, 25)]
    whole = {**report, "entries": [*report["entries"], *points]}
    assert done_entries(whole) == done_entries(report)
    page = side_by_side_markdown(whole, report_figures(whole))
    assert "![F1@5 over the number of train posts](shares.svg)" in page
    header, row = rows_of(page, "## What more posts would bring")
    assert header[1:] == ["25% of the train posts", "50% of the train posts", "100% of the train posts"]
    assert row[3].startswith("0.519<br>")
    assert row[1] == row[2] != row[3]
    assert "shares.svg" not in report_figures(report)


def test_nothing_done(report: dict[str, Any]) -> None:
    empty = {**report, "entries": report["entries"][2:]}
    assert done_entries(empty) == []
    assert report_figures(empty) == {}
    assert "**failed**" in side_by_side_markdown(empty, [])
