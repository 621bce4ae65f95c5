"""The recipe: one typed, complete, validated description of a run.

A recipe is a TOML file of flat sections; every key has a default, so an empty recipe is a whole one. `--set
section.field=value` overrides a key (the value is read as TOML, and as a plain string where it is not TOML). A key that
does not exist is refused and the nearest name offered; the string "null" is null, which TOML lacks. The copy that a run saves with its
model is `recipe.model_dump()`.
"""

import difflib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError, field_validator

from hashtag_core.errors import ConfigError, NotFoundError
from hashtag_core.json_values import JsonObject
from hashtag_core.search_space import SearchSpace, check_names
from hashtag_core.sections import (
    ArchiveSection,
    CaptionsSection,
    EncodersSection,
    EvaluationSection,
    GatesSection,
    HistorySection,
    ModelSection,
    ReadingOptions,
    RecommendSection,
    Section,
    SplitSection,
    TaggingSection,
    TrackingSection,
    TrainingSection,
    VocabularySection,
)

__all__ = [
    "ArchiveSection",
    "CaptionsSection",
    "EncodersSection",
    "EvaluationSection",
    "GatesSection",
    "HistorySection",
    "ModelSection",
    "ReadingOptions",
    "Recipe",
    "RecommendSection",
    "Section",
    "SplitSection",
    "TaggingSection",
    "TrackingSection",
    "TrainingSection",
    "VocabularySection",
    "nearest",
    "parse_override",
    "read_recipe",
    "validate_section",
]

S = TypeVar("S", bound=BaseModel)


class Recipe(Section):
    """One run, whole. Field meanings stand in the sections."""

    archive: ArchiveSection = ArchiveSection()
    captions: CaptionsSection = CaptionsSection()
    vocabulary: VocabularySection = VocabularySection()
    split: SplitSection = SplitSection()
    encoders: EncodersSection = EncodersSection()
    history: HistorySection = HistorySection()
    model: ModelSection = ModelSection()
    training: TrainingSection = TrainingSection()
    evaluation: EvaluationSection = EvaluationSection()
    gates: GatesSection = GatesSection()
    recommend: RecommendSection = RecommendSection()
    tagging: TaggingSection = TaggingSection()
    tracking: TrackingSection = TrackingSection()
    search: dict[str, SearchSpace] = {}
    """Settings that `jobs/tune.py` and `jobs/leaderboard.py --trials` try out, by `section.field`; nothing else reads it."""

    @field_validator("search")
    @classmethod
    def _named(cls, search: dict[str, SearchSpace]) -> dict[str, SearchSpace]:
        check_names(search)
        return search


def nearest(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the closest known name, whatever their case, or an empty string."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), list(by_lower), n=1, cutoff=0.5)
    return f" (did you mean {by_lower[close[0]]!r}?)" if close else ""


def validate_section(cls: type[S], values: Mapping[str, Any], where: str) -> S:
    """`cls(**values)`, with every fault told in one `ConfigError`.

    `where` is what the message calls this section, a file or a section name.
    """
    try:
        return cls(**values)
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(cls, fault, where) for fault in error.errors())) from None


def _explain(cls: type[BaseModel], fault: Any, where: str) -> str:
    path = [str(step) for step in fault["loc"]]
    key = ".".join(path)
    if fault["type"] == "extra_forbidden":
        owner: Any = cls
        for step in path[:-1]:
            # below [search] there are tables of any name
            owner = owner.model_fields[step].annotation if hasattr(owner, "model_fields") else get_args(owner)[1]
        return f"{where}: unknown key {key!r}{nearest(path[-1], owner.model_fields)}"
    found = fault.get("input")
    shown = "" if isinstance(found, Mapping) or fault["type"] == "missing" else f", found {found!r}"
    return f"{where}: {key or 'recipe'}: {fault['msg'].removeprefix('Value error, ')}{shown}"


def parse_override(text: str) -> tuple[str, str, Any]:
    """`section.field=value` -> (section, field, value); the value as TOML reads it, else the bare string."""
    name, equals, raw = text.partition("=")
    section, dot, field = name.strip().partition(".")
    if not (equals and dot and section and field):
        raise ConfigError(f"--set {text!r}: expected section.field=value")
    try:
        value: Any = tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        value = raw
    return section, field, value


def read_recipe(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a TOML file (None: all defaults) with `--set` overrides applied.

    Raises NotFoundError for a file that is not there, ConfigError for anything in it that is wrong.
    """
    values: JsonObject = {}
    where = "recipe"
    if path is not None:
        where = str(path)
        try:
            values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise NotFoundError(f"no recipe at {path}") from None
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{path}: not a readable TOML file: {error}") from None
    for text in overrides:
        section, field, value = parse_override(text)
        if section not in Recipe.model_fields:
            raise ConfigError(f"--set {text!r}: unknown section {section!r}{nearest(section, Recipe.model_fields)}")
        held = values.setdefault(section, {})
        if not isinstance(held, dict):
            raise ConfigError(f"{where}: [{section}] is not a section")
        held[field] = value
    return validate_section(Recipe, values, where)
