"""Has what a model says changed? The population stability index of two distributions of tags.

PSI = sum over the bins of (p - q) ln(p / q), with p and q the shares of a bin in two samples: the symmetric Kullback-Leibler
divergence (Jeffreys 1946). The usual reading (Siddiqi, Credit Risk Scorecards, 2006): below 0.1 no change, up to 0.25 a
moderate one, above it a large one.
"""

from collections.abc import Mapping

import numpy as np

MODERATE, LARGE = 0.1, 0.25
MIN_COUNT = 50
"""Tags seen less often, in both samples together, are one bin: with B bins and N and M tags, two samples of one distribution
have an index of about (B - 1) (1/N + 1/M), which is below 0.1 where a bin has 25 in each."""


def population_stability_index(
    counts: Mapping[str, int], reference: Mapping[str, int], min_count: int = MIN_COUNT
) -> float | None:
    """PSI of two counts of tags; None where one of them is empty.

    Shares are Laplace-smoothed, (count + 1) / (all counts + bins), so that a tag which one sample lacks gives no infinity.
    """
    if not sum(counts.values()) or not sum(reference.values()):
        return None
    both = {tag: (counts.get(tag, 0), reference.get(tag, 0)) for tag in counts.keys() | reference.keys()}
    bins = [pair for pair in both.values() if sum(pair) >= min_count]
    rare = [pair for pair in both.values() if sum(pair) < min_count]
    if rare:
        bins.append((sum(pair[0] for pair in rare), sum(pair[1] for pair in rare)))
    smoothed = np.array(bins, dtype=np.float64) + 1
    shares = smoothed / smoothed.sum(axis=0)
    return float(((shares[:, 0] - shares[:, 1]) * np.log(shares[:, 0] / shares[:, 1])).sum())


def describe_psi(psi: float) -> str:
    """The usual reading in a word."""
    return "none" if psi < MODERATE else "moderate" if psi < LARGE else "large"
