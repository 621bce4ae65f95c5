"""A split in chunks, put together again: the same lists, statuses and sums as in one piece, whatever order they come in."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from hashtag_core.config import read_recipe
from hashtag_core.data.dataset import DatasetFile
from hashtag_core.data.model_files import check_model_files
from hashtag_core.errors import HashtagError
from hashtag_core.evaluation.ground_truth import Truth
from hashtag_core.judging import rank_split
from hashtag_core.judging.attention import looks
from hashtag_core.judging.rank_split import RankedChunk, RankSplit, RankTask, RankWork, rank_tasks
from hashtag_core.judging.ranked_split import RankedSplit, model_record
from hashtag_core.recommend.described import describe_model
from hashtag_core.recommend.recommender import Recommender
from hashtag_core.tracking.registry import resolve_model
from tests.unit.judging.small_truth import POSTS

TOP_K = 3


def chunks_of(truth: Truth, folder: Path, tasks: list[RankTask], top_k: int = TOP_K) -> list[RankedChunk]:
    version = check_model_files(folder).version
    work = RankWork(truth.dataset, None, str(folder), version, "toy", "1", 0.0, top_k, batch_rows=2)
    rank = RankSplit(work)
    return [chunk for task in tasks for chunk in rank(task)]


def test_every_row_is_in_one_chunk_and_looks_go_where_they_belong(
    truth: Truth, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [DatasetFile(path=f"test/{n}.parquet", rows=rows) for n, rows in enumerate((5, 0, 3))]
    info = truth.dataset.info.model_copy(update={"files": files})
    dataset = type(truth.dataset)("/data", info)
    monkeypatch.setattr(rank_split, "CHUNK_POSTS", 5)
    found = [
        (task.uri[-9:], task.begin, task.end, task.start, task.looks)
        for task in rank_tasks(dataset, "test", 2, looks=[6, 1, 4])
    ]
    assert found == [
        ("0.parquet", 0, 4, 0, (1,)),
        ("0.parquet", 4, 5, 4, (4,)),
        ("2.parquet", 0, 3, 5, (6,)),
    ]
    assert [(task.begin, task.end) for task in rank_tasks(dataset, "test", 7)] == [(0, 5), (0, 3)]


def test_chunks_are_what_the_recommender_gives(
    truth: Truth, tmp_path: Path, make_model_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_model_folder(tmp_path / "linear")
    (whole,) = chunks_of(truth, folder, rank_tasks(truth.dataset, "test", 2))
    monkeypatch.setattr(rank_split, "CHUNK_POSTS", 2)
    tasks = rank_tasks(truth.dataset, "test", 2)
    assert len(tasks) == POSTS // 2
    pieces = chunks_of(truth, folder, tasks[::-1])
    tags = Recommender.load(str(folder)).tags
    split = RankedSplit(truth, tags, TOP_K)
    for chunk in pieces:
        split.take(chunk)
    direct = Recommender.load(str(folder)).recommend(pa.concat_tables(truth.dataset.read("test")), top_k=TOP_K)
    ranked = split.ranked
    names = list(truth.ids)
    assert [[names[tag] for tag in row] for row in ranked.judged.ranked_NK] == direct["hashtags"].to_pylist()
    assert ranked.scores_NK == pytest.approx(np.array(direct["scores"].to_pylist()), abs=1e-6)
    assert ranked.statuses == direct["status"].to_pylist() == whole.statuses
    assert ranked.has_image.tolist() == [n not in (2, 5) for n in range(POSTS)]
    assert 0 < split.pairs.error == pytest.approx(whole.pairs.error, rel=1e-9)
    record = model_record(
        split,
        ranked,
        resolve_model(str(folder)),
        describe_model(folder, "toy"),
        {},
        read_recipe(None, ["evaluation.ks=[1,2,3]"]),
    )
    assert record["parameters"] == sum(
        value.numel() for value in Recommender.load(str(folder)).loaded.model.state_dict().values()
    )
    assert record["calibration_error"]["all"] == split.pairs.error
    assert record["posts_per_second"] > 0


def test_lists_that_did_not_come_back_are_no_figures(
    truth: Truth, tmp_path: Path, make_model_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_model_folder(tmp_path / "popularity", family="popularity")
    monkeypatch.setattr(rank_split, "CHUNK_POSTS", 2)
    first, _, last = chunks_of(truth, folder, rank_tasks(truth.dataset, "test", 2))
    split = RankedSplit(truth, [f"tag{n:03d}" for n in range(40)], TOP_K)
    for chunk in (last, first):
        split.take(chunk)
    with pytest.raises(HashtagError, match=f"test: {POSTS} posts expected, lists of 2 came back"):
        _ = split.ranked


def test_a_chunk_tells_where_the_model_looked(truth: Truth, looking: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_split, "CHUNK_POSTS", 4)
    tasks = rank_tasks(truth.dataset, "test", 2, pairs=False, looks=[0, 2, 4])
    split = RankedSplit(truth, [f"tag{n:03d}" for n in range(40)], TOP_K)
    for chunk in chunks_of(truth, looking, tasks):
        split.take(chunk)
    assert split.looks == looks(looking, truth, [0, 2, 4])
    assert split.looks.keys() == {0, 4}
    assert split.pairs.error == 0.0
