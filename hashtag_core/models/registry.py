"""Names to families. A family is one file in this folder and one import line in `models/__init__.py`."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from hashtag_core.config import nearest, validate_section
from hashtag_core.errors import ConfigError
from hashtag_core.models.base import InputSpec, ModelOptions, TagModel

M = TypeVar("M", bound=TagModel)

_FAMILIES: dict[str, type[TagModel]] = {}


def register(cls: type[M]) -> type[M]:
    """Class decorator: make a family known under `cls.name`. A second family of that name is an error."""
    if cls.name in _FAMILIES:
        raise ValueError(
            f"two model families are called {cls.name!r}: {_FAMILIES[cls.name].__module__} and {cls.__module__}"
        )
    _FAMILIES[cls.name] = cls
    return cls


def list_models() -> list[str]:
    """Names of all families, sorted."""
    return sorted(_FAMILIES)


def family(name: str) -> type[TagModel]:
    """The family of that name; ConfigError offers the nearest one."""
    try:
        return _FAMILIES[name]
    except KeyError:
        raise ConfigError(
            f"model.family: no family {name!r}{nearest(name, _FAMILIES)}; there are {', '.join(list_models())}"
        ) from None


def parse_options(name: str, options: Mapping[str, Any]) -> ModelOptions:
    """The family's options, validated; ConfigError names every unknown or wrong key."""
    return validate_section(family(name).Options, options, f"[model] of {name}")


def create_model(
    name: str,
    spec: InputSpec,
    options: Mapping[str, Any] | ModelOptions | None = None,
    tags: Sequence[str] | None = None,
) -> TagModel:
    """A new, untrained model of the family. `tags`: the vocabulary, for families that read what tags are called."""
    cls = family(name)
    parsed = options if isinstance(options, ModelOptions) else parse_options(name, options or {})
    model = cls(parsed, spec)
    if tags is not None:
        model.name_tags(tags)
    return model
