"""Two models' lists side by side, by hand."""

import pytest

from hashtag_core.promotion.agreement import agreement, agreement_html, agreement_markdown, most_different


def row(*pairs: tuple[str, float]) -> dict[str, object]:
    return {"hashtags": [tag for tag, _ in pairs], "scores": [score for _, score in pairs]}


OURS = [row(("a", 0.9), ("b", 0.5)), row(("a", 0.8), ("c", 0.1)), row(), row(("d", 0.2))]
THEIRS = [row(("a", 0.7), ("b", 0.5)), row(("c", 0.6), ("e", 0.5)), row(), row()]


def test_figures_by_hand():
    found = agreement(OURS, THEIRS, 2)
    assert found.overlap_N.tolist() == [1.0, 0.5, 1.0, 0.0]
    assert found.figures["agreement_at_1"] == 2 / 4
    assert found.figures["overlap_at_2"] == 2.5 / 4
    assert found.figures["same_list"] == 2 / 4
    assert found.figures["score_difference"] == pytest.approx((0.2 + 0.0 + 0.5) / 3)
    assert most_different(found, 2) == [3, 1]
    assert agreement(OURS, THEIRS, 1).overlap_N.tolist() == [1.0, 0.0, 1.0, 0.0]


def test_the_same_model_agrees_with_itself_and_no_posts_are_no_trouble():
    found = agreement(OURS, OURS, 2)
    assert (found.figures["overlap_at_2"], found.figures["same_list"], found.figures["drift_psi"]) == (1.0, 1.0, 0.0)
    assert agreement([], [], 5).figures == {
        "posts": 0.0, "agreement_at_1": 1.0, "overlap_at_5": 1.0, "same_list": 1.0, "score_difference": 0.0,
    }  # fmt: skip


def test_the_page_escapes_what_people_wrote():
    text = agreement_markdown(("models:/m/2", "models:/m/1"), agreement(OURS, THEIRS, 2), "here", 1)
    page = agreement_html(
        text, "t", [{"post_id": "1", "caption": "<script>x</script>", "png": b"png", "ours": "a", "theirs": "b"}]
    )
    assert "<script>" not in page
    assert "data:image/png;base64,cG5n" in page
    assert "0.6250" in page
