"""Charts: which are drawn, and how the models are called on them."""

from typing import Any

from hashtag_core.evaluation.report_charts import bars, labels, lines, report_charts


def model(uri: str, family: str, version: str, f1: float, **more: Any) -> dict[str, Any]:
    figures = {f"{name}_at_5": f1 for name in ("f1", "precision", "recall", "ndcg")}
    return {
        "model": uri, "family": family, "version": version, "metrics": {**figures, "coverage": 0.5, "novelty": 2.0},
        "intervals": {}, "slices": {}, "parameters": 10, "seconds": 1.0, **more,
    }  # fmt: skip


def test_a_family_that_is_there_twice_is_called_by_its_version_too() -> None:
    report: Any = {
        "ks": [5],
        "models": [model("a", "linear", "1", 0.1), model("b", "svm", "1", 0.3), model("c", "linear", "2", 0.2)],
    }
    assert labels(report) == {"b": "svm", "c": "linear 2", "a": "linear 1"}


def test_a_chart_that_would_be_empty_is_left_out() -> None:
    one: Any = {"ks": [5], "models": [model("a", "linear", "1", 0.1)]}
    drawn = {section for section, charts in report_charts(one).items() if charts}
    assert drawn == {"leaderboard", "curves"}
    confused = [{"true": "cat", "given": "dog", "posts": 3, "lift": 2.0}]
    learning = {"train_loss": [2.0, 1.0], "validation_loss": [2.0, 1.5]}
    bins = {"error": 0.1, "bins": [{"places": 1, "mean_score": 0.5, "hit_share": 1.0}]}
    rich = {
        "confused": confused,
        "learning": learning,
        "calibration": bins,
        "slices": {"with image": {"posts": 3, "f1_at_5": 0.1}},
    }
    two: Any = {"ks": [5], "models": [model("a", "linear", "1", 0.1, **rich), model("b", "svm", "1", 0.3)]}
    assert all(report_charts(two).values())


def test_names_are_text_in_the_picture() -> None:
    chart = bars({"sun & sea": 3.0}, "tags", "what it shows", "posts")
    assert chart["description"] == "what it shows"
    assert "sun &amp; sea" in chart["svg"]
    assert "posts" in lines([1.0, 2.0], "rates", "over time", "posts")["svg"]
