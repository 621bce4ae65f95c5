"""Speeds side by side, and golden outputs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from hashtag_core.data.model_files import check_model_files
from hashtag_core.evaluation.ground_truth import Truth
from hashtag_core.judging.measure import MeasureTask, measured
from hashtag_core.recommend.recommender import Recommender
from hashtag_core.recommend.served import golden_outputs


def test_each_model_has_a_speed_and_the_first_its_golden_outputs(
    truth: Truth, tmp_path: Path, make_model_folder: Callable[..., Path]
) -> None:
    folders = [make_model_folder(tmp_path / str(seed), seed=seed) for seed in range(2)]
    golden = [golden_outputs(Recommender.load(str(folder))) for folder in folders]
    models = tuple((str(folder), check_model_files(folder).version) for folder in folders)
    own = measured(MeasureTask(models, truth.dataset, "test", 4, golden[0]), [None, None])
    assert all(speed > 0 for speed in own.speeds)
    assert len(own.speeds) == 2
    assert own.golden == pytest.approx(0.0, abs=1e-6)
    other = measured(MeasureTask(models, truth.dataset, "test", 4, golden[1]), [None, None])
    assert other.golden is not None
    assert other.golden > 0.01
    # a node that has the folder not, and was sent its files
    files = {path.name: path.read_bytes() for path in folders[0].iterdir()}
    sent = MeasureTask((("/nowhere", models[0][1]),), truth.dataset, "test", 4, None)
    assert measured(sent, [files]).golden is None
