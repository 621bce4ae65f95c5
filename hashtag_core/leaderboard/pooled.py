"""What folds come to together: the state of each system over all of them.

Figures that are means over posts are computed over the posts of all folds at once; what is of one model (seconds, size, coverage of
its vocabulary) is the mean over the folds' models.
"""

from collections.abc import Sequence
from statistics import fmean, median_low

from hashtag_core.evaluation.board_record import SystemState, TrialsRecord
from hashtag_core.evaluation.metrics import Judged, Protocol, index_metrics
from hashtag_core.evaluation.report_record import CalibrationErrors, Figures, JudgedFigures
from hashtag_core.evaluation.significance import intervals
from hashtag_core.evaluation.slices import slice_metrics
from hashtag_core.leaderboard.compare import Comparison
from hashtag_core.leaderboard.plan import Entry

OF_A_MODEL = ("coverage", "gini", "novelty")
"""Figures of a protocol that are no means over posts."""


def pooled_state(entry: Entry, comparison: Comparison) -> SystemState:
    """The entry's state over all parts, as `state.json` has it of one; that of the only part where there is one."""
    states = [part.states[entry.name] for part in comparison.parts]
    if len(states) == 1:
        return states[0].copy()
    reads = sorted({name for state in states for name in state["reads"]})
    for part, state in zip(comparison.parts, states, strict=True):
        if state["status"] != "done":
            reason = f"{part.plan.fold_name}: {state.get('reason', 'not finished')}"
            return {"status": state["status"], "reason": reason, "reads": reads}
    epochs = [state["epochs"] for state in states if state["epochs"]]
    best = [state["best_epoch"] for state in states if state["best_epoch"]]
    tried = [state["trials"] for state in states if "trials" in state]
    pooled: SystemState = {
        "status": "done",
        "reads": reads,
        "parameters": round(fmean(state["parameters"] or 0 for state in states)),
        "epochs": round(fmean(epochs)) if epochs else None,
        "best_epoch": round(fmean(best)) if best else None,
        "train_seconds": fmean(state["train_seconds"] for state in states),
        "judge_seconds": sum(state["judge_seconds"] for state in states),
        "history": {},
        "row": _row(entry.name, comparison, [state["row"] for state in states]),
    }
    if tried:
        pooled["trials"] = _trials(tried)
    return pooled


def _row(name: str, comparison: Comparison, rows: Sequence[JudgedFigures]) -> JudgedFigures:
    """What the report holds of the figures."""
    settings = comparison.plan.recipe.evaluation
    judged = comparison.judged(name)
    slices = {name: mask for name, mask in comparison.slices.items() if name != "all"}
    return {
        "k": median_low(row["k"] or 0 for row in rows),
        "thresholded": {},
        "bleu": {},
        "tags": {},
        "intervals": intervals(judged, comparison.users, settings.ks, settings.bootstrap_samples, settings.seed),
        "metrics": _figures(comparison, judged, "headline", [row["metrics"] for row in rows]),
        "papers": _figures(comparison, judged, "papers", [row["papers"] for row in rows]),
        "floor": _figures(comparison, judged, "floor", [row["floor"] for row in rows]),
        "slices": slice_metrics(judged, slices, settings.ks, "headline"),
        "calibration_error": _calibration_errors(rows),
        "posts_per_second": fmean(row["posts_per_second"] for row in rows),
        "megabytes": fmean(row["megabytes"] for row in rows),
    }


def _figures(comparison: Comparison, judged: Judged, protocol: Protocol, of_folds: Sequence[Figures]) -> Figures:
    """Over the posts of all folds; what is of a model, the mean over the folds."""
    means = {name: fmean(one[name] for one in of_folds) for name in OF_A_MODEL if name in of_folds[0]}
    return index_metrics(judged, comparison.plan.recipe.evaluation.ks, protocol, comparison.users) | means


def _calibration_errors(rows: Sequence[JudgedFigures]) -> CalibrationErrors:
    """Means over the folds, of those that the first fold has."""
    found = [row.get("calibration_error", {}) for row in rows]
    means: CalibrationErrors = {}
    if "first" in found[0]:
        means["first"] = fmean(one["first"] for one in found)
    if "all" in found[0]:
        means["all"] = fmean(one["all"] for one in found)
    return means


def _trials(tried: Sequence[TrialsRecord]) -> TrialsRecord:
    """Every fold searches for itself: what it chose is the fold's own."""
    return {
        "number": tried[0]["number"],
        "metric": tried[0]["metric"],
        "chosen": {},
        "validation": fmean(figure for one in tried if (figure := one["validation"]) is not None),
        "validation_of_recipe": None,
        "seconds": sum(one["seconds"] for one in tried),
    }
