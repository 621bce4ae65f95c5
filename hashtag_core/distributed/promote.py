"""Challenger against champion: both judged now, on the same posts with the same code; the gates decide; the alias moves."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from hashtag_core.config import Recipe
from hashtag_core.data.dataset import Dataset
from hashtag_core.distributed.evaluate import evaluate_model
from hashtag_core.distributed.promote_figures import contender, duel, judged_floors, measure
from hashtag_core.distributed.session import joined
from hashtag_core.errors import ConfigError, GateRefused, IntegrityError
from hashtag_core.evaluation.ground_truth import read_truths
from hashtag_core.evaluation.report import main_k
from hashtag_core.judging.check import check_evaluation
from hashtag_core.promotion.gates import Contender, Duel, Gate, check_gates, judge_challenger
from hashtag_core.promotion.report import (
    PromoteSummary,
    PromotionFacts,
    PromotionReason,
    PromotionRecord,
    promotion_html,
    promotion_markdown,
)
from hashtag_core.tracking.registry import (
    champion,
    find_version,
    model_uri,
    move_champion,
    previous_champion,
    rollback,
    rollback_target,
    set_challenger,
    set_version_tags,
    version_run,
)
from hashtag_core.tracking.runs import Run, count_runs, current_user, start_run, version_label
from hashtag_core.tracking.splits import log_split

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

    def summary(self, promoted: bool, gates: list[Gate]) -> PromoteSummary:
        """What `jobs/promote.py` prints."""
        holder = self.challenger if promoted else self.champion
        previous = previous_champion(self.name)
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


def promote(plan: PromotePlan, force: str | None = None) -> PromoteSummary:
    """Judge both, apply the gates, move the alias `champion`; returns the summary.

    Every gate's verdict is in the version's tags, the report in a run of kind `promotion` below the challenger's own. With
    `force`, the reason why, a challenger is promoted past what refused it; never past a broken folder. A challenger that
    is champion already changes nothing. Raises GateRefused, with the summary, where a gate says no, StorageError where
    another process has moved the champion meanwhile.
    """
    if plan.challenger == plan.champion:
        logger.info("%s is the champion already: nothing to do", model_uri(plan.name, plan.challenger))
        return plan.summary(promoted=False, gates=[])
    set_challenger(plan.name, plan.challenger)
    with joined():
        verdict = _judge(plan, force)
    if not verdict.may_pass:
        reasons = "; ".join(f"{gate.name}: {gate.detail}" for gate in verdict.gates if not gate.passed)
        refusal = GateRefused(f"{model_uri(plan.name, plan.challenger)} is not promoted: {reasons}")
        refusal.summary = {**plan.summary(promoted=False, gates=verdict.gates), "run_id": verdict.why["run_id"]}
        raise refusal
    move_champion(plan.name, plan.challenger, verdict.why, expected=plan.champion)
    summary = plan.summary(promoted=True, gates=verdict.gates)
    summary["run_id"] = verdict.why["run_id"]
    if verdict.forced:
        summary["forced"] = str(force)
    return summary


@dataclass(frozen=True)
class _Verdict:
    gates: list[Gate]
    forced: bool
    may_pass: bool
    why: PromotionReason


def _judge(plan: PromotePlan, force: str | None) -> _Verdict:
    """Measure and decide, and write down what was decided, in a run of its own."""
    recipe, dataset = plan.recipe, plan.dataset
    same_split = {"kind": "promotion", "dataset_hash": dataset.info.content_hash, "split": recipe.evaluation.split}
    uses = count_runs(recipe.tracking.experiment, same_split)
    name, version, tags = find_version(model_uri(plan.name, plan.challenger))
    labels = {
        **same_split,
        "dataset": dataset.uri,
        "model_name": name,
        "model_version": version,
        "family": tags.get("family", "unknown"),
    }
    against = version_label(plan.champion) if plan.champion else "the floors"
    title = f"gates {version_label(version)} against {against}, {name}"
    with start_run(recipe.tracking.experiment, title, tags=labels, parent=version_run(plan.uris[0])) as run:
        log_split(run, dataset, recipe.evaluation.split)
        measured = _measure(plan, uses)
        passed = all(gate.passed for gate in measured.gates)
        whole = all(gate.passed for gate in measured.gates if gate.name == "folder")
        forced = bool(force) and not passed and whole
        verdict = "passed" if passed else "forced" if forced else "refused"
        for gate in measured.gates:
            logger.info("gate %s: %s: %s", gate.name, "passed" if gate.passed else "REFUSED", gate.detail)
        why: PromotionReason = {
            "dataset_hash": dataset.info.content_hash,
            "split": recipe.evaluation.split,
            "run_id": run.run_id,
            "figures": {uri: figures[recipe.gates.metric] for uri, figures in measured.figures.items()},
            "refused_by": [gate.name for gate in measured.gates if not gate.passed],
        }
        if forced:
            why["forced"] = str(force)
        _write_down(plan, run, measured, verdict, why)
    return _Verdict(measured.gates, forced, passed or forced, why)


@dataclass(frozen=True)
class _Measured:
    gates: list[Gate]
    duels: Sequence[Duel] = ()
    figures: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def _measure(plan: PromotePlan, uses: int) -> _Measured:
    recipe, dataset = plan.recipe, plan.dataset
    truth, _ = read_truths(dataset, recipe)
    try:
        challenger = evaluate_model(plan.uris[0], truth, None, recipe)
    except IntegrityError as error:
        return _Measured([Gate("folder", False, str(error))])
    folder = Gate("folder", True, f"every file is what was registered ({challenger.model.content_hash[:12]})")
    if plan.champion is None:
        found = measure([challenger], truth, recipe.gates)
        with judged_floors(challenger, truth, recipe) as floors:
            ours = contender(challenger, recipe, found.speeds[0], found.golden)
            others = [contender(floor, recipe) for floor in floors]
            duels = [duel(challenger, floor, truth, recipe) for floor in floors]
            duels = [replace(one, against=floor.row["model"]) for one, floor in zip(duels, floors, strict=True)]
        champion = None
    else:
        try:
            holder = evaluate_model(plan.uris[1], truth, None, recipe)
        except IntegrityError as error:
            return _Measured([folder, Gate("champion", False, f"the champion cannot be judged: {error}")])
        found = measure([challenger, holder], truth, recipe.gates)
        ours = contender(challenger, recipe, found.speeds[0], found.golden)
        champion = contender(holder, recipe, found.speeds[1])
        duels, others = [duel(challenger, holder, truth, recipe)], [champion]
    protocol = recipe.gates.protocol
    posts = ours.figures[protocol]["posts"]
    gates = judge_challenger(ours, champion, duels, dataset.info.content_hash, posts, uses, recipe.gates)
    figures = {one.uri: _shown_figures(one, recipe) for one in (ours, *others)}
    return _Measured([folder, *gates], duels, figures)


def _shown_figures(one: Contender, recipe: Recipe) -> dict[str, float]:
    """The figures that the report shows, the deciding one first."""
    figures, k = one.figures[recipe.gates.protocol], main_k(recipe.evaluation.ks)
    names = (
        recipe.gates.metric,
        *(f"{name}_at_{k}" for name in ("precision", "recall", "f1", "ndcg")),
        "coverage",
        "novelty",
    )
    shown = {name: figures[name] for name in dict.fromkeys(names) if name in figures}
    extra = {"calibration_error": one.calibration, "posts_per_second": one.posts_per_second}
    return {**shown, **{name: value for name, value in extra.items() if value}}


def _write_down(plan: PromotePlan, run: Run, measured: _Measured, verdict: str, why: PromotionReason) -> None:
    """Verdicts as tags of the version, figures and the report as the run's."""
    recipe = plan.recipe
    facts: PromotionFacts = {
        "challenger": plan.uris[0],
        "champion": plan.uris[1] if plan.champion else None,
        "verdict": verdict,
        "dataset": plan.dataset.uri,
        "dataset_hash": plan.dataset.info.content_hash,
        "split": recipe.evaluation.split,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "by": current_user(),
        "forced": why.get("forced"),
        "figures": measured.figures,
    }
    markdown = promotion_markdown(facts, measured.gates, measured.duels)
    run.log_params({"gates": recipe.gates.model_dump(mode="json")})
    run.log_metrics(measured.figures.get(plan.uris[0], {}))
    run.log_text(markdown, "promotion.md")
    run.log_text(promotion_html(markdown, f"{plan.uris[0]}: {verdict}"), "promotion.html")
    record: PromotionRecord = {**facts, "gates": [gate.as_json() for gate in measured.gates]}
    run.log_json(record, "promotion.json")
    run.set_tags({"verdict": verdict, "mlflow.note.content": markdown})
    verdicts = {
        f"gate.{gate.name}": f"{'passed' if gate.passed else 'refused'}: {gate.detail}" for gate in measured.gates
    }
    set_version_tags(plan.name, plan.challenger, {"gates": verdict, "gates.run": run.run_id, **verdicts})


def describe_promotion(plan: PromotePlan) -> PromoteSummary:
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


def roll_back(name: str, *, dry_run: bool = False) -> PromoteSummary:
    """Give the alias back to the champion before this one; the summary in the form of `promote`, with `rolled_back`.

    NotFoundError where there is none. With `dry_run` nothing moves, and the summary says where it would go.
    """
    if dry_run:
        target = rollback_target(name)
        return {
            "promoted": False,
            "rolled_back": False,
            "champion": model_uri(name, target),
            "previous": None,
            "gates": [],
            "dry_run": True,
        }
    target, taken_off = rollback(name, {"reason": "--rollback"})
    previous = previous_champion(name)
    return {
        "promoted": False,
        "rolled_back": True,
        "champion": model_uri(name, target),
        "previous": None if previous is None else model_uri(name, previous),
        "taken_off": None if taken_off is None else model_uri(name, taken_off),
        "gates": [],
    }
