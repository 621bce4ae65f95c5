"""Sections of the page that sets systems side by side: over seeds, trials, calibration; and what all its sections are made with.

A report is what `leaderboard.report` writes as `report.json`.
"""

import json
from collections.abc import Sequence
from statistics import mean, stdev
from typing import Literal

from hashtag_core.evaluation.board_record import BoardEntry, BoardReport
from hashtag_core.evaluation.report import main_k, markdown_table

CALIBRATION: dict[Literal["first", "all"], str] = {
    "first": "over the tags of the lists",
    "all": "over all pairs of a post and a tag",
}
"""Expected calibration errors of a report, in ten equally wide bins of scores."""


def done_entries(report: BoardReport) -> list[BoardEntry]:
    """What was trained on all posts and judged, best F1 at `main_k` (protocol headline) first."""
    key = f"f1_at_{main_k(report['ks'])}"
    done = [entry for entry in report["entries"] if entry["status"] == "done" and not _of_another(entry)]
    return sorted(done, key=lambda entry: -entry["metrics"]["headline"][key])


def _of_another(entry: BoardEntry) -> bool:
    return bool(entry["curve_of"] or entry.get("seed_of"))


def seeds_section(report: BoardReport) -> str:
    """Mean and spread over seeds, for the systems that were trained with several."""
    key = f"f1_at_{main_k(report['ks'])}"
    rows = []
    for entry in done_entries(report):
        others = [e for e in report["entries"] if e.get("seed_of") == entry["name"] and e["status"] == "done"]
        figures = [float(each["metrics"]["headline"][key]) for each in (entry, *others)]
        if others:
            spread = [number(mean(figures)), f"{stdev(figures):.4f}", number(min(figures)), number(max(figures))]
            rows.append([entry["name"], str(len(figures)), *spread])
    if not rows:
        return ""
    header = ["system", "seeds", f"mean F1@{main_k(report['ks'])}", "standard deviation", "least", "most"]
    description = "Where a system is compared with another above, it is the mean over its seeds.\n"
    return "\n## Over seeds\n\n" + table(header, rows) + f"\n{description}"


def trials_section(report: BoardReport) -> str:
    """What was chosen on the validation split, for the systems whose settings were searched for."""
    rows = []
    for entry in done_entries(report):
        tried = entry.get("trials")
        if tried:
            chosen = ", ".join(f"{name} = {json.dumps(value)}" for name, value in tried["chosen"].items())
            own = tried["validation_of_recipe"]
            best = tried["validation"]
            figures = ["" if figure is None else number(figure) for figure in (own, best)]
            rows.append(
                [
                    entry["name"],
                    str(tried["number"]),
                    *figures,
                    f"{tried['seconds']:.0f}",
                    chosen or "each fold its own",
                ]
            )
    if not rows:
        return ""
    header = ["system", "trials", "validation figure as the recipe is", "of the best", "seconds, all", "chosen"]
    description = "The best of several validation figures is too good a figure of any of them: it only chooses.\n"
    return "\n## Settings, chosen on the validation split\n\n" + table(header, rows) + f"\n{description}"


def calibration_section(report: BoardReport) -> str:
    """How far the scores are probabilities, of the systems that this was asked of."""
    rows = []
    for entry in done_entries(report):
        errors = entry.get("calibration") or {}
        if errors:
            rows.append([entry["name"], *[f"{errors[name]:.4f}" if name in errors else "" for name in CALIBRATION]])
    if not rows:
        return ""
    description = (
        f"Lists of {max(report['ks'])} tags; ten bins of equal width; posts with a true tag (Naeini et al. 2015).\n"
    )
    header = ["expected calibration error", *CALIBRATION.values()]
    return "\n## How far scores are probabilities\n\n" + table(header, rows) + f"\n{description}"


def number(value: float) -> str:
    """Three places."""
    return f"{value:.3f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown, figures to the right; nothing without a row."""
    return markdown_table(header, rows, "---:")
