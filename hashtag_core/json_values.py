"""Types of values whose keys are not ours to name. What is ours is a TypedDict or a dataclass, so that mypy knows its keys."""

from typing import Any

JsonObject = dict[str, Any]
"""A JSON object whose keys another decides: an options class, a file of another project, a recipe of an older release."""
Options = dict[str, Any]
"""Keyword arguments that are handed to another library as they are."""
