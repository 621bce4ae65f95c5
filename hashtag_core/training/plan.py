"""Can this recipe be trained on this dataset? All that is found out without Ray and without writing."""

import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TypedDict

from hashtag_core import storage
from hashtag_core.config import Recipe
from hashtag_core.data.dataset import Dataset, Split
from hashtag_core.data.feature_cache import cache_root
from hashtag_core.data.model_record import EncodersIdentity
from hashtag_core.encoders import load_encoders
from hashtag_core.encoders.trained import trained_tops
from hashtag_core.errors import ConfigError, NotFoundError, TrainingError
from hashtag_core.evaluation.metrics import index_metrics, judge
from hashtag_core.models.base import BuiltOnModel, FittedModel, ModelOptions, TagModel
from hashtag_core.models.folder import LoadedModel, load_model_folder
from hashtag_core.models.registry import family, parse_options
from hashtag_core.redaction import redact
from hashtag_core.storage.home import home_folder
from hashtag_core.tracking import runs
from hashtag_core.tracking.registry import resolve_model
from hashtag_core.training.check import check_model
from hashtag_core.training.paths import resolve_paths
from hashtag_core.training.record import RunRecord
from hashtag_core.training.selection import BEST_F1, epoch_ks

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainPlan:
    """A recipe that can be trained on a dataset."""

    recipe: Recipe
    dataset: Dataset
    family: type[TagModel]
    options: ModelOptions
    needs: frozenset[str]
    storage: str
    resumed: RunRecord | None = None
    base: LoadedModel | None = None
    """The trained model that the family is built on (`BuiltOnModel`)."""

    @property
    def fitted(self) -> bool:
        """Whether the family is fitted once, without epochs."""
        return issubclass(self.family, FittedModel)


class TrainDryRun(TypedDict):
    """What `jobs/train.py --dry-run` prints."""

    dry_run: bool
    family: str
    dataset: str
    posts: dict[Split, int]
    vocabulary: int
    needs: list[str]
    parameters: int
    encoders: EncodersIdentity
    features: str
    checkpoints: str
    resume: str | None
    tracking: str


def plan_training(recipe: Recipe | None, dataset_uri: str | None, resume: str | None = None) -> TrainPlan:
    """Check everything that can be checked without Ray and without writing.

    With `resume` (a run's name or its MLflow id) recipe and dataset may be None: the run's own are taken. Raises
    ConfigError, NotFoundError or TrainingError (a dataset that nothing can be learned from).
    """
    asked = resolve_paths(recipe or Recipe())
    root = asked.training.storage or str(home_folder() / "runs")
    root = root if storage.is_remote(root) else os.path.abspath(storage.local_path(root))
    record = RunRecord.find(root, resume) if resume else None
    if record is not None:
        asked = asked if recipe else Recipe.model_validate(record.recipe)
        dataset_uri = dataset_uri or record.dataset
    if dataset_uri is None:
        raise ConfigError("no dataset is named")
    if not storage.is_remote(dataset_uri):
        dataset_uri = os.path.abspath(storage.local_path(dataset_uri))
    cls = family(asked.model.family)
    options = parse_options(asked.model.family, asked.model.options)
    dataset = Dataset.open(dataset_uri)
    if record is not None:
        record.check_same(asked, dataset_uri, dataset.info.content_hash)
    base = None
    if issubclass(cls, BuiltOnModel) and (named := cls.base_model(options)) is not None:
        base = load_model_folder(resolve_model(named).folder, build_tops=trained_tops)
        options = cls.on_base(options, base.model)
    plan = TrainPlan(asked, dataset, cls, options, cls.needs(options), root, record, base)
    _check_data(plan)
    _check_settings(plan)
    return plan


def describe_training(plan: TrainPlan) -> TrainDryRun:
    """What `--dry-run` prints; encoders are loaded, the model is built without memory, every file that it starts from is opened
    and MLflow is asked. Nothing is written."""
    encoders = load_encoders(plan.recipe.encoders, plan.needs, "cpu")
    check_base(plan, encoders.identity)
    parameters = check_model(plan, encoders)
    with suppress(NotFoundError):
        runs.connect(create=False)
    return {
        "dry_run": True,
        "family": plan.recipe.model.family,
        "dataset": plan.dataset.uri,
        "posts": dict(plan.dataset.info.posts),
        "vocabulary": len(plan.dataset.vocabulary),
        "needs": sorted(plan.needs),
        "parameters": parameters,
        "encoders": encoders.identity,
        "features": cache_root(plan.dataset.uri, plan.recipe.encoders),
        "checkpoints": plan.storage,
        "resume": plan.resumed.name if plan.resumed else None,
        "tracking": redact(runs.tracking_uri()),
    }


def _check_data(plan: TrainPlan) -> None:
    posts, uri = plan.dataset.info.posts, plan.dataset.uri
    for split in ("train", "validation"):
        if not posts.get(split, 0):
            raise TrainingError(f"{uri}: the {split} split has no post")
    if not len(plan.dataset.vocabulary):
        config = plan.dataset.info.config.get("vocabulary", {})
        raise TrainingError(
            f"{uri}: the vocabulary is empty: no tag of the {posts['train']} train posts is used "
            f"{config.get('min_count', 'often enough')} times (vocabulary.min_count)"
        )
    _check_modalities(plan)
    for section in ("captions", "vocabulary", "split"):
        asked, prepared = getattr(plan.recipe, section), plan.dataset.info.config.get(section)
        # What the dataset records leaves out keys that came later and have their default.
        if section in plan.recipe.model_fields_set and (prepared is None or type(asked)(**prepared) != asked):
            logger.warning("[%s] of the recipe is not what %s was prepared with: the dataset's is used", section, uri)


def _check_modalities(plan: TrainPlan) -> None:
    """ConfigError for a model that reads pictures of a dataset that has none though they were meant to be there: named and not
    had, or all that the model reads. An archive of captions alone is no mistake, but is told."""
    info, uri, family_name = plan.dataset.info, plan.dataset.uri, plan.recipe.model.family
    images = {name for name in plan.needs if name.startswith("image")}
    if not images or info.pictures != 0:
        return
    named = f" ({info.pictures_missing} are named and could not be had)" if info.pictures_missing else ""
    message = f"{uri}: no post has a picture that can be decoded{named}, and {family_name} reads pictures"
    if info.pictures_missing or images == plan.needs:
        raise ConfigError(
            f"{message}: prepare the archive with its pictures, or choose a family or `model` options that read captions alone"
        )
    logger.warning("%s: it learns from captions alone", message)


def check_base(plan: TrainPlan, identity: EncodersIdentity) -> None:
    """ConfigError where the model that this one is built on reads other features or other captions than it would be given."""
    if plan.base is None:
        return
    captions = plan.dataset.info.config.get("captions")
    info = plan.base.info
    for name, trained, here in (
        ("encoders", info.get("encoders"), identity),
        ("captions", info.get("captions"), captions),
    ):
        if trained != here:
            raise ConfigError(
                f"the {plan.base.family} that {plan.recipe.model.family} is built on was trained with other {name}: "
                f"{trained}, here {here}"
            )


def _check_settings(plan: TrainPlan) -> None:
    settings = plan.recipe.training
    if plan.fitted:
        if plan.recipe.encoders.finetune != "none":
            raise ConfigError(
                f"encoders.finetune: {plan.recipe.model.family} is fitted in closed form, and no gradient reaches its encoders; "
                'take "none", or a family that is taught by gradient'
            )
        return
    if plan.recipe.encoders.unfreeze_epochs and plan.recipe.encoders.finetune == "none":
        raise ConfigError(
            'encoders.unfreeze_epochs: nothing is frozen that would be freed: encoders.finetune is "none"'
        )
    if plan.recipe.encoders.unfreeze_epochs and settings.encoder_learning_rate == 0:
        raise ConfigError("encoders.unfreeze_epochs: no block would learn: training.encoder_learning_rate is 0")
    _check_workers(plan)
    if settings.batch_size < settings.workers:
        raise ConfigError(
            f"training.batch_size: {settings.batch_size} posts cannot be shared by {settings.workers} workers"
        )
    posts = plan.dataset.info.posts["train"]
    if posts < settings.workers:
        raise TrainingError(f"{plan.dataset.uri}: {posts} train posts cannot be spread over {settings.workers} workers")
    if plan.recipe.encoders.finetune != "none" and settings.encoder_learning_rate is None:
        raise ConfigError(
            f"training.encoder_learning_rate: name the rate of the encoders that encoders.finetune trains; that of the model, "
            f"{settings.learning_rate:g}, would unlearn them (5e-5 is usual)"
        )
    known = {BEST_F1, *index_metrics(judge([[0]], [[0]], 1), epoch_ks(plan.recipe), settings.select_protocol)}
    if settings.select_metric not in known:
        shown = ", ".join(sorted(name.replace(f"_at_{epoch_ks(plan.recipe)[0]}", "_at_<k>") for name in known))
        raise ConfigError(f"training.select_metric: no metric {settings.select_metric!r}; there are {shown}")


def _check_workers(plan: TrainPlan) -> None:
    """ConfigError for settings of the workers that exclude each other."""
    settings = plan.recipe.training
    if settings.parallel == "ddp":
        return
    for key, value, found in (
        ("training.weight_average", settings.weight_average, settings.weight_average is not None),
        ("training.precision", settings.precision, settings.precision == "float16"),
        ("encoders.unfreeze_epochs", plan.recipe.encoders.unfreeze_epochs, plan.recipe.encoders.unfreeze_epochs > 0),
    ):
        if found:
            raise ConfigError(f'training.parallel: "fsdp" does not go with {key} = {value}')
