"""What folds come to together: the state of each system over all of them.

Figures that are means over posts are computed over the posts of all folds at once; what is of one model (seconds, size, coverage of
its vocabulary) is the mean over the folds' models.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean, median_low
from typing import Any

from hashtag_core.evaluation.metrics import PROTOCOLS, index_metrics
from hashtag_core.evaluation.significance import intervals
from hashtag_core.evaluation.slices import slice_metrics
from hashtag_core.leaderboard.compare import Comparison
from hashtag_core.leaderboard.plan import Entry

State = Mapping[str, Any]
OF_A_MODEL = ("coverage", "gini", "novelty")
"""Figures of a protocol that are no means over posts."""


def pooled_state(entry: Entry, comparison: Comparison) -> dict[str, Any]:
    """The entry's state over all parts, as `state.json` has it of one; that of the only part where there is one."""
    states: list[State] = [part.states[entry.name] for part in comparison.parts]
    if len(states) == 1:
        return dict(states[0])
    reads = sorted({name for state in states for name in state["reads"]})
    for part, state in zip(comparison.parts, states, strict=True):
        if state["status"] != "done":
            reason = f"{part.plan.fold_name}: {state.get('reason', 'not finished')}"
            return {"status": state["status"], "reason": reason, "reads": reads}
    epochs = [state["epochs"] for state in states if state["epochs"]]
    best = [state["best_epoch"] for state in states if state["best_epoch"]]
    tried = [state["trials"] for state in states if "trials" in state]
    return {
        "status": "done",
        "reads": reads,
        "parameters": round(fmean(state["parameters"] for state in states)),
        "epochs": round(fmean(epochs)) if epochs else None,
        "best_epoch": round(fmean(best)) if best else None,
        "train_seconds": fmean(state["train_seconds"] for state in states),
        "judge_seconds": sum(state["judge_seconds"] for state in states),
        "history": {},
        "row": _row(entry.name, comparison, [state["row"] for state in states]),
        **({"trials": _trials(tried)} if tried else {}),
    }


def _row(name: str, comparison: Comparison, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the report holds of the figures."""
    settings = comparison.plan.recipe.evaluation
    judged = comparison.judged(name)
    row: dict[str, Any] = {
        "k": median_low(row["k"] for row in rows),
        "thresholded": {},
        "bleu": {},
        "tags": {},
        "intervals": intervals(judged, comparison.users, settings.ks, settings.bootstrap_samples, settings.seed),
    }
    for protocol, key in zip(PROTOCOLS, ("metrics", "papers", "floor"), strict=True):
        of_models = {name: fmean(one[key][name] for one in rows) for name in OF_A_MODEL if name in rows[0][key]}
        row[key] = index_metrics(judged, settings.ks, protocol, comparison.users) | of_models
    slices = {name: mask for name, mask in comparison.slices.items() if name != "all"}
    row["slices"] = slice_metrics(judged, slices, settings.ks, "headline")
    row["calibration_error"] = {
        name: fmean(one["calibration_error"][name] for one in rows) for name in rows[0].get("calibration_error", {})
    }
    for key in ("posts_per_second", "megabytes"):
        row[key] = fmean(one[key] for one in rows)
    return row


def _trials(tried: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Every fold searches for itself: what it chose is the fold's own."""
    return {
        "number": tried[0]["number"],
        "metric": tried[0]["metric"],
        "chosen": {},
        "validation": fmean(one["validation"] for one in tried),
        "validation_of_recipe": None,
        "seconds": sum(one["seconds"] for one in tried),
    }
