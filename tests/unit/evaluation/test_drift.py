"""The population stability index of tags, by hand and by what must hold of it."""

from math import log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashtag_core.evaluation.drift import describe_psi, population_stability_index

COUNTS = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 500), min_size=1)


def test_by_hand() -> None:
    """Bins a, b and other (c 10 + 0, d 0 + 20): counts 59, 29, 9 | 29, 49, 19, and one more each: 60, 30, 10 | 30, 50, 20."""
    counts, reference = {"a": 59, "b": 29, "c": 9}, {"a": 29, "b": 49, "d": 19}
    expected = (0.6 - 0.3) * log(0.6 / 0.3) + (0.3 - 0.5) * log(0.3 / 0.5) + (0.1 - 0.2) * log(0.1 / 0.2)
    assert expected == pytest.approx(0.379, abs=5e-4)
    assert population_stability_index(counts, reference, min_count=30) == pytest.approx(expected)
    apart = population_stability_index(counts, reference, min_count=1)
    assert apart is not None
    assert apart > expected, "c and d are two bins now"


@given(COUNTS, COUNTS, st.integers(1, 100))
def test_what_holds(counts: dict[str, int], reference: dict[str, int], min_count: int) -> None:
    psi = population_stability_index(counts, reference, min_count)
    assert psi is not None
    assert psi >= 0
    assert psi == pytest.approx(population_stability_index(reference, counts, min_count))
    assert population_stability_index(counts, counts, min_count) == 0


def test_two_samples_of_one_distribution_do_not_differ() -> None:
    rng = np.random.default_rng(0)
    shares = 1 / np.arange(1, 2001)
    one, two = (rng.multinomial(50_000, shares / shares.sum()) for _ in range(2))
    named = [{f"tag{n}": int(count) for n, count in enumerate(counts) if count} for counts in (one, two)]
    psi = population_stability_index(*named)
    assert psi is not None
    assert psi < 0.1
    moved = {tag: count * (5 if tag in ("tag3", "tag40") else 1) for tag, count in named[1].items()}
    grown = population_stability_index(named[0], moved)
    assert grown is not None
    assert grown > psi


def test_nothing_to_compare() -> None:
    assert population_stability_index({}, {"a": 1}) is None
    assert population_stability_index({"a": 1}, {}) is None
    assert [describe_psi(value) for value in (0.0, 0.0999, 0.1, 0.2499, 0.25)] == [
        "none",
        "none",
        "moderate",
        "moderate",
        "large",
    ]
