"""The posts of a report, as its page reads them."""

import pytest

from hashtag_core.evaluation import gallery as shown
from hashtag_core.evaluation.gallery import shown_rows
from tests.unit.evaluation.small_gallery import gallery


def test_budgets_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shown, "THUMBNAIL_BUDGET_BYTES", 20)
    monkeypatch.setattr(shown, "CAPTION_BUDGET", 40)
    data = gallery(10, caption="y" * 50).data()
    assert len(data["thumbnails"]) == 2
    assert [post["t"] for post in data["posts"]] == [0, 0, 1, 1, -2, -2, -2, -2, -2, -2]
    assert {(post["c"], post["x"]) for post in data["posts"]} == {("yyyy", 1)}


def test_shown_rows_are_spread_evenly() -> None:
    assert list(shown_rows(3, 5)) == [0, 1, 2]
    assert list(shown_rows(10, 4)) == [0, 2, 5, 7]
