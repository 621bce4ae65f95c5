"""Figures by kind of post and by band of tags, by hand."""

import numpy as np

from hashtag_core.evaluation.metrics import index_metrics, judge
from hashtag_core.evaluation.slices import frequency_bands, post_slices, slice_metrics, tag_slices


def test_post_slices():
    found = post_slices([0, 0, 4, 5, 1], [1, 0, 1, 1, 0], [0, 1, 4, 5, 99])
    assert {name: np.flatnonzero(mask).tolist() for name, mask in found.items()} == {
        "caption absent": [0, 1],
        "caption of 1-4 words": [2, 4],
        "caption of 5+ words": [3],
        "with image": [0, 2, 3],
        "without image": [1, 4],
        "history of 0 posts": [0],
        "history of 1-4 posts": [1, 2],
        "history of 5+ posts": [3, 4],
    }


def test_slices_are_the_metrics_of_their_posts():
    judged = judge([[0], [1], [2]], [[0], [0], [5]], 3)
    slices = {"first two": np.array([True, True, False]), "last": np.array([False, False, True])}
    assert set(slice_metrics(judged, slices, [1], "floor")) == {"first two"}
    found = slice_metrics(judged, slices, [1], "headline")
    assert (found["first two"]["precision_at_1"], found["last"]["precision_at_1"]) == (0.5, 0.0)
    assert found["first two"] == index_metrics(judge([[0], [1]], [[0], [0]], 3), [1], "headline")


def test_frequency_bands_hold_a_third_of_the_uses_each():
    bands = frequency_bands([30, 10, 10, 10, 10, 10, 5, 5])
    assert {name: np.flatnonzero(mask).tolist() for name, mask in bands.items()} == {
        "head": [0],
        "middle": [1, 2, 3],
        "tail": [4, 5, 6, 7],
    }
    assert all(mask.shape == (0,) for mask in frequency_bands([]).values())


def test_tag_slices_by_hand():
    counts = [30, 20, 10]
    truth = [[0, 1], [2, 3], [0]]
    judged = judge([[0, 2], [2, 0], [1, 0]], truth, 3)
    found = tag_slices(judged, truth, counts, [1, 2])
    assert found["head"] == {"tags": 1, "uses": 2, "recall_at_1": 0.5, "recall_at_2": 1.0}
    assert found["middle"] == {"tags": 1, "uses": 1, "recall_at_1": 0.0, "recall_at_2": 0.0}
    assert found["tail"] == {"tags": 1, "uses": 1, "recall_at_1": 1.0, "recall_at_2": 1.0}
    assert found["unseen"] == {"tags": 1, "uses": 1, "recall_at_1": 0.0, "recall_at_2": 0.0}
    assert tag_slices(judge([[3]], [[3]], 3), [[3]], counts, [1])["unseen"]["recall_at_1"] == 1.0
