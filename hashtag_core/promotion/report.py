"""What the gates said, as a page: Markdown, and HTML made of it. No post and no user stands in it."""

import html
from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict

from hashtag_core.evaluation.board_page import side_by_side_html
from hashtag_core.promotion.gates import Duel, Gate, GateRecord

HOW_TO_READ = (
    "Differences: paired bootstrap over users. A gain must be larger than the margin and beyond chance; a loss counts "
    "where it is larger than the limit and beyond chance."
)


class PromotionFacts(TypedDict):
    """What was judged, and what came of it."""

    challenger: str
    champion: str | None
    """None while there is none."""
    verdict: str
    dataset: str
    dataset_hash: str
    split: str
    at: str
    by: str
    forced: str | None
    """The reason."""
    figures: Mapping[str, Mapping[str, float]]
    """Model -> name -> figure."""


class PromotionRecord(PromotionFacts):
    """`promotion.json`."""

    gates: list[GateRecord]


class PromoteSummary(TypedDict):
    """What `jobs/promote.py` prints: model URIs, None where there is none."""

    promoted: bool
    rolled_back: NotRequired[bool]
    champion: str | None
    previous: str | None
    taken_off: NotRequired[str | None]
    gates: list[GateRecord]
    run_id: NotRequired[str]
    forced: NotRequired[str]
    dry_run: NotRequired[bool]
    challenger: NotRequired[str]


class PromotionReason(TypedDict):
    """Why the champion moved, as it is kept with the move."""

    dataset_hash: str
    split: str
    run_id: str
    figures: dict[str, float]
    """Model -> the deciding figure."""
    refused_by: list[str]
    forced: NotRequired[str]


def promotion_markdown(facts: PromotionFacts, gates: Sequence[Gate], duels: Sequence[Duel]) -> str:
    """The page."""
    against = (
        f"Against {_text(facts['champion'] or 'the floors: there is no champion yet')}, on the {_text(facts['split'])} split "
        f"of {_text(facts['dataset'])} ({facts['dataset_hash'][:12]}), {facts['at']}, by {_text(facts['by'])}.\n"
    )
    lines = [f"# {_text(facts['challenger'])}: {_text(facts['verdict'])}\n", against]
    if facts.get("forced"):
        lines.append(f"**Forced past the gates:** {_text(facts['forced'])}\n")
    lines += ["## Gates\n", "| gate | verdict | |", "|---|---|---|"]
    lines += [
        f"| {gate.name} | {'passed' if gate.passed else '**refused**'} | {_text(gate.detail)} |" for gate in gates
    ]
    figures = facts["figures"]
    if figures:
        lines += ["", "## Figures\n", f"| | {' | '.join(map(_text, figures))} |", "|---" * (len(figures) + 1) + "|"]
        names = dict.fromkeys(name for of_model in figures.values() for name in of_model)
        for name in names:
            cells = (f"{of_model[name]:.4f}" if name in of_model else "" for of_model in figures.values())
            lines.append(f"| {_text(name)} | {' | '.join(cells)} |")
    for duel in duels:
        if duel.slices:
            lines += ["", f"## Kinds of posts and tags, minus {_text(duel.against)}\n"]
            lines += ["| slice | posts | difference | 95 % interval | p |", "|---|---|---|---|---|"]
            lines += [
                f"| {_text(name)} | {posts} | {found.value:+.4f} | {found.low:+.4f} .. {found.high:+.4f} | {found.p_value:.3f} |"
                for name, (posts, found) in duel.slices.items()
            ]
    lines += ["", HOW_TO_READ]
    return "\n".join(lines) + "\n"


def promotion_html(markdown: str, title: str) -> str:
    """The page as one HTML file."""
    return side_by_side_html(markdown, title, {})


def _text(value: object) -> str:
    return html.escape(" ".join(str(value).split()), quote=False).replace("|", "\\|")
