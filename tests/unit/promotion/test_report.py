"""What the gates said, as a page."""

from hashtag_core.promotion.gates import Duel, Gate
from hashtag_core.promotion.report import promotion_html, promotion_markdown
from tests.unit.promotion.contenders import gain


def test_the_report_shows_every_gate_and_escapes_names():
    gates = [Gate("gain", True, "more | than before"), Gate("slices", False, "<b>lost</b>")]
    facts = {
        "challenger": "models:/a<b>/2", "champion": None, "verdict": "refused", "dataset": "here", "dataset_hash": "a" * 64,
        "split": "test", "at": "now", "by": "me", "forced": None, "figures": {"models:/a/2": {"f1_at_5": 0.25}},
    }  # fmt: skip
    text = promotion_markdown(facts, gates, [Duel("old", gain(0.1), {"without image": (30, gain(-0.1))})])
    page = promotion_html(text, "title")
    for part in (
        "gain",
        "<strong>refused</strong>",
        "&lt;b&gt;lost",
        "0.2500",
        "without image",
        "-0.1000",
        "more | than before",
    ):
        assert part in page
    assert "<b>" not in page
