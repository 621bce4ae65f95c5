"""The expected calibration error of the first tags."""

import numpy as np
import pytest

from hashtag_core.evaluation.calibration import calibration_error
from hashtag_core.evaluation.metrics import judge


def test_the_calibration_error_by_hand():
    # four tags in two bins: scores .9 and .7 hit once (.8 against .5), .2 and .1 never (.15 against 0)
    judgement = judge([[0, 1], [0, 1]], [[0], [2]], 3)
    scores = np.array([[0.9, 0.2], [0.7, 0.1]])
    assert calibration_error(judgement, scores, "headline", 2, bins=2) == pytest.approx((2 * 0.3 + 2 * 0.15) / 4)
    assert calibration_error(judgement, scores, "headline", 1, bins=9) == pytest.approx((0.1 + 0.7) / 2)
    assert calibration_error(judge([[0]], [[]], 3), np.array([[0.5]]), "headline", 1) == 0.0
    assert calibration_error(judge([[-1]], [[0]], 3), np.array([[0.5]]), "headline", 1) == 0.0
