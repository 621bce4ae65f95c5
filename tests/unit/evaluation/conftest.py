"""A board of two systems with figures that are worked by hand."""

from typing import Any

import pytest

from tests.unit.evaluation.small_board import KS, entry


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
