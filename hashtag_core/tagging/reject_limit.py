"""Stops a run that is fed rubbish: too many of the rows are rejected. Rows of a repeated id or a forgotten user are none."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from hashtag_core.data.parquet_rows import Rejected
from hashtag_core.errors import HashtagError
from hashtag_core.output.forget_users.forget_list import FORGOTTEN
from hashtag_core.output.moved_rows import REPEATED
from hashtag_core.tagging.part_ids import LeftOut

ENOUGH_ROWS = 1_000
"""Rows, or a tenth of the work if that is less, that are looked at before a run is judged by them."""

SHOWN_REASONS = 3


class TooManyRejectedError(HashtagError):
    """What was found is no archive of posts any more; what is published already stays."""


@dataclass
class Rejects:
    """Rejected rows by reason, and where each reason was met first."""

    counts: Counter[str] = field(default_factory=Counter)
    firsts: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, rows: int, part: str, row: int | None) -> None:
        """So many rows of a part, the first of them `row`; None: the part."""
        self.counts[reason] += rows
        self.firsts.setdefault(reason, part if row is None else f"{part}, row {row}")

    def check(self, share: float, limit: float) -> None:
        """TooManyRejectedError if the share is beyond the limit."""
        if share <= limit:
            return
        found = [
            f"{n} x {reason} (first: {self.firsts[reason]})" for reason, n in self.counts.most_common(SHOWN_REASONS)
        ]
        more = f"; {len(self.counts) - len(found)} more reason(s)" if len(self.counts) > len(found) else ""
        raise TooManyRejectedError(
            f"{share:.1%} of the rows are rejected, more than the {limit:.1%} of max_rejected: {'; '.join(found)}{more}"
        )


class Planned(Protocol):
    """What is asked of a part's work."""

    left_out: list[LeftOut]

    @property
    def path(self) -> str: ...

    @property
    def rows(self) -> int: ...


def check_planned(works: Sequence[Planned], limit: float) -> float:
    """The share of rows of these parts that the plan rejects; a part of which nothing is known counts as one of mean size.

    TooManyRejectedError if it is beyond the limit.
    """
    rejects, sizes = Rejects(), [work.rows for work in works if work.rows]
    unknown = max(1, round(sum(sizes) / max(1, len(sizes))))
    for work in works:
        for left in work.left_out:
            if left.reason != FORGOTTEN and not left.reason.startswith(REPEATED):
                rejects.add(left.reason, unknown if left.row is None else left.rows, work.path, left.row)
    total = sum(work.rows or unknown for work in works if work.rows or work.left_out)
    share = rejects.counts.total() / max(1, total)
    rejects.check(share, limit)
    return share


class RejectWatch:
    """Judges a run by the rows that it has seen: `planned` is the share that the plan rejects, `rows` the work."""

    def __init__(self, limit: float, planned: float, rows: int) -> None:
        self.limit, self.planned = limit, planned
        self.enough = min(ENOUGH_ROWS, -(-rows // 10))
        self.seen = 0
        self.rejects = Rejects()

    def take(self, part: str, tagged: int, reasons: Mapping[str, Sequence[int]]) -> None:
        """A chunk's tagged rows, and its rejected ones as `tell` has them. TooManyRejectedError if it is beyond the limit."""
        for reason, (rows, first) in reasons.items():
            self.rejects.add(reason, rows, part, first)
        self.seen += tagged + sum(rows for rows, _ in reasons.values())
        if self.seen >= max(1, self.enough):
            here = self.rejects.counts.total() / self.seen
            self.rejects.check(self.planned + (1 - self.planned) * here, self.limit)


def tell(rejected: Iterable[Rejected]) -> dict[str, list[int]]:
    """Reason -> rows and the first of them."""
    by_reason: dict[str, list[int]] = {}
    for item in rejected:
        row = item.row or 0
        rows, first = by_reason.get(item.reason, (0, row))
        by_reason[item.reason] = [rows + 1, min(first, row)]
    return by_reason
