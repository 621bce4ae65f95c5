"""The leaderboard of one evaluation: the order of the models, and what stands in the table."""

from typing import Any

import pytest

from hashtag_core.evaluation.report import leaderboard_markdown, leaderboard_table, main_figures, main_k, rank_models


def model(uri: str, f1: float) -> dict[str, Any]:
    names = ("f1", "precision", "recall", "hit_rate", "ndcg")
    figures = {f"{name}_at_{k}": f1 for name in names for k in (1, 5)} | {"f1_at_5_user_macro": f1, "posts": 3.0}
    return {
        "model": uri, "family": f"family {uri}", "version": "1", "metrics": figures, "papers": figures, "floor": figures,
        "intervals": {"headline": {"f1_at_5": [f1 - 0.1, f1 + 0.1]}}, "slices": {"with image": {**figures, "posts": 2.0}},
        "tags": {}, "thresholded": {}, "bleu": {"k": 2, "bleu_1": 0.5},
    }  # fmt: skip


REPORT: Any = {
    "dataset": "d", "dataset_hash": "h" * 64, "split": "test", "ks": [1, 5], "bootstrap_samples": 10, "notes": ["a note"],
    "models": [model("a|b", 0.25), model("best", 0.5), model("other", 0.25)],
    "differences": [{"first": "best", "second": "a|b", "value": 0.25, "low": 0.1, "high": 0.4, "p_value": 0.02}],
}  # fmt: skip


@pytest.mark.parametrize(("ks", "k"), [([1, 5, 10], 5), ([1, 3, 7], 3), ([7, 10], 7)])
def test_the_k_to_look_at_first(ks: list[int], k: int) -> None:
    assert main_k(ks) == k


def test_the_best_is_first_and_equal_ones_stay_in_order() -> None:
    assert [row["model"] for row in rank_models(REPORT)] == ["best", "a|b", "other"]


def test_main_figures_are_led_by_what_ranks() -> None:
    found = main_figures(REPORT["models"][0]["metrics"], [1, 5])
    assert list(found) == [
        "f1_at_5",
        "precision_at_5",
        "recall_at_5",
        "hit_rate_at_5",
        "ndcg_at_5",
        "f1_at_5_user_macro",
        "posts",
    ]


def test_the_page_has_tables_with_escaped_names() -> None:
    text = leaderboard_markdown(REPORT)
    assert "# test split of d (hhhhhhhhhhhh), 3 posts, protocol headline" in text
    assert "| best | family best | 1 | 0.5000 | 0.400–0.600 | 0.5000 |" in text
    assert "| a\\|b | family a\\|b | 1 | 0.2500 |" in text
    assert "| best - a\\|b | +0.2500 | +0.1000 .. +0.4000 | 0.020 |" in text
    assert "| with image | 2 | 0.5000 | 0.5000 | 0.5000 |" in text
    assert "BLEU of the first 2 tags against all true tags (protocol headline): bleu_1 0.5000." in text
    assert "- a note" in text


@pytest.mark.parametrize(("width", "columns"), [(200, 11), (80, 8)])
def test_a_narrow_terminal_gets_the_main_figures(width: int, columns: int) -> None:
    assert len(leaderboard_table(REPORT, width).columns) == columns
