"""Systems against each other on the same posts."""

import numpy as np
import pytest

from hashtag_core.evaluation.metrics import index_metrics, judge_tags, post_scores
from hashtag_core.leaderboard.compare import pooled

FIRST = judge_tags([["a", "b"], ["b"]], [["a", "x"], ["b"]], ["a", "b"])


"""Two posts: one of two hits, the other true tag is not in the vocabulary; one hit."""


SECOND = judge_tags([["b", "new", "c"]], [["c", "b", "a", "new"]], ["c", "b", "d"])


"""One post of another fold, whose vocabulary has other tags in other places; the second tag given is in no vocabulary."""


def test_posts_of_folds_are_judged_by_their_own_vocabulary() -> None:
    both = pooled([FIRST, SECOND])
    assert both.hits_NK.tolist() == [[True, False, False], [True, False, False], [True, True, True]]
    assert both.truth_N.tolist() == [2, 1, 4]
    assert both.known_N.tolist() == [1, 1, 2]
    headline = index_metrics(both, [2], "headline")
    assert headline["precision_at_2"] == pytest.approx((1 / 2 + 1 / 2 + 2 / 2) / 3)
    assert headline["recall_at_2"] == pytest.approx((1 / 2 + 1 + 2 / 4) / 3)
    papers = index_metrics(both, [3], "papers")  # what is in no vocabulary is no hit there
    assert papers["precision_at_3"] == pytest.approx((1 / 3 + 1 / 3 + 2 / 3) / 3)
    assert papers["recall_at_3"] == pytest.approx(1.0)
    for protocol in ("headline", "papers", "floor"):
        apart = [post_scores(part, [1, 2, 3], protocol) for part in (FIRST, SECOND)]  # type: ignore[arg-type]
        together = post_scores(both, [1, 2, 3], protocol)  # type: ignore[arg-type]
        for name, values in together.items():
            assert values == pytest.approx(np.concatenate([part[name] for part in apart])), (protocol, name)
    assert pooled([FIRST]) is FIRST
