"""What a tagging run is, once everything about it was validated: the plan, and what of it is still to be done.

Needs neither ray nor torch, and writes nothing.
"""

import json
import logging
import os
from dataclasses import dataclass

from hashtag_core import storage
from hashtag_core.config import Recipe, TaggingSection
from hashtag_core.data.history import HistoryRule
from hashtag_core.data.vocabulary import Vocabulary, read_tags
from hashtag_core.distributed.forget_list import ForgetList, leave_out_forgotten
from hashtag_core.distributed.tag_history import HistoryFinder
from hashtag_core.distributed.tag_plan import (
    Layout,
    PartPlan,
    TagPlan,
    TagSettings,
    differing_settings,
    list_archive,
    load_plan,
    pin_settings,
    resolve_archive,
)
from hashtag_core.distributed.tag_publish import find_published
from hashtag_core.distributed.tag_rejects import check_planned
from hashtag_core.distributed.tag_select import Retagging, Selection
from hashtag_core.errors import IntegrityError, NotFoundError
from hashtag_core.recommend.policy import Policy, read_thresholds
from hashtag_core.tracking.registry import ResolvedModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TagJob:
    """A tagging run, validated: what there is to do, and where it goes."""

    recipe: Recipe
    model: ResolvedModel
    layout: Layout
    plan: TagPlan
    plan_is_new: bool
    missing: list[PartPlan]
    """What this run is to do."""
    unselected: list[PartPlan]
    """What is missing too, and left to another run."""
    retagged: Retagging
    """As it was found when the run was planned."""
    retagging: Retagging
    """As the run is to write it."""
    anew: bool
    """Whether all parts are to be tagged again, and the settings may be other ones."""
    gone: list[str]
    """Parts that are tagged and no longer in the archive."""
    older: dict[str, list[str]]
    """Manifests of former contents, by part path; also of parts that are done, if a run was killed before it removed them."""
    completed: bool
    """Whether the marker for consumers stands for this very plan."""
    policy: Policy
    finder: HistoryFinder | None = None
    """For a model that reads the history."""

    @property
    def is_done(self) -> bool:
        """Whether there is nothing to do, not even to clean up."""
        if self.missing or self.retagging.closed(part.path for part in self.unselected) != self.retagged:
            return False
        return not self.older_of_done and (self.completed or bool(self.unselected))

    @property
    def older_of_done(self) -> list[str]:
        """Manifests of former contents of parts that are done."""
        left = {part.path for part in [*self.missing, *self.unselected]}
        return [manifest for path, manifests in self.older.items() if path not in left for manifest in manifests]

    @property
    def rows(self) -> int:
        """Rows of the parts that are to be tagged."""
        return sum(part.rows for part in self.missing)


@dataclass
class TagSummary:
    """Counts of one run: `posts` are the rows of the parts it published, `parts` those parts, `skipped_parts` those
    that an earlier run had published."""

    posts: int
    tagged: int
    rejected: int
    parts: int
    skipped_parts: int
    model_version: str
    seconds: float = 0.0
    posts_per_second: float = 0.0

    def __post_init__(self) -> None:
        self.run: str | None = None
        """Names the run's record; None for a run with nothing to do. No field: the job prints the fields."""


def plan_tagging(
    recipe: Recipe, archive: str, out: str, model: ResolvedModel, selection: Selection | None = None
) -> TagJob:
    """Validate everything and find out what is missing; nothing is written. `selection`: default all that is not tagged.

    Raises ConfigError for an output inside the archive or one that was tagged with other settings, NotFoundError or
    ArchiveError for an archive that is missing, empty, or has no post ids, TooManyRejectedError beyond `max_rejected`.
    """
    section, encoders = recipe.tagging, recipe.encoders
    where = resolve_archive(archive, out)
    layout = Layout(
        out if storage.is_remote(out) else os.path.abspath(storage.local_path(out)), model.name, model.version
    )
    policy = _policy(section, model)
    settings = TagSettings(
        archive=where,
        model_name=model.name,
        model_version=model.version,
        model_hash=_model_hash(model),
        top_k=section.top_k,
        chunk_rows=section.chunk_rows,
        batch_size=section.batch_size,
        backend=encoders.backend,
        precision=encoders.precision,
        min_score=policy.min_score,
        **policy.told,
        image_prefixes=section.image_prefixes,
        max_image_bytes=recipe.archive.max_image_bytes,
    )
    selection = selection or Selection()
    files = list_archive(settings)
    selected = selection.paths(files)
    retagged, differs = Retagging.load(layout.retag), bool(differing_settings(layout, settings))
    retagging = retagged.ordered(selected, anew=differs) if selection.retag else retagged
    anew = selection.retag and selection.is_whole and (differs or not retagged.open)
    if not anew:
        pin_settings(layout, settings, write=False)
    finder = _history_finder(model)
    plan, is_new = load_plan(layout, settings, files, finder, retagging.tokens)
    kept = leave_out_forgotten(plan, ForgetList.load(layout.out))
    if kept is not plan:
        plan, is_new = kept, True
        if finder is not None:
            finder.sidecar = None  # found with their posts
    published = find_published(layout, plan)
    if published.gone:
        logger.warning(
            "%d part(s) are tagged in %s but no longer in the archive: %s; their rows stay",
            len(published.gone),
            layout.tagged,
            ", ".join(published.gone[:3]),
        )
    left = [part for part in plan.parts if part.id not in published.done]
    missing = [part for part in left if part.path in selected]
    unselected = [part for part in left if part.path not in selected]
    try:
        completed = storage.read_json(layout.success)["plan"] == plan.id
    except NotFoundError:
        completed = False
    if section.max_rejected is not None:
        check_planned(missing, section.max_rejected)
    if selection.retag:
        again = [part.rows for part in missing if part.path in published.older]
        logger.info("tagging again costs %d post(s) of %d part(s)", sum(again), len(again))
    return TagJob(
        recipe=recipe,
        model=model,
        layout=layout,
        plan=plan,
        plan_is_new=is_new,
        missing=missing,
        unselected=unselected,
        retagged=retagged,
        retagging=retagging,
        anew=anew,
        gone=published.gone,
        older=published.older,
        completed=completed,
        policy=policy,
        finder=finder,
    )


def last_rate(layout: Layout) -> float | None:
    """Posts a second, all included, of the last run of this model that tagged any; None where there was none."""
    try:
        records = storage.list_files(storage.join(layout.out, "_state", "runs"), ".json")
    except NotFoundError:
        return None
    for info in reversed(records):
        record = storage.read_json(info.uri)
        rate = float(record.get("posts_per_second") or 0)
        if rate and record["settings"]["model_name"] == layout.model_name:
            return rate
    return None


def _history_finder(model: ResolvedModel) -> HistoryFinder | None:
    rule = HistoryRule.from_json(json.loads((model.folder / "model.json").read_bytes()).get("history"))
    return None if rule is None else HistoryFinder(rule, Vocabulary.load(str(model.folder / "vocabulary.json")))


def _policy(section: TaggingSection, model: ResolvedModel) -> Policy:
    """What is allowed of the model's tags: names that it does not know are left out, for its rows do not depend on them."""
    deny, thresholds = read_tags(section.deny, section.deny_file, "tagging.deny"), read_thresholds(model.folder)
    if not deny and not thresholds:
        return Policy(section.min_score)
    known = Vocabulary.load(str(model.folder / "vocabulary.json")).index.keys()
    return Policy(section.min_score, deny & known, {tag: least for tag, least in thresholds.items() if tag in known})


def _model_hash(model: ResolvedModel) -> str:
    try:
        return str(json.loads((model.folder / "model.json").read_bytes())["version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{model.folder / 'model.json'}: no version in it: {error!r}") from None
