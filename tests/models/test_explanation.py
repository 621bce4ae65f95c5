"""Parts of a logit add up to it."""

import torch

from hashtag_core.models.explanation import Explanation, carried


def test_the_total_is_the_sum_of_all_parts() -> None:
    found = Explanation(
        base_BT=torch.tensor([[1.0, 2.0]]),
        parts_BT={"image": torch.tensor([[0.5, -1.0]]), "caption": torch.tensor([[0.25, 0.0]])},
        history_BTH=torch.tensor([[[1.0, 1.0], [0.0, -2.0]]]),
        neighbours_BTK=torch.tensor([[[0.125], [4.0]]]),
        neighbour_ids=[["n"]],
    )
    assert found.total().tolist() == [[3.875, 3.0]]


def test_which_post_of_a_history_carries_which_tag() -> None:
    tags_BHL = torch.tensor([[[0, 3], [3, -1]]])
    assert carried(tags_BHL, torch.tensor([[3, 0, 7]])).tolist() == [[[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]]]
