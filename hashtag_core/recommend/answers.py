"""What `recommend` answers, as a person or another program reads it: text for a terminal, JSON, CSV. Needs no torch."""

import csv
import io
import json
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NotRequired, TypedDict

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table

FAULT = "not_read"
"""Status of what could not be read as a post at all."""

OWN = ("recommended_hashtags", "recommended_scores", "recommended_status", "recommended_detail")
"""Columns that stand beside the person's own in CSV; one of that name in the input is replaced."""

EXPLANATIONS = "recommended_explanations"
SCORE_BAR = 20
WIDTH = 80
POSTS_TOLD = 3
NAME_WIDTH = 24
BORDERS = 7
NOT_GIVEN = frozenset({"no caption", "no image"})
"""Details of a post that was asked about without a caption or a picture: nothing that needs to be told."""


@dataclass
class Answer:
    """The tags of one post: `hashtags` best first, with `scores`; `explanations` one a tag, where they were asked for."""

    name: str
    given: dict[str, str]
    hashtags: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    status: str = FAULT
    detail: str | None = None
    explanations: list[Any] | None = None


class AnsweredTag(TypedDict):
    """A tag of an answer; `explanation` where it was asked for."""

    hashtag: str
    score: float
    explanation: NotRequired[Any]


def as_json(answers: Iterable[Answer], model: str, family: str) -> str:
    """One JSON object in one line: `model`, `family`, and `posts` with `name`, the tags and the person's own columns."""
    posts = []
    for answer in answers:
        tags: list[AnsweredTag] = [
            {"hashtag": tag, "score": round(score, 6)}
            for tag, score in zip(answer.hashtags, answer.scores, strict=True)
        ]
        for index, explanation in enumerate(answer.explanations or []):
            tags[index]["explanation"] = explanation
        row = {"name": answer.name, "hashtags": tags, "status": answer.status, "detail": answer.detail}
        posts.append({**row, "given": answer.given})
    return json.dumps({"model": model, "family": family, "posts": posts}, ensure_ascii=False, allow_nan=False) + "\n"


def as_csv(answers: Iterable[Answer], delimiter: str = ",") -> str:
    """The person's own columns as they were, then `OWN`: tags and scores separated by a space, best first."""
    out = io.StringIO()
    writer: csv.DictWriter | None = None
    for answer in answers:
        own = dict(
            zip(
                OWN,
                (
                    " ".join(answer.hashtags),
                    " ".join(f"{score:.4f}" for score in answer.scores),
                    answer.status,
                    answer.detail or "",
                ),
                strict=True,
            )
        )
        if answer.explanations is not None:
            own[EXPLANATIONS] = json.dumps(answer.explanations, ensure_ascii=False)
        row = {name: cell for name, cell in answer.given.items() if name not in own} | own
        if writer is None:
            writer = csv.DictWriter(out, list(row), delimiter=delimiter, lineterminator="\n", extrasaction="ignore")
            writer.writeheader()
        writer.writerow(row)
    return out.getvalue()


def as_text(answers: Sequence[Answer], width: int = WIDTH) -> str:
    """One post: a tag a line with its score. Several: a table whose names are folded, never cut."""
    if len(answers) == 1:
        return _one(answers[0], width)
    out = io.StringIO()
    Console(file=out, width=width, color_system=None, emoji=False, highlight=False).print(_many(answers, width))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def _one(answer: Answer, width: int) -> str:
    longest = max((cell_len(tag) for tag in answer.hashtags), default=0)
    lines = []
    for index, (tag, score) in enumerate(zip(answer.hashtags, answer.scores, strict=True)):
        room = " " * (longest - cell_len(tag))
        lines.append(f"#{tag}{room}  {score:.3f}  {'█' * round(SCORE_BAR * score)}".rstrip())
        if answer.explanations is not None:
            explanation_text = explained(answer.explanations[index])
            lines += textwrap.wrap(explanation_text, width, initial_indent="    ", subsequent_indent="    ")
    lines += ["no hashtag"] * (not answer.hashtags) + [f"({_fault(answer)})"] * bool(_fault(answer))
    return "\n".join(lines) + "\n"


def _many(answers: Sequence[Answer], width: int) -> Table:
    names = min(max(cell_len(answer.name) for answer in answers) if answers else 4, NAME_WIDTH)
    room = max(width - names - BORDERS, NAME_WIDTH)
    table = Table(show_lines=True)
    table.add_column("post", overflow="fold", width=max(names, 4))
    table.add_column("hashtags", overflow="fold")
    for answer in answers:
        tags = [f"#{tag} {score:.2f}" for tag, score in zip(answer.hashtags, answer.scores, strict=True)]
        if answer.explanations is not None:
            lines = [
                f"{tag}\n    {explained(explanation)}"
                for tag, explanation in zip(tags, answer.explanations, strict=True)
            ]
        else:
            lines = _filled(tags, room)
        lines += [f"({_fault(answer)})"] * bool(_fault(answer))
        table.add_row(escape(answer.name), escape("\n".join(lines) or "-"))
    return table


def _filled(tags: Sequence[str], room: int) -> list[str]:
    """As many tags a line as fit, each with its score on the same line."""
    lines: list[str] = []
    for tag in tags:
        if lines and cell_len(lines[-1]) + 2 + cell_len(tag) <= room:
            lines[-1] += f"  {tag}"
        else:
            lines.append(tag)
    return lines


def _fault(answer: Answer) -> str:
    """What is wrong with the post; nothing where a picture or a caption was not given at all."""
    if answer.detail is None or answer.detail in NOT_GIVEN:
        return ""
    return f"{answer.status}: {answer.detail}"


def explained(explanation: Any) -> str:
    """An explanation in words: a string as it is; of a record each part with its amount, posts (`post_id`, `amount`) the first few."""
    if not isinstance(explanation, dict):
        return str(explanation)
    parts = []
    for name, value in explanation.items():
        if value in (None, [], {}) or name == "hashtag":
            continue
        words = name.replace("_", " ")
        parts.append(f"{words} {_amount(value)}" if not isinstance(value, list) else f"{words}: {_posts(value)}")
    return ", ".join(parts)


def _amount(value: Any) -> str:
    return f"{value:+.2f}" if isinstance(value, float) else str(value)


def _posts(values: Sequence[Any]) -> str:
    shown = [
        f"{value['post_id']} {_amount(value['amount'])}" if isinstance(value, dict) else str(value)
        for value in values[:POSTS_TOLD]
    ]
    return "; ".join(shown) + (f"; {len(values) - POSTS_TOLD} more" if len(values) > POSTS_TOLD else "")
