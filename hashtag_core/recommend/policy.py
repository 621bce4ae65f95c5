"""Which of a model's tags may be given: not those of a deny list, none below a score. Needs no torch."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hashtag_core.errors import IntegrityError

THRESHOLDS = "thresholds.json"
"""In a model folder, optional: the least score of a tag, `{tag: score}`. Written by training, or by hand."""

SHOWN_TAGS = 3


@dataclass(frozen=True)
class Policy:
    """A tag that is not allowed makes room for the next one; a post may so have fewer tags than were asked for, or none."""

    min_score: float = 0.0
    deny: frozenset[str] = frozenset()
    thresholds: Mapping[str, float] = field(default_factory=dict)
    """Least score of single tags, beside `min_score`."""

    def least_scores(self, tags: Sequence[str]) -> np.ndarray | None:
        """float32 [V], the score from which on each tag may be given, infinite for a denied one; None if all always may.

        None of them is below the number that was asked for, whatever float32 makes of it.
        """
        asked = np.array([max(self.min_score, self.thresholds.get(tag, 0.0)) for tag in tags], dtype=np.float64)
        asked[[tag in self.deny for tag in tags]] = np.inf
        if not asked.any():
            return None
        least = asked.astype(np.float32)
        return np.where(least < asked, np.nextafter(least, np.float32(np.inf)), least)

    @property
    def as_settings(self) -> dict[str, str]:
        """`deny` and `thresholds` as `tell_tags` has them."""
        values = {"deny": dict.fromkeys(self.deny, 0.0), "thresholds": self.thresholds}
        return {name: tell_tags(tags) for name, tags in values.items()}


def read_thresholds(model_folder: Path) -> dict[str, float]:
    """The thresholds of a model folder, none where there is no such file. IntegrityError if it is not `{tag: score}`."""
    path = model_folder / THRESHOLDS
    if not path.exists():
        return {}
    try:
        values = {str(tag): float(score) for tag, score in json.loads(path.read_bytes()).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise IntegrityError(f"{path}: expected a score for each tag: {error}") from None
    for tag, score in values.items():
        if not 0 <= score <= 1:
            raise IntegrityError(f"{path}: {tag}: expected a score in [0, 1], found {score}")
    return values


def write_thresholds(model_folder: Path, thresholds: Mapping[str, float]) -> None:
    """Put the thresholds into a model folder, as `read_thresholds` reads them."""
    text = json.dumps(thresholds, ensure_ascii=False, indent=1, sort_keys=True, allow_nan=False)
    (model_folder / THRESHOLDS).write_text(text + "\n", encoding="utf-8")


def tell_tags(tags: Mapping[str, float]) -> str:
    """Tags with a number each in a line: how many, the first names, a hash of all; empty for none."""
    if not tags:
        return ""
    names = sorted(tags)
    digest = hashlib.sha256(json.dumps([[name, tags[name]] for name in names]).encode()).hexdigest()[:12]
    return f"{len(names)} tag(s): {', '.join(names[:SHOWN_TAGS])}{', ...' * (len(names) > SHOWN_TAGS)} ({digest})"
