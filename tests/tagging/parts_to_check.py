"""Parts as checks of rejected rows see them."""

from dataclasses import dataclass

from hashtag_core.tagging.part_ids import LeftOut


@dataclass
class Work:
    """A part as `check_planned` sees it."""

    path: str
    rows: int
    left_out: list[LeftOut]


def part(path: str, rows: int, *left_out: tuple[int | None, str, int]) -> Work:
    return Work(path, rows, [LeftOut(row, None, reason, n) for row, reason, n in left_out])
