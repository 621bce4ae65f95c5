"""Sections of a board's page: seeds, trials, calibration."""

from typing import Any

from hashtag_core.evaluation.board_figures import report_figures
from hashtag_core.evaluation.board_page import (
    side_by_side_markdown,
)
from hashtag_core.evaluation.board_sections import done_entries
from tests.unit.evaluation.small_board import entry, rows_of


def test_learning_curves_stand_apart(report: dict[str, Any]) -> None:
    ranked = [[0, 5, 4, 3, 2]] * 4
    points = [entry(f"amnn-{n}", ranked, curve_of="amnn", train_share=n / 100) for n in (50, 25)]
    whole = {**report, "entries": [*report["entries"], *points]}
    assert done_entries(whole) == done_entries(report)
    page = side_by_side_markdown(whole, report_figures(whole))
    assert "![F1@5 over the number of train posts](shares.svg)" in page
    header, row = rows_of(page, "## What more posts would bring")
    assert header[1:] == ["25% of the train posts", "50% of the train posts", "100% of the train posts"]
    assert row[3].startswith("0.519<br>")
    assert row[1] == row[2] != row[3]
    assert "shares.svg" not in report_figures(report)


def test_nothing_done(report: dict[str, Any]) -> None:
    empty = {**report, "entries": report["entries"][2:]}
    assert done_entries(empty) == []
    assert report_figures(empty) == {}
    assert "**failed**" in side_by_side_markdown(empty, [])
