"""What of a recipe may be tried out: `[search]` names settings, and for each a range or a choice.

[search]
"training.learning_rate" = {low = 3e-4, high = 1e-2, log = true}
"model.dropout" = [0.2, 0.4, 0.6]
"""

import math
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

SEARCHED = ("model", "training")
"""Sections whose settings may be tried out: the others are of the data and of the judging."""


class SearchSpace(BaseModel):
    """The values that one setting may take: from `low` to `high`, both included, whole numbers where both are, or `choices`
    (a list in place of the table; "null" in it is null)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    low: int | float | None = None
    """The least value of a range; null for a choice."""
    high: int | float | None = None
    """The greatest."""
    log: bool = False
    """Whether equal ratios, not equal distances, are equally likely."""
    choices: list[Any] | None = None
    """The values of a choice, two at least."""

    @model_validator(mode="before")
    @classmethod
    def _list(cls, values: Any) -> Any:
        """A list is a choice."""
        if isinstance(values, list):
            return {"choices": [None if value == "null" else value for value in values]}
        return values

    @model_validator(mode="after")
    def _one_of_both(self) -> "SearchSpace":
        ranged = self.low is not None and self.high is not None
        if (self.choices is not None) == ranged or (self.low is None) != (self.high is None):
            raise ValueError("expected low and high, or a list of choices")
        if self.choices is not None and (len(self.choices) < 2 or self.log):
            raise ValueError("expected at least two choices, and no log of them")
        if self.low is not None and self.high is not None:
            if self.low >= self.high:
                raise ValueError(f"expected low below high, found {self.low} and {self.high}")
            if self.log and self.low <= 0:
                raise ValueError(f"expected low above 0 for log, found {self.low}")
        return self

    @property
    def is_whole(self) -> bool:
        """Whether it is a range of whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def ends(self) -> list[Any]:
        """The choices, or the two ends of the range."""
        return self.choices if self.choices is not None else [self.low, self.high]

    def distribution(self) -> Any:
        """What Optuna draws from; a choice is drawn by its place, since it may be a list."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices is not None:
            return CategoricalDistribution(list(range(len(self.choices))))
        assert self.low is not None
        assert self.high is not None
        if self.is_whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)

    def drawn(self, value: Any) -> Any:
        """What would have to be drawn for that value."""
        return value if self.choices is None else self.choices.index(value)

    def value(self, drawn: Any) -> Any:
        """The value for what was drawn."""
        return drawn if self.choices is None else self.choices[drawn]

    def holds(self, value: Any) -> bool:
        """Whether the value is one of them."""
        if self.choices is not None:
            return value in self.choices
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return False
        assert self.low is not None
        assert self.high is not None
        return self.low <= value <= self.high and (not self.is_whole or value == int(value))


def check_names(spaces: Mapping[str, SearchSpace]) -> None:
    """ValueError for a name that is no setting of a section that may be searched."""
    for name in spaces:
        section, dot, field = name.partition(".")
        if section not in SEARCHED or not dot or not field:
            raise ValueError(
                f"{name!r}: expected a setting of {' or '.join(f'[{one}]' for one in SEARCHED)}, as training.epochs"
            )
