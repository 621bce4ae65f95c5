"""Ridge regression from sums, against its own definition."""

import numpy as np
from sklearn.linear_model import Ridge

from hashtag_core.models.ridge import Moments


def test_moments_are_ridge_without_a_fold() -> None:
    rng = np.random.default_rng(0)
    rows, residual, fold = rng.normal(size=(30, 4)), rng.normal(size=(30, 3)), np.arange(30) % 3
    moments = Moments(3, 4, 3)
    for part in np.array_split(np.arange(30), 4):
        moments.add(rows[part], residual[part], fold[part])
    scale = np.array([1, 1, 0.5, 1])
    for without, kept in ((None, fold >= 0), (1, fold != 1)):
        oracle = Ridge(alpha=2.0, fit_intercept=False).fit(rows[kept] * scale, residual[kept])
        np.testing.assert_allclose(moments.solve(2.0, scale, without), (oracle.coef_ * scale).T, rtol=1e-4)
