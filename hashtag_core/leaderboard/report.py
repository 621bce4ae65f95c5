"""The report of a leaderboard: differences from the kept lists, pictures, tables, files.

`report.json` holds figures and names of systems alone: no post, no user, no hashtag, no place on this machine.
"""

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from hashtag_core import storage
from hashtag_core.evaluation.curves import report_figures
from hashtag_core.evaluation.ground_truth import Truth
from hashtag_core.evaluation.report import main_k
from hashtag_core.evaluation.side_by_side import FLOORS, done_entries, side_by_side_html, side_by_side_markdown
from hashtag_core.leaderboard.compare import KS, Comparison, rounded
from hashtag_core.leaderboard.plan import Entry, LeaderboardPlan
from hashtag_core.models import FittedModel, family

logger = logging.getLogger(__name__)

KEPT = re.compile(
    r"(precision|recall|f1|hit_rate|ndcg)_at_\d+|f1_at_\d+_user_macro|posts|tags|uses|mean_average_precision|coverage|gini|novelty"
)
"""Figures that the report holds; a system's `state.json` has them all."""
PUBLISHED = ("report.md", "report.json")

State = Mapping[str, Any]


def write_report(plan: LeaderboardPlan, truth: Truth, states: Mapping[str, State]) -> dict[str, Any]:
    """Write OUT/report, and copy what is to be published; returns what `report.json` holds, the best system first."""
    entries = [_row(entry, states[entry.name]) for entry in plan.entries]
    report: dict[str, Any] = {
        "format": 1,
        "name": plan.name,
        "command": plan.command,
        "dataset_hash": truth.dataset.info.content_hash,
        "data": _facts(truth),
        "split": truth.split,
        "ks": sorted(set(plan.recipe.evaluation.ks)),
        "bootstrap_samples": plan.recipe.evaluation.bootstrap_samples,
        "notes": _notes(plan, truth),
        "entries": entries,
        "pairs": [],
        "comparisons": [],
        "ceiling": {},
    }
    compared = Comparison(plan, truth, {entry.name for entry in plan.entries if states[entry.name]["status"] == "done"})
    metric = f"f1_at_{main_k(report['ks'])}"
    for row in entries:
        if row["status"] == "done" and not row["curve_of"] and not row["seed_of"]:
            found = {floor: compared.pair(row["name"], floor, metric) for floor in FLOORS if floor != row["name"]}
            row["differences"] = {floor: rounded(asdict(item)) for floor, item in found.items() if item}
    report["pairs"] = [compared.claim(pair) for pair in plan.pairs]
    order = {entry["name"]: place for place, entry in enumerate(done_entries(report))}
    report["comparisons"] = compared.everyone(list(order), [k for k in KS if k in report["ks"]])
    if order:
        report["ceiling"] = rounded(compared.ceiling(next(iter(order)), report["ks"]))
    entries.sort(key=lambda row: order.get(row["name"], len(order)))
    figures = report_figures(report)
    markdown = side_by_side_markdown(report, figures)
    page = side_by_side_html(markdown, f"{plan.name}: every system on the same posts", figures)
    data = json.dumps(report, ensure_ascii=False, separators=(",", ":")).replace('{"name"', '\n{"name"') + "\n"
    written = {"report.md": markdown, "report.html": page, "report.json": data, **figures}
    for name, text in written.items():
        storage.write_bytes(storage.join(plan.out, "report", name), text.encode())
        if plan.publish and name in (*PUBLISHED, *figures):
            storage.write_bytes(storage.join(plan.publish, name), text.encode())
    return report


def _row(entry: Entry, state: State) -> dict[str, Any]:
    """What the report holds of one system."""
    cls = family(entry.recipe.model.family)
    row: dict[str, Any] = {
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
        **{name: state[name] for name in ("parameters", "epochs", "best_epoch", "train_seconds", "judge_seconds")},
        "posts_per_second": rounded(judged.get("posts_per_second")),
        "megabytes": rounded(judged.get("megabytes")),
        "k": judged["k"],
        "metrics": {
            "headline": _kept(judged["metrics"]),
            "papers": _kept(judged["papers"]),
            "floor": _kept(judged["floor"]),
        },
        "intervals": {protocol: _kept(found) for protocol, found in judged["intervals"].items()},
        "slices": {name: _kept(found) for name, found in judged["slices"].items()},
        "tags": {name: _kept(found) for name, found in judged["tags"].items()},
        "thresholded": rounded(judged["thresholded"]),
        "bleu": rounded(judged["bleu"]),
        "history": rounded(state["history"]),
        "differences": {},
    }


def _kept(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {name: rounded(value) for name, value in figures.items() if KEPT.fullmatch(name)}


def _facts(truth: Truth) -> dict[str, Any]:
    info = truth.dataset.info
    return {
        "posts": dict(info.posts),
        "vocabulary": info.vocabulary,
        "users": len(set(truth.users) - {None}),
        "split": info.config["split"]["kind"],
        "seed": info.config["split"]["seed"],
        "captions": info.config["captions"]["hashtags"],
    }


def _notes(plan: LeaderboardPlan, truth: Truth) -> list[str]:
    """What a reader must know to read the figures right."""
    notes = list(truth.dataset.info.notes)
    which = (
        "earlier posts of the user"
        if plan.recipe.history.order == "earlier"
        else "other posts of the user, at any time"
    )
    notes.append(f"history: {which} (history.order = {plan.recipe.history.order})")
    if plan.recipe.recommend.diversity:
        notes.append(f"popular tags count less (recommend.diversity = {plan.recipe.recommend.diversity:g})")
    share = plan.recipe.training.train_share
    if share < 1:
        notes.append(f"learned from {share:.0%} of the train posts (training.train_share = {share:g})")
    if truth.dataset.info.config["captions"]["hashtags"] != "remove":
        notes.append("true tags stand in the captions, which leaks the answer")
    return notes
