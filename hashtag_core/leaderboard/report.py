"""The report of a leaderboard: differences from the kept lists, pictures, tables, files.

`report.json` and `report.md` hold figures and names of systems alone: no post, no user, no hashtag, no place on this machine.
`report.html`, which is never published, shows posts and hashtags too, unless `evaluation.gallery_posts` is 0.
"""

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TypeVar

from hashtag_core import storage
from hashtag_core.evaluation.board_figures import report_figures
from hashtag_core.evaluation.board_page import FLOORS, side_by_side_html, side_by_side_markdown
from hashtag_core.evaluation.board_record import BoardEntry, BoardFacts, BoardReport, SystemState
from hashtag_core.evaluation.board_sections import done_entries
from hashtag_core.evaluation.report import main_k
from hashtag_core.evaluation.report_record import CalibrationErrors, JudgedFigures
from hashtag_core.leaderboard.compare import KS, Comparison, Part, rounded
from hashtag_core.leaderboard.gallery import systems_gallery
from hashtag_core.leaderboard.plan import Entry, LeaderboardPlan
from hashtag_core.leaderboard.pooled import pooled_state
from hashtag_core.models import FittedModel, family

logger = logging.getLogger(__name__)

KEPT = re.compile(
    r"(precision|recall|f1|hit_rate|ndcg)_at_\d+|f1_at_\d+_user_macro|posts|tags|uses|mean_average_precision|coverage|gini|novelty"
)
"""Figures that the report holds; a system's `state.json` has them all."""
PUBLISHED = ("report.md", "report.json")

T = TypeVar("T")


def write_report(plan: LeaderboardPlan, parts: Sequence[Part]) -> BoardReport:
    """Write OUT/report, and copy what is to be published; returns what `report.json` holds, the best system first. `parts`: the
    folds that it is of, or the one board."""
    everywhere = [{name for name, state in part.states.items() if state["status"] == "done"} for part in parts]
    compared = Comparison(plan, parts, set.intersection(*everywhere))
    states = {entry.name: pooled_state(entry, compared) for entry in plan.entries}
    entries = [_row(entry, states[entry.name]) for entry in plan.entries]
    report: BoardReport = {
        "format": 1,
        "name": plan.name,
        "command": plan.command,
        "dataset_hash": _data_hash(parts),
        "data": _facts(parts),
        "split": parts[0].truth.split,
        "ks": sorted(set(plan.recipe.evaluation.ks)),
        "bootstrap_samples": plan.recipe.evaluation.bootstrap_samples,
        "notes": _notes(plan, parts),
        "entries": entries,
        "pairs": [],
        "comparisons": [],
        "ceiling": {},
    }
    if plan.control:
        report["control"] = plan.control
    metric = f"f1_at_{main_k(report['ks'])}"
    for row in entries:
        if row["status"] == "done" and not row["curve_of"] and not row["seed_of"]:
            found = {floor: compared.pair(row["name"], floor, metric) for floor in FLOORS if floor != row["name"]}
            row["differences"] = {floor: rounded(item.as_record()) for floor, item in found.items() if item}
    report["pairs"] = [compared.claim(pair) for pair in plan.pairs]
    order = {entry["name"]: index for index, entry in enumerate(done_entries(report))}
    report["comparisons"] = compared.everyone(list(order), [k for k in KS if k in report["ks"]])
    if order:
        report["ceiling"] = rounded(compared.ceiling(next(iter(order)), report["ks"]))
    entries.sort(key=lambda row: order.get(row["name"], len(order)))
    figures = report_figures(report)
    markdown = side_by_side_markdown(report, figures)
    page = _page(plan, parts[0], list(order), markdown, figures)
    data = json.dumps(report, ensure_ascii=False, separators=(",", ":")).replace('{"name"', '\n{"name"') + "\n"
    written = {"report.md": markdown, "report.html": page, "report.json": data, **figures}
    for name, text in written.items():
        storage.write_bytes(storage.join(plan.out, "report", name), text.encode())
        if plan.publish and name in (*PUBLISHED, *figures):
            storage.write_bytes(storage.join(plan.publish, name), text.encode())
    return report


def _page(plan: LeaderboardPlan, part: Part, order: Sequence[str], markdown: str, figures: Mapping[str, str]) -> str:
    """`report.html`, with the posts of the board, or of its first fold."""
    gallery = systems_gallery(part, order)
    confused = [(name, part.states[name]["row"].get("confused") or []) for name in order if gallery]
    title = f"{plan.name}: every system on the same posts"
    return side_by_side_html(markdown, title, figures, gallery, [pair for pair in confused if pair[1]])


def _row(entry: Entry, state: SystemState) -> BoardEntry:
    """What the report holds of one system."""
    cls = family(entry.recipe.model.family)
    row: BoardEntry = {
        "name": entry.name,
        "family": cls.name,
        "kind": "fitted" if issubclass(cls, FittedModel) else "neural",
        "recipe": entry.source,
        "reads": state["reads"],
        "curve_of": entry.curve_of,
        "seed_of": entry.seed_of,
        "seed": entry.recipe.training.seed,
        "history_posts": getattr(entry.options, "history_posts", 0) if "history" in state["reads"] else 0,
        "train_share": entry.recipe.training.train_share,
        "status": state["status"],
    }
    if state["status"] != "done":
        return {**row, "reason": state.get("reason", "not finished")}
    judged = state["row"]
    return {
        **row,
        "parameters": state["parameters"],
        "epochs": state["epochs"],
        "best_epoch": state["best_epoch"],
        "train_seconds": state["train_seconds"],
        "judge_seconds": state["judge_seconds"],
        "posts_per_second": rounded(judged.get("posts_per_second")),
        "megabytes": rounded(judged.get("megabytes")),
        "k": judged["k"],
        "metrics": {
            "headline": _kept(judged["metrics"]),
            "papers": _kept(judged["papers"]),
            "floor": _kept(judged["floor"]),
        },
        "intervals": {protocol: _kept(bounds) for protocol, bounds in judged["intervals"].items()},
        "slices": {name: _kept(found) for name, found in judged["slices"].items()},
        "tags": {name: _kept(found) for name, found in judged["tags"].items()},
        "thresholded": rounded(judged["thresholded"]),
        "bleu": rounded(judged["bleu"]),
        "history": rounded(state["history"]),
        "calibration": rounded(_calibration(judged)),
        "trials": rounded(state.get("trials", {})),
        "differences": {},
    }


def _calibration(row: JudgedFigures) -> CalibrationErrors:
    """Of a row that was made before there was one over all pairs: that of the lists alone."""
    if "calibration_error" in row:
        return row["calibration_error"]
    return {"first": row["calibration"]["error"]} if "calibration" in row else {}


def _kept(figures: Mapping[str, T]) -> dict[str, T]:
    return {name: rounded(value) for name, value in figures.items() if KEPT.fullmatch(name)}


def _data_hash(parts: Sequence[Part]) -> str:
    """Of the dataset, or of those of all folds together."""
    hashes = [part.truth.dataset.info.content_hash for part in parts]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def _facts(parts: Sequence[Part]) -> BoardFacts:
    """Of folds: the test posts of all, of the other splits and of the vocabulary the mean."""
    infos = [part.truth.dataset.info for part in parts]
    split = parts[0].truth.split
    posts: dict[str, int] = {name: round(fmean(info.posts.get(name, 0) for info in infos)) for name in infos[0].posts}
    posts[split] = sum(info.posts.get(split, 0) for info in infos)
    return {
        "posts": posts,
        "vocabulary": round(fmean(info.vocabulary for info in infos)),
        "users": len({user for part in parts for user in part.truth.users} - {None}),
        "split": infos[0].config["split"]["kind"],
        "seed": infos[0].config["split"]["seed"],
        "captions": infos[0].config["captions"]["hashtags"],
        "folds": len(parts) if len(parts) > 1 else 0,
    }


def _notes(plan: LeaderboardPlan, parts: Sequence[Part]) -> list[str]:
    """What a reader must know to read the figures right."""
    info = parts[0].truth.dataset.info
    notes = list(dict.fromkeys(note for part in parts for note in part.truth.dataset.info.notes))
    which = (
        "earlier posts of the user"
        if plan.recipe.history.order == "earlier"
        else "other posts of the user, at any time"
    )
    notes.append(f"history: {which} (history.order = {plan.recipe.history.order})")
    if len(parts) > 1:
        notes.append(
            f"{len(parts)} folds: every group of posts is in the test split of one; figures are over the test posts of all folds, and so "
            "are intervals, over users; train and validation posts, vocabulary, seconds and sizes are means over folds"
        )
    if plan.trials:
        notes.append(
            f"settings: the best of {plan.trials} trials on the validation split for every system that has some to search for, the "
            "recipe's own among them; no trial sees the test split"
        )
    if plan.recipe.recommend.diversity:
        notes.append(f"popular tags count less (recommend.diversity = {plan.recipe.recommend.diversity:g})")
    share = plan.recipe.training.train_share
    if share < 1:
        notes.append(f"learned from {share:.0%} of the train posts (training.train_share = {share:g})")
    if info.config["captions"]["hashtags"] != "remove":
        notes.append("true tags stand in the captions, which leaks the answer")
    return notes
