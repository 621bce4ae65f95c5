"""Can these models be judged on this dataset? Nothing is downloaded, and nothing written."""

from collections.abc import Sequence

from hashtag_core import storage
from hashtag_core.config import Recipe
from hashtag_core.data.dataset import Dataset
from hashtag_core.data.hub_folder import SCHEME as HUB
from hashtag_core.errors import ConfigError, NotFoundError
from hashtag_core.tracking.registry import find_version


def check_evaluation(dataset_uri: str, models: Sequence[str], recipe: Recipe) -> tuple[Dataset, list[str]]:
    """Open the dataset and look every model up, without downloading one or writing anything.

    Returns the models with aliases resolved, each once. Raises UsageError for what is not there or cannot be evaluated.
    """
    dataset = Dataset.open(dataset_uri)
    settings = recipe.evaluation
    if not settings.ks or min(settings.ks) < 1:
        raise ConfigError(f"evaluation.ks: expected places from 1 on, found {settings.ks}")
    if not dataset.info.posts.get(settings.split, 0):
        raise ConfigError(
            f"{dataset_uri}: its {settings.split} split has no posts (evaluation.split names another one)"
        )
    if not models:
        raise ConfigError("no model to evaluate")
    found = []
    for model in models:
        if model.startswith("models:"):
            name, version, _ = find_version(model)
            found.append(f"models:/{name}/{version}")
        elif model.startswith(HUB) or storage.exists(storage.join(model, "model.json")):
            found.append(model)
        else:
            raise NotFoundError(
                f"no model at {model} (MODEL is models:/NAME/VERSION, models:/NAME@ALIAS or a model folder)"
            )
    return dataset, list(dict.fromkeys(found))
