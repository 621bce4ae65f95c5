"""Relative paths of a recipe, made absolute where the command is typed: a worker runs in another folder."""

import os

from hashtag_core import storage
from hashtag_core.config import Recipe, Section

PATHS = {"model": ("word_vectors",), "encoders": ("cache",)}
"""Keys that name a file or a folder."""
AFTER_COLON = {"model": ("start",), "encoders": ("text", "image", "image_second", "regions")}
"""Keys that name one behind a kind and a colon: `hf:./folder`, `vgg16:file.pth`, `precomputed:regions.parquet`."""


def resolve_paths(recipe: Recipe) -> Recipe:
    """The recipe with every relative path in it made absolute, from the folder that the command is typed in.

    `hf:name/of-the-hub` stays as it is unless there is such a folder here.
    """
    values: dict[str, Section] = {}
    for section, keys in PATHS.items():
        part = getattr(recipe, section)
        given = part.model_dump() if section != "model" else {"family": part.family, **part.options}
        for key in keys:
            if isinstance(given.get(key), str):
                given[key] = _absolute(given[key])
        for key in AFTER_COLON[section]:
            value = given.get(key)
            kind, colon, path = value.partition(":") if isinstance(value, str) else ("", "", "")
            if colon and _is_local(kind, path):
                given[key] = f"{kind}:{_absolute(path)}"
        values[section] = type(part)(**given)
    return recipe.model_copy(update=values)


def _is_local(kind: str, path: str) -> bool:
    """Whether what stands behind a kind is a path here: always a file's, a name of the hub only where it is a folder."""
    if kind in ("hf", "detector"):
        return path.startswith((".", "~", "/")) or os.path.isdir(path)
    return bool(path)


def _absolute(path: str) -> str:
    if storage.is_remote(path):
        return path
    return os.path.abspath(os.path.expanduser(storage.local_path(path)))
