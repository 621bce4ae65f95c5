"""The report of a leaderboard: differences from the kept lists, pictures, tables, files.

`report.json` holds figures and names of systems alone: no post, no user, no hashtag, no place on this machine.
"""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from hashtag_core import storage
from hashtag_core.distributed.evaluate_truth import Truth, slices_of
from hashtag_core.distributed.leaderboard_plan import Entry, LeaderboardPlan, Pair
from hashtag_core.evaluation.curves import report_figures
from hashtag_core.evaluation.metrics import Booleans, Floats, Judged, Protocol, judge_tags, post_scores
from hashtag_core.evaluation.report import main_k
from hashtag_core.evaluation.side_by_side import FLOORS, done_entries, side_by_side_html, side_by_side_markdown
from hashtag_core.evaluation.significance import Difference, paired_difference, slice_contrast
from hashtag_core.models import FittedModel, family

logger = logging.getLogger(__name__)

KEPT = re.compile(
    r"(precision|recall|f1|hit_rate|ndcg)_at_\d+|f1_at_\d+_user_macro|posts|tags|uses|mean_average_precision|coverage|gini|novelty"
)
"""Figures that the report holds; a system's `state.json` has them all."""
DIGITS = 5
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
    }
    compared = _Comparison(
        plan, truth, {entry.name for entry in plan.entries if states[entry.name]["status"] == "done"}
    )
    metric = f"f1_at_{main_k(report['ks'])}"
    for row in entries:
        if row["status"] == "done" and not row["curve_of"]:
            found = {floor: compared.pair(row["name"], floor, metric) for floor in FLOORS if floor != row["name"]}
            row["differences"] = {floor: _rounded(asdict(item)) for floor, item in found.items() if item}
    report["pairs"] = [compared.claim(pair) for pair in plan.pairs]
    order = {entry["name"]: place for place, entry in enumerate(done_entries(report))}
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


class _Comparison:
    """Paired differences of systems on the posts of `truth`, from their kept lists, each read once."""

    def __init__(self, plan: LeaderboardPlan, truth: Truth, done: set[str]) -> None:
        self.plan, self.truth, self.done = plan, truth, done
        self._judged: dict[str, Judged] = {}
        has_image = [
            key is not None
            for table in truth.dataset.read(truth.split, ["image_key"])
            for key in table["image_key"].to_pylist()
        ]
        self.slices = {
            "all": np.ones(len(truth.tags), bool),
            **slices_of(truth, np.array(has_image, bool), plan.recipe.history.order),
        }

    def judged(self, name: str) -> Judged:
        """The system's lists, judged again."""
        if name not in self._judged:
            entry = next(entry for entry in self.plan.entries if entry.name == name)
            with storage.open_input(self.plan.ranked(entry)) as source:
                table = pq.read_table(source, columns=["hashtags", "true_hashtags"])
            lists, true = table["hashtags"].to_pylist(), table["true_hashtags"].to_pylist()
            self._judged[name] = judge_tags(lists, true, self.truth.dataset.vocabulary.tags)
        return self._judged[name]

    def pair(
        self,
        first: str,
        second: str,
        metric: str,
        protocol: Protocol = "headline",
        chosen: str = "all",
        against: str | None = None,
    ) -> Difference | None:
        """`first` less `second`; None where one is not done or there is no such post."""
        if not {first, second} <= self.done:
            return None
        k = int(re.search(r"_at_(\d+)", metric)[1]) if "_at_" in metric else max(self.plan.recipe.evaluation.ks)  # type: ignore[index]
        counts = self.judged(first).selected(protocol)
        scores = [post_scores(self.judged(name), [k], protocol) for name in (first, second)]
        users = [user for user, kept in zip(self.truth.users, counts, strict=True) if kept]
        inside = self.slices[chosen][counts]
        settings = (self.plan.recipe.evaluation.bootstrap_samples, self.plan.recipe.evaluation.seed)
        if against is not None:
            found = slice_contrast(scores[0], scores[1], users, inside, self.slices[against][counts], *settings)
        else:
            parts: list[dict[str, Floats]] = [
                {name: values[inside] for name, values in part.items()} for part in scores
            ]
            found = paired_difference(parts[0], parts[1], _where(users, inside), *settings)
        return found.get(metric)

    def claim(self, pair: Pair) -> dict[str, Any]:
        """The pair as the report shows it: `difference` with its interval, or what is `missing`."""
        row = pair.model_dump()
        missing = [name for name in (pair.first, pair.second) if name not in self.done]
        if missing:
            return {**row, "missing": f"{' and '.join(missing)} not done"}
        found = self.pair(pair.first, pair.second, pair.metric, pair.protocol, pair.slice, pair.against)
        posts = int((self.slices[pair.slice] & self.judged(pair.first).selected(pair.protocol)).sum())
        return {
            **row,
            "posts": posts,
            **({"difference": _rounded(asdict(found))} if found else {"missing": "no such post"}),
        }


def _where(users: Sequence[str | None], mask: Booleans) -> list[str | None]:
    return [user for user, kept in zip(users, mask, strict=True) if kept]


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
        "k": judged["k"],
        "metrics": {
            "headline": _kept(judged["metrics"]),
            "papers": _kept(judged["papers"]),
            "floor": _kept(judged["floor"]),
        },
        "intervals": {protocol: _kept(found) for protocol, found in judged["intervals"].items()},
        "slices": {name: _kept(found) for name, found in judged["slices"].items()},
        "tags": {name: _kept(found) for name, found in judged["tags"].items()},
        "thresholded": _rounded(judged["thresholded"]),
        "bleu": _rounded(judged["bleu"]),
        "history": _rounded(state["history"]),
        "differences": {},
    }


def _kept(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _rounded(value) for name, value in figures.items() if KEPT.fullmatch(name)}


def _rounded(value: Any) -> Any:
    """Floats at `DIGITS` places: what a reader can use, in a file that can be kept with the code."""
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, Mapping):
        return {name: _rounded(item) for name, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


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
    share = plan.recipe.training.train_share
    if share < 1:
        notes.append(f"learned from {share:.0%} of the train posts (training.train_share = {share:g})")
    if truth.dataset.info.config["captions"]["hashtags"] != "remove":
        notes.append("true tags stand in the captions, which leaks the answer")
    return notes
