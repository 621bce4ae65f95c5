"""Challenger against champion: both judged now, on the same posts with the same code; the gates decide; the alias moves."""

import logging
from dataclasses import dataclass
from typing import Any

from hashtag_core.config import Recipe
from hashtag_core.data.dataset import Dataset
from hashtag_core.distributed.evaluate import Evaluation, check_evaluation, evaluate_model, log_evaluation
from hashtag_core.distributed.evaluate_truth import read_truths
from hashtag_core.errors import ConfigError, GateRefused, NotFoundError
from hashtag_core.evaluation.gates import Contender, Gate, check_gates, judge_challenger
from hashtag_core.tracking.registry import (
    CHAMPION,
    champion,
    champion_line,
    find_version,
    model_uri,
    move_champion,
    rollback,
    set_version_tags,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PromotePlan:
    """A promotion that was checked and not yet made. `champion` is the version that has the alias now."""

    dataset: Dataset
    name: str
    challenger: str
    champion: str | None
    recipe: Recipe

    @property
    def uris(self) -> list[str]:
        """Challenger and champion, as far as they differ."""
        versions = dict.fromkeys(version for version in (self.challenger, self.champion) if version is not None)
        return [model_uri(self.name, version) for version in versions]

    def summary(self, promoted: bool, gates: list[Gate]) -> dict[str, Any]:
        """What `jobs/promote.py` prints."""
        holder = self.challenger if promoted else self.champion
        line = champion_line(self.name)
        previous = line[-2] if len(line) > 1 else None
        return {
            "promoted": promoted,
            "champion": None if holder is None else model_uri(self.name, holder),
            "previous": None if previous is None else model_uri(self.name, previous),
            "gates": [gate.as_json() for gate in gates],
        }


def plan_promote(dataset_uri: str, challenger: str, recipe: Recipe) -> PromotePlan:
    """Check everything that can be checked without judging.

    ConfigError for a challenger that is no registered version (a folder has no alias) and for a gate on an unknown
    metric; NotFoundError for a dataset or a version that is not there.
    """
    if not challenger.startswith("models:"):
        raise ConfigError(
            f"--challenger {challenger}: only a registered version can be champion: give models:/NAME/VERSION "
            "(jobs/train.py registers what it trains)"
        )
    check_gates(recipe.gates, recipe.evaluation.ks)
    dataset, _ = check_evaluation(dataset_uri, [challenger], recipe)
    name, version, _ = find_version(challenger)
    return PromotePlan(dataset, name, version, champion(name), recipe)


def promote(plan: PromotePlan) -> dict[str, Any]:
    """Judge both, apply the gates, move the alias `champion`; returns the summary.

    A challenger that is champion already changes nothing. Raises GateRefused, with the summary, where a gate says no.
    """
    if plan.challenger == plan.champion:
        logger.info("%s is the champion already: nothing to do", model_uri(plan.name, plan.challenger))
        return plan.summary(promoted=False, gates=[])
    recipe, gates = plan.recipe, plan.recipe.gates
    truth, _ = read_truths(plan.dataset, recipe)
    evaluations = [evaluate_model(uri, truth, None, recipe) for uri in plan.uris]
    for evaluation in evaluations:
        log_evaluation(evaluation, plan.dataset, recipe, {})
    contenders = [_contender(evaluation) for evaluation in evaluations]
    dataset_hash = plan.dataset.info.content_hash
    posts = contenders[0].figures[gates.protocol]["posts"]
    decisions = judge_challenger(contenders[0], contenders[1] if plan.champion else None, dataset_hash, posts, gates)
    for gate in decisions:
        logger.info("gate %s: %s: %s", gate.name, "passed" if gate.passed else "REFUSED", gate.detail)
    why = {
        "dataset_hash": dataset_hash,
        "split": recipe.evaluation.split,
        "figures": {one.uri: one.figures[gates.protocol][gates.metric] for one in contenders},
        "gates": [gate.as_json() for gate in decisions],
    }
    challenger = contenders[0].uri
    passed = all(gate.passed for gate in decisions)
    set_version_tags(plan.name, plan.challenger, {"gates": "passed" if passed else "refused", "gates.detail": why})
    if not passed:
        reasons = "; ".join(gate.detail for gate in decisions if not gate.passed)
        refusal = GateRefused(f"{challenger} is not promoted: {reasons}")
        refusal.summary = plan.summary(promoted=False, gates=decisions)
        raise refusal
    move_champion(plan.name, plan.challenger, why, expected=plan.champion)
    return plan.summary(promoted=True, gates=decisions)


def describe_promotion(plan: PromotePlan) -> dict[str, Any]:
    """What `promote` would do, for `--dry-run`."""
    gates = plan.recipe.gates
    logger.info(
        "would judge %s on the %s split of %s: %s under protocol %s must gain more than %g",
        " against ".join(plan.uris),
        plan.recipe.evaluation.split,
        plan.dataset.uri,
        gates.metric,
        gates.protocol,
        gates.min_gain,
    )
    return {
        **plan.summary(promoted=False, gates=[]),
        "dry_run": True,
        "challenger": model_uri(plan.name, plan.challenger),
    }


def roll_back(name: str, *, dry_run: bool = False) -> dict[str, Any]:
    """Give the alias back to the champion before this one; the summary in the form of `promote`.

    NotFoundError where there is none. With `dry_run` nothing moves.
    """
    if champion(name) is None:
        raise NotFoundError(f"model {name!r} has no champion ({CHAMPION} alias) to roll back from")
    line = champion_line(name)
    if not dry_run:
        rollback(name, {"reason": "--rollback"})
        line = champion_line(name)
    elif len(line) > 1:
        line = line[:-1]
    else:
        raise NotFoundError(f"no champion before version {line[-1]} of model {name!r}: nothing to roll back to")
    return {
        "promoted": not dry_run,
        "champion": model_uri(name, line[-1]),
        "previous": model_uri(name, line[-2]) if len(line) > 1 else None,
        "gates": [],
        "rollback": True,
        **({"dry_run": True} if dry_run else {}),
    }


def _contender(evaluation: Evaluation) -> Contender:
    row = evaluation.row
    figures = {"headline": row["metrics"], "papers": row["papers"], "floor": row["floor"]}
    return Contender(row["model"], figures, evaluation.trained_on)
