"""Features of posts, computed once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class FeatureKind:
    """One encoder output: what it is of, its folder below the cache's root, its shape (see `schema.features`)."""

    of: Literal["image", "caption"]
    folder: str
    dim: int
    rows: int | None = None


class FeatureCache:
    """The cache below `root`."""

    def __init__(self, root: str, kinds: Mapping[str, FeatureKind], boxes: np.ndarray | None = None) -> None:
        self.root = root
        self.kinds = dict(kinds)
        self.boxes = boxes
