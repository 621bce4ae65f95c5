"""What the gates said, as a page."""

from hashtag_core.config import GatesSection
from hashtag_core.evaluation.significance import Difference
from hashtag_core.promotion.gates import Contender, Duel, Gate, judge_challenger
from hashtag_core.promotion.report import promotion_html, promotion_markdown

GATES = GatesSection()


def contender(uri: str = "new", figure: float = 0.3, trained_on: str | None = "aaa", **more: float) -> Contender:
    figures = {"f1_at_5": figure, "coverage": 0.6, "novelty": 5.0, **more}
    return Contender(uri, {"headline": figures, "floor": {"f1_at_5": figure / 2}}, trained_on, posts_per_second=100.0)


CHAMPION = contender("old", 0.2)


def gain(value: float, p_value: float = 0.001, half: float = 0.01) -> Difference:
    return Difference(value, value - half, value + half, p_value)


def judged(
    challenger: Contender | None = None,
    champion: Contender | None = CHAMPION,
    found: Difference | None = None,
    slices: dict[str, tuple[int, Difference]] | None = None,
    gates: GatesSection = GATES,
    posts: int = 50,
    uses: int = 0,
) -> dict[str, Gate]:
    duels = [Duel("old", found or gain(0.1), slices or {})]
    decided = judge_challenger(challenger or contender(), champion, duels, "aaa", posts, uses, gates)
    return {gate.name: gate for gate in decided}


def refused(**how) -> set[str]:
    return {name for name, gate in judged(**how).items() if not gate.passed}


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
