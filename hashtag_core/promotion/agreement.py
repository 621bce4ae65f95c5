"""Two models on the same posts, without knowing who is right: how far they agree, and where they do not."""

import base64
import html
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from hashtag_core.evaluation.board_page import side_by_side_html
from hashtag_core.evaluation.drift import describe_psi, population_stability_index
from hashtag_core.schema import TaggedRow


class ComparedPost(TypedDict):
    """A post and the tags that each model gives it, as one text; `png`: its picture."""

    post_id: str
    caption: str | None
    png: bytes | None
    ours: str
    theirs: str


@dataclass(frozen=True)
class Agreement:
    """Figures over all posts, and each post's own overlap."""

    figures: dict[str, float]
    overlap_N: np.ndarray
    """Share of the longer list that both hold, by post; 1 where both are empty."""


def agreement(ours: Sequence[TaggedRow], theirs: Sequence[TaggedRow], k: int) -> Agreement:
    """Of TAGGED rows of the same posts in the same order, the first `k` tags:

    `agreement_at_1`: share of posts whose first tag is the same. `overlap_at_k`: mean share of tags that both give.
    `same_list`: share of posts with the same tags in the same order. `score_difference`: mean distance of the scores of
    tags that both give. `drift_psi`: population stability index of the tags (absent where one gives none at all).
    """
    pairs = [(list(one["hashtags"])[:k], list(other["hashtags"])[:k]) for one, other in zip(ours, theirs, strict=True)]
    overlaps = np.array([_overlap(one, other) for one, other in pairs])
    distances = [
        abs(score - scores[tag])
        for one, other in zip(ours, theirs, strict=True)
        for scores in [dict(zip(other["hashtags"], other["scores"], strict=True))]
        for tag, score in zip(one["hashtags"], one["scores"], strict=True)
        if tag in scores
    ]
    figures = {
        "posts": float(len(pairs)),
        "agreement_at_1": float(np.mean([one[:1] == other[:1] for one, other in pairs])) if pairs else 1.0,
        f"overlap_at_{k}": float(overlaps.mean()) if pairs else 1.0,
        "same_list": float(np.mean([one == other for one, other in pairs])) if pairs else 1.0,
        "score_difference": float(np.mean(distances)) if distances else 0.0,
    }
    counts = [Counter(tag for pair in pairs for tag in pair[side]) for side in (0, 1)]
    psi = population_stability_index(counts[0], counts[1])
    return Agreement(figures if psi is None else {**figures, "drift_psi": psi}, overlaps)


def most_different(found: Agreement, count: int) -> list[int]:
    """Rows of the posts with the smallest overlap, the first of equal ones first."""
    return [int(row) for row in found.overlap_N.argsort(kind="stable")[:count]]


def agreement_markdown(names: tuple[str, str], found: Agreement, archive: str, parts: int) -> str:
    """The figures as a page; no post stands in it."""
    drift = found.figures.get("drift_psi")
    lines = [
        f"# {html.escape(names[0])} beside {html.escape(names[1])}\n",
        f"{found.figures['posts']:.0f} posts of {parts} part(s) of {html.escape(archive)}, tagged by both; nothing was written.\n",
        "| | |",
        "|---|---|",
        *(f"| {name.replace('_', ' ')} | {value:.4f} |" for name, value in found.figures.items()),
    ]
    if drift is not None:
        lines.append(f"\nDrift of the tags: {describe_psi(drift)}.")
    return "\n".join(lines) + "\n"


def agreement_html(markdown: str, title: str, posts: Sequence[ComparedPost]) -> str:
    """The page with the posts that differ the most."""
    cards = []
    for post in posts:
        image = (
            f'<img alt="" width="160" src="data:image/png;base64,{base64.b64encode(post["png"]).decode()}">'
            if post["png"]
            else "no picture"
        )
        cells = post["post_id"], post["caption"] or "", post["ours"], post["theirs"]
        texts = [html.escape(cell) for cell in cells]
        cards.append(f"<tr><td>{image}</td>" + "".join(f"<td class=left>{text}</td>" for text in texts) + "</tr>")
    table = (
        "\n## Posts that differ the most\n\n<table><tr><th></th><th>post</th><th>caption</th><th>challenger</th>"
        f"<th>champion</th></tr>{''.join(cards)}</table>\n"
    )
    return side_by_side_html(markdown + (table if cards else ""), title, {})


def _overlap(one: Sequence[str], other: Sequence[str]) -> float:
    longer = max(len(one), len(other))
    return len(set(one) & set(other)) / longer if longer else 1.0
