"""What `prepare` is to do, validated before anything is written. Needs no ray: a run with nothing to do ends without it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from pydantic import JsonValue

from hashtag_core import storage
from hashtag_core.config import Recipe
from hashtag_core.data.dataset import Dataset
from hashtag_core.data.dataset_rows import PostRules
from hashtag_core.data.formats import ArchiveFormat
from hashtag_core.data.open_archive import Archive, open_archive
from hashtag_core.data.vocabulary import read_tag_rules
from hashtag_core.errors import ConfigError, NotFoundError
from hashtag_core.preparation.claim import WORK, foreign_files
from hashtag_core.storage import FileInfo

TEST_PREFIX = "test-archive/"
"""Before the path of a part of the test archive, in `source` and in the records of rejected rows."""


LATER_OPTIONS: tuple[tuple[str, str, JsonValue], ...] = (
    ("archive", "require", []),
    ("archive", "letters", "any"),
    ("archive", "map", {}),
    ("archive", "date_format", None),
    ("archive", "encoding", None),
    ("archive", "delimiter", None),
    ("archive", "hashtag_rules", "instagram"),
    ("archive", "image_hosts", []),
    ("captions", "stop_words", "keep"),
    ("split", "fold", 0),
)
"""Options that came after datasets had been made: not recorded at their default, so that those stay what they are."""


@dataclass(frozen=True)
class PreparePlan:
    """What a run is to do, validated: nothing has been written."""

    recipe: Recipe
    archive: str
    test_archive: str | None
    dataset: str
    archives: list[Archive]
    """The archive and, where there is one, the test archive, listed."""
    parts: list[FileInfo]
    """Of both archives, those of the test archive last, their paths with TEST_PREFIX."""
    rules: PostRules
    config: dict[str, dict[str, JsonValue]]
    """What `dataset.json` records, and a second run must have."""
    finished: Dataset | None
    """The dataset that is there already, of the same configuration."""

    @property
    def layout(self) -> ArchiveFormat:
        """Of both archives."""
        return self.archives[0].layout

    @property
    def from_test(self) -> np.ndarray:
        """bool for each part."""
        return np.array([part.path.startswith(TEST_PREFIX) for part in self.parts], dtype=bool)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the listing of the parts: path, size and etag."""
        listing = [[part.path, part.size, part.etag] for part in self.parts]
        return hashlib.sha256(json.dumps(listing).encode()).hexdigest()

    @property
    def is_done(self) -> bool:
        """Whether the dataset that is there was made of these very parts."""
        return self.finished is not None and self.finished.info.fingerprint == self.fingerprint


def plan_prepare(recipe: Recipe, archive: str, dataset: str, test_archive: str | None = None) -> PreparePlan:
    """Validate everything that can be known before a row is read; writes nothing.

    NotFoundError for an archive that is not there; ArchiveError for one without a part or with no part that could hold a
    post; ConfigError for a dataset folder that holds another configuration or something else.
    """
    archive, dataset = storage.absolute(archive), storage.absolute(dataset)
    test_archive = test_archive and storage.absolute(test_archive)
    for read in filter(None, (archive, test_archive)):
        if f"{dataset}/".startswith(f"{read}/") or f"{read}/".startswith(f"{dataset}/"):
            inner, outer = ("dataset", "archive") if dataset.startswith(read) else ("archive", "dataset")
            raise ConfigError(
                f"the {inner} lies in the {outer} (dataset {dataset}, archive {read}): name a folder beside the archive"
            )
    if test_archive == archive:
        raise ConfigError(f"the test archive is the archive itself: {archive}")
    rules = PostRules(recipe.captions, read_tag_rules(recipe.vocabulary), recipe.archive)
    config = _configuration(recipe, test_archive is not None)
    finished = finished_dataset(dataset, config)
    archives = [open_archive(uri, recipe.archive) for uri in filter(None, (archive, test_archive))]
    for opened in archives:
        opened.first_readable()
    parts = list(archives[0].parts)
    parts += [replace(part, path=TEST_PREFIX + part.path) for opened in archives[1:] for part in opened.parts]
    return PreparePlan(recipe, archive, test_archive, dataset, archives, parts, rules, config, finished)


def finished_dataset(dataset: str, config: dict[str, dict[str, JsonValue]]) -> Dataset | None:
    """The dataset there, once its configuration is seen to be this one; None where nothing is, or a killed run's leftovers."""
    try:
        found = Dataset.open(dataset)
    except NotFoundError:
        if storage.exists(dataset):
            ours = storage.exists(storage.join(dataset, WORK))  # what a killed run left behind
            others = (
                foreign_files(dataset) if ours else [info.path for info in storage.list_files(dataset, hidden=True)]
            )
            if others:
                raise ConfigError(f"{dataset} is not empty and holds no dataset: {others[0]} is there") from None
        return None
    before, now = _flat(found.info.config), _flat(config)
    differing = [
        f"{key} was {before.get(key)!r}, now {now.get(key)!r}"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]
    if differing:
        raise ConfigError(
            f"{dataset} holds a dataset of another configuration: {'; '.join(differing)}: take another --dataset, or remove that one"
        )
    return found


def _flat(config: Mapping[str, Mapping[str, JsonValue] | JsonValue]) -> dict[str, JsonValue]:
    """By section and key; what stands outside of a section, as it does in datasets of others, by itself."""
    return {
        f"{section}.{key}": value
        for section, values in config.items()
        for key, value in (values.items() if isinstance(values, Mapping) else [("", values)])
    }


def _configuration(recipe: Recipe, with_test_archive: bool) -> dict[str, dict[str, JsonValue]]:
    """What the result depends on besides the posts: the sections but for `batch_rows`, files by their content."""
    config = recipe.model_dump(include={"archive", "captions", "vocabulary", "split"})
    del config["archive"]["batch_rows"], config["archive"]["max_missing_images"]
    for section, key, default in LATER_OPTIONS:
        if config[section][key] == default:
            del config[section][key]
    config["archive"]["test_archive"] = with_test_archive
    for key in ("deny_file", "synonyms_file"):
        if config["vocabulary"][key]:
            config["vocabulary"][key] = hashlib.sha256(storage.read_bytes(config["vocabulary"][key])).hexdigest()
    return config
