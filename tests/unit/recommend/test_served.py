"""Rows of a data frame as posts, and golden outputs."""

import base64
import copy
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hashtag_core.data.images import decode_image
from hashtag_core.errors import ConfigError
from hashtag_core.recommend.recommender import Recommender
from hashtag_core.recommend.served import ServedModel, golden_difference, golden_outputs, post_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_model_folder: Callable[..., Path]) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("served") / "popularity", family="popularity", tags=6)


@pytest.mark.parametrize(
    ("row", "post"),
    [
        ({"post_id": "1", "caption": None, "latitude": float("nan"), "created_at": pd.NaT}, {"post_id": "1"}),
        ({"post_id": "1", "image": base64.encodebytes(b"x" * 100).decode()}, {"post_id": "1", "image": b"x" * 100}),
        ({"post_id": "1", "image": bytearray(b"x")}, {"post_id": "1", "image": b"x"}),
        ({"post_id": "1", "hashtags": np.array(["a", "b"])}, {"post_id": "1", "hashtags": ["a", "b"]}),
        (
            {"post_id": "1", "created_at": "2026-01-31T12:00:00Z"},
            {"post_id": "1", "created_at": datetime(2026, 1, 31, 12, tzinfo=UTC)},
        ),
        (
            {"post_id": "1", "created_at": pd.Timestamp("2026-01-31T12:00")},
            {"post_id": "1", "created_at": datetime(2026, 1, 31, 12, tzinfo=UTC)},
        ),
        (
            {"post_id": "1", "created_at": "2026-01-31T12:00:00+02:00"},
            {"post_id": "1", "created_at": datetime(2026, 1, 31, 12, tzinfo=timezone(timedelta(hours=2)))},
        ),
    ],
)
def test_what_a_frame_says_becomes_a_post(row: dict, post: dict) -> None:
    assert post_of(row) == post


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"post_id": "1", "picture": "x"}, "row 3: no field 'picture' in a post; there are post_id"),
        ({"post_id": "1", "image": "no base64!"}, "row 3: image: base64 or bytes expected"),
        ({"post_id": "1", "created_at": "yesterday"}, "row 3: created_at: ISO 8601 expected, found 'yesterday'"),
    ],
)
def test_a_row_that_is_no_post_is_named(row: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        post_of(row, 3)


def test_a_service_answers_as_the_recommender(folder: Path) -> None:
    served = ServedModel(str(folder))
    rows = served.predict(pd.DataFrame([{"post_id": "1", "caption": "x"}, {"post_id": "2", "caption": None}]), top_k=4)
    expected = served.recommender.recommend([{"post_id": "1", "caption": "x"}, {"post_id": "2"}], top_k=4).to_pylist()
    for found, row in zip(rows.to_dict("records"), expected, strict=True):
        assert {**found, "hashtags": list(found["hashtags"]), "scores": list(found["scores"])} == row
    assert rows["detail"].dtype == object


def test_golden_outputs_are_those_of_the_same_model_and_of_no_other(folder: Path) -> None:
    recommender = Recommender.load(str(folder), device="cpu")
    golden = golden_outputs(recommender)
    assert len(golden["posts"]) == len(golden["tagged"]) == 4
    picture = decode_image(base64.b64decode(golden["posts"][0]["image"]), 64)
    assert picture.shape == (64, 64, 3)
    assert picture[10, 20].tolist() == [80, 40, 200]
    assert golden_difference(recommender, golden) == 0.0
    other = copy.deepcopy(golden)
    other["tagged"][2]["scores"][0] += 0.25
    assert golden_difference(recommender, other) == pytest.approx(0.25)
    other["tagged"][1]["hashtags"][0] = "unheard"  # its score less the lowest one that is given
    scores = golden["tagged"][1]["scores"]
    assert golden_difference(recommender, other) == pytest.approx(max(0.25, scores[0] - min(scores)))
    for broken in ({}, {"posts": [], "tagged": [{}]}):
        with pytest.raises(ConfigError, match="golden outputs cannot be read"):
            golden_difference(recommender, broken)
