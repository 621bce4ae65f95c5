"""Contenders with figures that are worked by hand."""

from hashtag_core.config import GatesSection
from hashtag_core.evaluation.significance import Difference
from hashtag_core.promotion.gates import Contender, Duel, Gate, judge_challenger

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
