"""What the vocabulary's tags count for."""

from hashtag_core.training.job import tag_counts


def test_a_tag_counts_once_a_post() -> None:
    assert tag_counts([[0, 2, 2], [], [2]], 4).tolist() == [1, 0, 2, 0]
    assert tag_counts([], 2).tolist() == [0, 0]
