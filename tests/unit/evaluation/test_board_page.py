"""The side-by-side report: tables and pictures from hand-made figures, against the figures themselves."""

from typing import Any

import pytest

from hashtag_core.evaluation.board_page import (
    published_figures,
    side_by_side_markdown,
    side_by_side_table,
)
from tests.unit.evaluation.small_board import KS, entry, rows_of


def test_the_tables_hold_the_figures(report: dict[str, Any]) -> None:
    page = side_by_side_markdown(report, [])
    best = report["entries"][1]
    header, *rows = rows_of(page, "## At K = 5")
    assert [row[0] for row in rows] == ["amnn", "popularity"]
    # by hand: 2, 1, 3 and 1 of 5 places are hits, and every true tag is found: P = 7/20, R = 1
    assert rows[0][header.index("P@5")] == "0.350"
    assert rows[0][header.index("R@5")] == "1.000"
    assert rows[0][header.index("F1@5")].startswith("0.519<br><sub>")  # 2 * .35 / 1.35
    low, high = best["intervals"]["headline"]["f1_at_5"]
    assert rows[0][header.index("F1@5")].endswith(f"<sub>{low:.3f}–{high:.3f}</sub>")
    assert rows[0][header.index("K of validation")] == "2"
    assert rows[0][header.index("F1 there")] == f"{best['metrics']['headline']['f1_at_2']:.3f}"

    header, *rows = rows_of(page, "## Over K = 1 .. 5")
    assert header == ["F1", "K = 1", "K = 2", "K = 3", "K = 4", "K = 5"]
    for place, k in enumerate(KS):
        assert rows[0][place + 1].startswith(f"{best['metrics']['headline'][f'f1_at_{k}']:.3f}<br>")
    assert page.count("<details>") == page.count("</details>") == 11

    header, *rows = rows_of(page, "## Against the floors")
    assert rows[0] == ["amnn", "", "-0.050<br><sub>-0.100 .. +0.010</sub>", "", "0.080"]
    assert "more than 0.03 below `linear`: `amnn` (-0.050)." in page
    _, *rows = rows_of(page, "## What it costs")
    assert rows[0] == ["amnn", "1,234,567", "3", "2", "12", "420", "6.5", "50", "caption, image", "amnn.toml"]
    assert rows[1][2:4] == ["fitted once", "fitted once"]


def test_the_first_against_every_other_the_ceiling_and_the_seeds(report: dict[str, Any]) -> None:
    pair = {"first": "amnn", "second": "popularity", "value": 0.25, "low": 0.1, "high": 0.4}
    report["comparisons"] = [{**pair, "k": k, "p_value": 0.01, "p_holm": 0.02} for k in (1, 5)]
    report["ceiling"] = {"f1_at_5": 0.6, "precision_at_5": 0.5, "recall_at_5": 0.75}
    again = entry("amnn-seed1", [[5, 4, 3, 2, 1]] * 4, seed_of="amnn")
    page = side_by_side_markdown({**report, "entries": [*report["entries"], again]}, [])
    header, row = rows_of(page, "## The first against every other")
    assert header == ["system", "K = 1", "K = 5"]
    assert row == ["popularity", *["+0.250<br><sub>+0.100 .. +0.400</sub><br><sub>p 0.020</sub>"] * 2]
    assert "corrected for all 1 pairs" in page
    rows = [{**row, "p_holm_control": 0.015, "first_value": 0.5, "second_value": 0.25} for row in report["comparisons"]]
    turned = side_by_side_markdown({**report, "comparisons": rows, "control": "popularity"}, [])
    _, row = rows_of(turned, "## The control, `popularity`, against every other")
    assert row == ["amnn", *["-0.250<br><sub>-0.400 .. -0.100</sub><br><sub>p 0.015, 0.50 x</sub>"] * 2]
    assert "corrected for the 1 comparisons of this table" in turned
    *_, last = rows_of(page, "## At K = 5")
    assert last[:4] == ["*the most that the vocabulary allows*", "**0.600**", "**0.500**", "**0.750**"]
    _, row = rows_of(page, "## Over seeds")
    figures = [14 / 27, again["metrics"]["headline"]["f1_at_5"]]
    assert row[:3] == ["amnn", "2", f"{sum(figures) / 2:.3f}"]
    assert row[3:] == [f"{abs(figures[0] - figures[1]) / 2**0.5:.4f}", f"{min(figures):.3f}", f"{max(figures):.3f}"]
    assert "amnn-seed1" not in page


def test_claims_failures_and_the_articles_stand_apart(report: dict[str, Any]) -> None:
    page = side_by_side_markdown(report, [])
    _, first, second = rows_of(page, "## Claims")
    assert first[1:] == [
        "amnn less popularity",
        "caption of 1-4 words less: caption of 5+ words (3)",
        "f1_at_5, headline",
        "+0.125<br><sub>-0.250 .. +0.500</sub>",
        "0.400",
    ]
    assert second[2:] == ["all", "f1_at_5, headline", "svm not done", ""]
    assert "- `nic`: not applicable: reads image alone, which no post here has" in page
    assert "- `svm`: **failed**: TrainingError: a &lt;b&gt; loss" in page
    assert page.index("## What the articles report, on other data") > page.index("## What it costs")
    assert "never comparable" in page
    assert side_by_side_markdown({**report, "pairs": []}, []).count("## Claims") == 0


def test_the_table_for_the_terminal(report: dict[str, Any]) -> None:
    table = side_by_side_table(report)
    cells = {column.header: list(column.cells) for column in table.columns}
    assert cells["system"] == ["amnn", "popularity"]
    assert cells["F1@5"][0] == "0.519"
    assert cells["less linear"] == ["-0.050", ""]
    assert cells["parameters"][0] == "1,234,567"


def test_published_figures_are_those_of_the_articles() -> None:
    data = {item["name"].split(" (")[0]: item for item in published_figures()}
    assert set(data) == {
        "InstaNY100K", "own Instagram set", "HARRISON", "NUS-WIDE", "MM-INS", "7,160 Instagram posts",
    }  # fmt: skip
    for item in data.values():
        for system in item["systems"]:
            figures = {key: value for key, value in system.items() if isinstance(value, float)}
            assert all(0 < value < 1 for value in figures.values())
            if "f1" in figures:  # the articles round to three or four places
                mean = 2 * figures["precision"] * figures["recall"] / (figures["precision"] + figures["recall"])
                assert figures["f1"] == pytest.approx(mean, abs=1e-3)
            impossible = "hit_rate" in figures and figures["hit_rate"] < figures["precision"]
            assert impossible == ("cannot be" in system.get("remark", ""))


def test_trials_and_calibration_are_told(report: dict[str, Any]) -> None:
    """Where they were: a report of before there were any has no such section."""
    plain = side_by_side_markdown(report, [])
    assert "## Settings, chosen" not in plain
    assert "## How far scores" not in plain
    report["entries"][0] |= {
        "calibration": {"first": 0.04321, "all": 0.00321},
        "trials": {
            "number": 5,
            "metric": "f1_at_5",
            "chosen": {"training.learning_rate": 0.002, "model.prior_posts": None},
            "validation": 0.35,
            "validation_of_recipe": 0.31,
            "seconds": 61.4,
        },
    }
    told = side_by_side_markdown(report, [])
    name = report["entries"][0]["name"]
    assert f"| {name} | 5 | 0.310 | 0.350 | 61 | training.learning_rate = 0.002, model.prior_posts = null |" in told
    assert f"| {name} | 0.0432 | 0.0032 |" in told
    report["entries"][0]["calibration"] = {"first": 0.04321}
    assert f"| {name} | 0.0432 |  |" in side_by_side_markdown(report, [])
