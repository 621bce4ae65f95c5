"""What a leaderboard is to run: systems, the pairs whose difference is asked for, and how far each system is already."""

import hashlib
import json
import os
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

from hashtag_core import storage
from hashtag_core.config import (
    HistorySection,
    ModelSection,
    Recipe,
    RecommendSection,
    Section,
    SplitSection,
    TrackingSection,
    nearest,
    read_recipe,
    validate_section,
)
from hashtag_core.errors import ConfigError, NotFoundError
from hashtag_core.evaluation.board_record import Status, SystemState
from hashtag_core.evaluation.metrics import Protocol, judge, post_scores, with_f1
from hashtag_core.evaluation.slices import post_slices
from hashtag_core.json_values import JsonObject
from hashtag_core.leaderboard.trials import check_search
from hashtag_core.models import list_models
from hashtag_core.models.base import ModelOptions
from hashtag_core.models.registry import family, parse_options
from hashtag_core.preparation.plan import PreparePlan, plan_prepare
from hashtag_core.training.record import FREE_KEYS

EXPERIMENT = "leaderboard"
SHARES = (0.25, 0.5)
"""Shares of the train posts that a learning curve is drawn at, besides all of them."""
COMMON = ("archive", "captions", "vocabulary", "split", "history", "recommend", "evaluation")
"""Sections that all systems take from one recipe: they are of the data and of the judging."""
NOT_OF_THE_MODEL = {"archive", "captions", "vocabulary", "split", "gates", "tagging", "tracking", "search"}
"""Sections that a state does not depend on: the dataset's hash stands for the first ones, and what is searched counts with trials."""

LATER_SETTINGS: tuple[tuple[str, str, Any], ...] = (
    ("encoders", "lora_rank", 8),
    ("encoders", "unfreeze_epochs", 0),
)
"""Settings that came after boards had been made: at their default they are not counted, so that what is done there stays done."""


@dataclass(frozen=True)
class Entry:
    """A system that takes part. `source` is its recipe's file name; `curve_of` the system that it is a point of the
    learning curve of, taught by a share of the posts; `seed_of` the system that it is, with another seed."""

    name: str
    recipe: Recipe
    source: str
    curve_of: str | None = None
    seed_of: str | None = None

    @cached_property
    def options(self) -> ModelOptions:
        """The family's options; ConfigError where one is wrong."""
        return parse_options(self.recipe.model.family, self.recipe.model.options)

    @property
    def borrows(self) -> str | None:
        """The family whose trained model this one reads its features from."""
        asks = getattr(self.options, "features", None) == "amnn" and getattr(self.options, "amnn_model", "") is None
        return "amnn" if asks else None


class Pair(Section):
    """Two systems whose paired difference the report shows, and what an article claims of it."""

    claim: str
    first: str
    second: str
    slice: str = "all"
    """The posts that are asked about: `all`, or a name of `evaluation.slices.post_slices`."""
    against: str | None = None
    """Another slice: how much more the first gains on `slice` than on this one."""
    metric: str = "f1_at_5"
    protocol: Protocol = "headline"


@dataclass(frozen=True)
class LeaderboardPlan:
    """What is to run, validated; nothing has been written."""

    name: str
    out: str
    recipe: Recipe
    entries: list[Entry]
    pairs: list[Pair]
    preparation: PreparePlan
    publish: str | None
    command: str
    trials: int = 0
    """Of each system that has something to search for."""
    control: str | None = None
    """The system that the others were to be compared with before any was trained; see `compare.with_control`."""
    fold_name: str = ""
    """Of a plan that is one fold of another."""
    folds: "list[LeaderboardPlan]" = field(default_factory=list)
    """The folds that this plan's report is of, each with its dataset and the same systems; none: the plan itself."""

    @property
    def parts(self) -> "list[LeaderboardPlan]":
        """What is to be done: the folds, or the plan itself."""
        return self.folds or [self]

    @property
    def dataset(self) -> str:
        """Where the dataset is, or will be."""
        return self.preparation.dataset

    def lender(self, entry: Entry) -> Entry | None:
        """The first entry of the family that this one borrows from."""
        lenders = (other for other in self.entries if not other.curve_of and not other.seed_of)
        return next((other for other in lenders if other.recipe.model.family == entry.borrows), None)

    @property
    def runs(self) -> str:
        """Where checkpoints are while a system is trained, if its recipe does not say."""
        return _runs(self.out)

    def ranked(self, entry: Entry) -> str:
        """Where the entry's ranked lists are."""
        return storage.join(self.out, "systems", entry.name, "ranked.parquet")

    def key(self, entry: Entry, dataset_hash: str) -> str:
        """What the entry's result depends on, as a hash: the data, the recipe, and whose features it borrows."""
        lender, searched = self.lender(entry), self.searched(entry)
        parts: list[Any] = [dataset_hash, self._settings(entry), self.key(lender, dataset_hash) if lender else None]
        if searched is not None:
            parts.append([self.trials, self.trials_key(searched, dataset_hash)])
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def trials_key(self, entry: Entry, dataset_hash: str) -> str:
        """What the entry's trials depend on, however many they are."""
        lender = self.lender(entry)
        searched = entry.recipe.model_dump(mode="json", include={"search"})
        parts = [dataset_hash, self._settings(entry), searched, self.key(lender, dataset_hash) if lender else None]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def searched(self, entry: Entry) -> Entry | None:
        """The entry whose trials choose this one's settings: itself, or what it is a seed or a point of a curve of; None where there
        are no trials."""
        base = next((other for other in self.entries if other.name in (entry.seed_of, entry.curve_of)), entry)
        return base if self.trials and base.recipe.search else None

    def _settings(self, entry: Entry) -> JsonObject:
        settings: JsonObject = entry.recipe.model_dump(mode="json", exclude=NOT_OF_THE_MODEL)
        if self.recipe.recommend == RecommendSection():  # as it was before there was a choice
            del settings["recommend"]
        for section, key, default in LATER_SETTINGS:
            if settings[section][key] == default:
                del settings[section][key]
        for name in FREE_KEYS:
            settings["training"].pop(name.removeprefix("training."), None)
        return settings

    def state(self, entry: Entry, dataset_hash: str) -> SystemState:
        """How far the entry is; `{"status": "to do"}` where nothing of this dataset and recipe is there."""
        uri = storage.join(self.out, "systems", entry.name, "state.json")
        state: SystemState = storage.read_json(uri) if storage.exists(uri) else {}
        return state if state.get("key") == self.key(entry, dataset_hash) else {"status": "to do"}


def plan_leaderboard(
    name: str,
    archive: str,
    out: str,
    recipe: Recipe,
    recipes: Sequence[Path],
    overrides: Sequence[str] = (),
    pairs: str | None = None,
    publish: str | None = None,
    command: str = "",
    curves: Sequence[str] = (),
    seeds: int = 1,
    history_posts: int | None = None,
    trials: int = 0,
    folds: int = 0,
) -> LeaderboardPlan:
    """Check everything that can be known before a post is read.

    `recipe` says how the archive is prepared and judged; `recipes` are files of systems, one each (see
    `family_recipes`), a file that is named twice counts once. `curves` are names of systems that are taught by `SHARES`
    of the posts too; each system is trained with `seeds` seeds, from that of its recipe on. `history_posts` is how many posts of a
    user every family reads that reads any (None: each as its recipe says). Where `recipe` has no [history], it is of earlier posts with a split by time, else of other ones.
    `trials`: of each system's [search], on the validation split (0: as the recipes are). `folds`: so many splits, by groups as
    [split] has them, each group in the test split of one (0: one split).
    Raises UsageError for what is wrong in any of them.
    """
    if "history" not in recipe.model_fields_set:
        history = HistorySection(order="earlier" if recipe.split.kind == "by_time" else "other")
        recipe = recipe.model_copy(update={"history": history})
    if not re.fullmatch(r"[\w.-]+", name):
        raise ConfigError(f"the leaderboard's name {name!r}: expected letters, digits, '.', '-' and '_' alone")
    if not storage.is_remote(out):
        out = os.path.abspath(storage.local_path(out))
    asked = _read_pairs(pairs, recipe.evaluation.ks) if pairs else []

    def board(recipe: Recipe, out: str, dataset: str, fold_name: str = "") -> LeaderboardPlan:
        entries = _entries(recipes, name, out, recipe, overrides, history_posts)
        if trials:
            for entry in entries.values():
                check_search(entry.recipe, entry.source)
        _add_again(entries, curves, seeds)
        ordered = sorted(entries.values(), key=lambda entry: entry.borrows is not None)
        prepared = plan_prepare(recipe, archive, dataset)
        return LeaderboardPlan(name, out, recipe, ordered, asked, prepared, publish, command, trials, fold_name)

    if trials < 0:
        raise ConfigError(f"trials: expected 0 or more, found {trials}")
    if folds:
        sections = fold_splits(recipe.split, folds)
        parts = [
            board(
                recipe.model_copy(update={"split": section}),
                storage.join(out, f"fold{section.fold}"),
                storage.join(out, f"dataset-fold{section.fold}"),
                f"fold {section.fold + 1} of {folds}",
            )
            for section in sections
        ]
        plan = replace(parts[0], out=out, recipe=recipe, fold_name="", folds=parts)
    else:
        plan = board(recipe, out, storage.join(out, "dataset"))
    for entry in plan.entries:
        if entry.borrows and plan.lender(entry) is None:
            raise ConfigError(
                f"{entry.source}: features = {entry.borrows!r} needs the family {entry.borrows} among the systems, "
                f"or model.{entry.borrows}_model"
            )
    return plan


def fold_splits(split: SplitSection, folds: int) -> list[SplitSection]:
    """The split of each fold: the groups' test splits are apart and hold all of them. ConfigError where that cannot be."""
    if folds < 2:
        raise ConfigError(f"folds: expected 0 or at least 2, found {folds}")
    if split.kind == "by_time":
        raise ConfigError(
            "folds: with a split by time later posts would teach earlier ones: take --split by_user, or no folds"
        )
    values = split.model_dump()
    return [
        validate_section(SplitSection, {**values, "test": 1 / folds, "fold": fold}, f"fold {fold + 1} of {folds}")
        for fold in range(folds)
    ]


def _entries(
    recipes: Sequence[Path],
    name: str,
    out: str,
    recipe: Recipe,
    overrides: Sequence[str],
    history_posts: int | None,
) -> dict[str, Entry]:
    """The systems by name, each once, without seeds and curves. ConfigError for two of one name, and for none."""
    entries: dict[str, Entry] = {}
    for path in dict.fromkeys(recipes):
        entry = _entry(path, name, out, recipe, overrides)
        if entry.name in entries:
            raise ConfigError(f"{path}: there is a system {entry.name!r} already, of {entries[entry.name].source}")
        entry = entry if history_posts is None else _at_history(entry, history_posts)
        _ = entry.options
        entries[entry.name] = entry
    if not entries:
        raise ConfigError("no system to train: name a family or a recipe")
    return entries


def family_recipes(folder: Path, families: Sequence[str] | None = None) -> list[Path]:
    """The small recipe of each family, or its only one; of all families where none is named.

    ConfigError for a family that does not exist, NotFoundError for one without a recipe in the folder.
    """
    known = list_models()
    found = []
    for name in families if families is not None else known:
        if name not in known:
            raise ConfigError(f"no family {name!r}{nearest(name, known)}; there are {', '.join(known)}")
        files = [folder / f"{name}{suffix}.toml" for suffix in ("_small", "")]
        file = next((file for file in files if file.is_file()), None)
        if file is None:
            raise NotFoundError(f"family {name!r} has no recipe in {folder}")
        found.append(file)
    return found


class BoardDryRun(TypedDict):
    """What `jobs/leaderboard.py --dry-run` prints: how far every system is."""

    name: str
    dry_run: bool
    systems: dict[str, Status]
    out: str


def describe_leaderboard(plan: LeaderboardPlan) -> BoardDryRun:
    """What `--dry-run` prints: how far every system is."""
    states: dict[str, Status] = {}
    for part in plan.parts:
        finished = part.preparation.finished
        for entry in part.entries:
            status = part.state(entry, finished.info.content_hash)["status"] if finished else "to do"
            states[entry.name] = status if states.get(entry.name, "done") == "done" else states[entry.name]
    return {"name": plan.name, "dry_run": True, "systems": states, "out": plan.out}


def _entry(path: Path, board: str, out: str, common: Recipe, overrides: Sequence[str]) -> Entry:
    """A recipe file as a system: named like its family where it is the family's own recipe, else like the file."""
    recipe = read_recipe(path, overrides)
    named = recipe.model.family
    training = recipe.training
    if training.storage is None:
        training = training.model_copy(update={"storage": _runs(out)})
    tracking = TrackingSection(experiment=EXPERIMENT, model_name=f"{EXPERIMENT}-{board}")
    shared = {name: getattr(common, name) for name in COMMON}
    recipe = recipe.model_copy(update={**shared, "training": training, "tracking": tracking})
    name = named if path.stem in (named, f"{named}_small") else path.stem
    return Entry(name, recipe, path.name)


def _runs(out: str) -> str:
    return storage.join(out, "runs")


def _at_share(entry: Entry, share: float) -> Entry:
    training = entry.recipe.training.model_copy(update={"train_share": share})
    recipe = entry.recipe.model_copy(update={"training": training})
    return replace(entry, name=f"{entry.name}-{share:.0%}".rstrip("%"), recipe=recipe, curve_of=entry.name)


def _add_again(entries: dict[str, Entry], curves: Sequence[str], seeds: int) -> None:
    """Add the points of the learning curves, and every system with the other seeds. ConfigError for what cannot be."""
    whole = list(entries.values())
    for curve in dict.fromkeys(curves):
        if curve not in entries:
            raise ConfigError(f"no system {curve!r} to draw a learning curve of{nearest(curve, entries)}")
        for share in SHARES:
            point = _at_share(entries[curve], share)
            entries[point.name] = point
    if seeds < 1:
        raise ConfigError(f"seeds: expected at least 1, found {seeds}")
    for entry in whole:
        for number in range(1, seeds):
            again = _at_seed(entry, number)
            entries[again.name] = again


def _at_seed(entry: Entry, number: int) -> Entry:
    training = entry.recipe.training.model_copy(update={"seed": entry.recipe.training.seed + number})
    recipe = entry.recipe.model_copy(update={"training": training})
    return replace(entry, name=f"{entry.name}-seed{number}", recipe=recipe, seed_of=entry.name)


def _at_history(entry: Entry, posts: int) -> Entry:
    """The entry with that length of history; itself for a family that reads none."""
    cls = family(entry.recipe.model.family)
    if "history_posts" not in cls.Options.model_fields or "history" not in cls.needs(entry.options):
        return entry
    model = ModelSection(**{**entry.recipe.model.model_dump(), "history_posts": posts})
    return replace(entry, recipe=entry.recipe.model_copy(update={"model": model}))


def _read_pairs(path: str, ks: Sequence[int]) -> list[Pair]:
    """The `[[pairs]]` of a TOML file; ConfigError for a slice or a metric that does not exist."""
    try:
        values = tomllib.loads(storage.read_bytes(path).decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: not a readable TOML file: {error}") from None
    if set(values) != {"pairs"} or not isinstance(values["pairs"], list):
        raise ConfigError(f"{path}: expected tables [[pairs]] alone, found {', '.join(values) or 'nothing'}")
    pairs = [validate_section(Pair, pair, f"{path}: pair {index + 1}") for index, pair in enumerate(values["pairs"])]
    slices = ["all", *post_slices([], [], [])]
    metrics = with_f1(post_scores(judge([[0]], [[0]], 1), ks, "headline"))
    for index, pair in enumerate(pairs):
        asked = (
            ("slice", pair.slice, slices),
            ("against", pair.against, [None, *slices]),
            ("metric", pair.metric, metrics),
        )
        for key, value, known in asked:
            if value not in known:
                near = nearest(str(value), [name for name in known if name])
                raise ConfigError(f"{path}: pair {index + 1}: {key}: there is no {value!r}{near}")
    return pairs
