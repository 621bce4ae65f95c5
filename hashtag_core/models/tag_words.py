"""What the tags that a model was taught tell of a tag that is known by its words alone: kriging over the words.

Shape legend: `hashtag_core.data.batches`; T numbers of a tag's words, U new tags. Whatever a tag taught has (regression weights,
votes of neighbours) is a value at the place where its unit word vector lies; a new tag has what kriging predicts at its own
(`kriging.Covariance`, without a constant: a tag that says nothing like any other has nothing). The prediction is a weighted sum,
and the weights depend on the words alone.
"""

import torch
from torch import Tensor

from hashtag_core.models.kriging import Covariance

LENGTH, NOISE = 0.4, 1.0
"""Of the covariance between tags."""


def shares_of_new(known_VT: Tensor, words_UT: Tensor) -> Tensor:
    """[V, U]: what each tag taught counts for each new one. Both are unit vectors, zeros where nothing is said."""
    covariance = Covariance(0.0, LENGTH, NOISE)
    shares_VU: Tensor = torch.linalg.solve(_covariances(known_VT), covariance.between(known_VT @ words_UT.t()))
    return shares_VU


def shares_without_itself(known_VT: Tensor) -> Tensor:
    """[V, V]: what each tag taught would count for each other one if that were new; the diagonal is 0.

    The leave-one-out prediction of a Gaussian process in closed form: with Q = (K + noise I)^-1 it is y - Q y / diag(Q)
    (Rasmussen & Williams, Gaussian Processes for Machine Learning, 2006, eq. 5.12).
    """
    inverse_VV = torch.linalg.inv(_covariances(known_VT))
    shares_VV: Tensor = -inverse_VV / inverse_VV.diagonal()
    return shares_VV.fill_diagonal_(0.0)


def _covariances(known_VT: Tensor) -> Tensor:
    """K + noise I [V, V]; a tag is as like itself as can be, whether or not its words have a vector."""
    k_VV = Covariance(0.0, LENGTH, NOISE).between(known_VT @ known_VT.t())
    return k_VV.fill_diagonal_(1.0 + NOISE)
