"""What the gallery is told of a model's attention, and the table of predictions: a dataset of a few posts, a real model folder."""

from collections.abc import Callable
from pathlib import Path

import torch

from hashtag_core.data.batches import collate
from hashtag_core.evaluation.ground_truth import Truth
from hashtag_core.judging.attention import looks
from hashtag_core.recommend.read_posts import READ
from hashtag_core.recommend.recommender import Recommender


def test_digits_are_the_shares_of_the_cells(truth: Truth, looking: Path) -> None:
    found = looks(looking, truth, [0, 1, 2, 4])
    assert found.keys() == {0, 1, 4}
    recommender = Recommender.load(str(looking))
    for row, digits in found.items():
        table = next(truth.dataset.read("test", READ.names)).slice(row, 1)
        batch = collate(
            recommender.featurize(recommender.open_posts(table)), recommender.needs, None, frozenset({"image"}), None
        )
        with torch.inference_mode():
            shares_R = recommender.loaded.model.looks_at(batch)[0]
        assert digits == "".join(str(round(9 * float(share / shares_R.max()))) for share in shares_R)
        assert len(digits) == recommender.encoders.section.grid_side**2


def test_a_model_without_attention_tells_nothing(
    truth: Truth, tmp_path: Path, make_model_folder: Callable[..., Path]
) -> None:
    assert looks(make_model_folder(tmp_path / "linear"), truth, [0, 1]) == {}
