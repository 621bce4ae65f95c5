"""What a model gave to the posts of a split, as a table."""

import pytest

from hashtag_core.evaluation.ground_truth import Truth
from hashtag_core.judging.predictions import predictions
from tests.unit.judging.small_truth import POSTS, ranked


def test_predictions_by_hand(truth: Truth) -> None:
    table = predictions(ranked(truth, [[0, n or 3] for n in range(POSTS)]), truth, 3)
    assert table["post_id"] == ["test0", "test2", "test4"]
    assert table["true_hashtags"] == [
        ["tag000", "strange"],
        ["tag000", "tag002", "strange"],
        ["tag000", "tag004", "strange"],
    ]
    assert table["hashtags"] == [["tag000", "tag003"], ["tag000", "tag002"], ["tag000", "tag004"]]
    assert table["scores"][0] == pytest.approx([0.9, 0.9 - 0.8 / 11], abs=1e-5)
    assert table["status"] == ["ok", "ok", "ok"]
