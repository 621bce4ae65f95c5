"""What `regression_kriging` is worth beside the board: tags known by their words alone, short histories, its parts, speed and size.

Run by hand on a board's dataset, on which `regression_kriging` has run (encoded features are in the cache then):

    KRIGING_DATASET=leaderboard/openclipart/dataset .venv/bin/pytest -s -o python_files='bench_*.py' \
        tests/benchmarks/bench_regression_kriging.py [-k unseen|history|new_users|parts|speed]

Choices are made on train and validation posts (`new_users`, `parts`, `unseen_tags[validation]`); the others ask the test posts.
"""

import os
import statistics
import time
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from hashtag_core.data.dataset import Split
from hashtag_core.evaluation.score_curves import calibration
from hashtag_core.models.regression_kriging import RegressionKriging
from hashtag_core.recommend.ranking import top_tags
from tests.benchmarks.kriging_parts import VARIANTS, variant_scores
from tests.benchmarks.kriging_study import Rows, Study, f1, judged

DRAWS, HELD_OUT, GROUPS = 10, 0.15, 5
POSTS_PER_SECOND, POSTS_PER_SECOND_WITH_HISTORY, MEGABYTES = 2000, 800, 50
"""What is asked for, of one core."""


@pytest.fixture(scope="module")
def study() -> Study:
    """The dataset that KRIGING_DATASET names."""
    uri = os.environ.get("KRIGING_DATASET")
    if uri is None:
        pytest.skip("KRIGING_DATASET names no prepared and encoded dataset")
    return Study.open(uri)


@pytest.fixture(scope="module")
def model(study: Study) -> RegressionKriging:
    """Of the recipe, learned from the train posts."""
    return study.fit()


def recall(ranked_NK: np.ndarray, truth: list[list[int]], wanted: set[int]) -> tuple[int, int]:
    """How many of the posts' uses of wanted tags are in their lists, and how many uses there are."""
    pairs = [(row, tag) for row, tags in enumerate(truth) for tag in set(tags) & wanted]
    return sum(tag in ranked_NK[row] for row, tag in pairs), len(pairs)


def unseen_tags(study: Study, split: Split, draw: int) -> dict[str, float]:
    """15 % of the tags are taken away before anything is learned, and come back by their names alone: recall@10 of their uses
    among all tags, by the model, by the cosine of caption and tag, and by literal match; F1@5 of the tags taught."""
    tags = study.vocabulary.tags
    held = set(np.random.default_rng(draw).choice(len(tags), round(HELD_OUT * len(tags)), replace=False).tolist())
    taught = [tag for index, tag in enumerate(tags) if index not in held]
    counts = study.vocabulary.counts[[index for index in range(len(tags)) if index not in held]]
    fewer = study.with_vocabulary(replace(study.vocabulary, tags=taught, counts=counts))
    new = [tags[index] for index in sorted(held)]
    model = fewer.fit()
    before = fewer.job.table(split)
    alone = judged(fewer.scores(model, before), before.tags, fewer.outside(split))
    model.add_tags(fewer.words(new))
    grown = fewer.with_vocabulary(fewer.vocabulary.with_tags(new))
    table = grown.job.table(split)
    truth, wanted = [list(row) for row in table.tags], set(range(len(taught), len(tags)))
    scores_NV = grown.scores(model, table)
    words_VT = grown.words(grown.vocabulary.tags)
    said_NT = torch.cat([model.read(batch).words_BT for batch in grown.batches(table)])
    captions = [f" {caption or ''} ".lower() for caption in captions_of(study, split)]
    literal_NV = torch.tensor([[float(tag in caption) for tag in grown.vocabulary.tags] for caption in captions])
    rankings = {"model": scores_NV, "cosine": said_NT @ words_VT.t(), "literal": literal_NV}
    lists = {name: judged(values, truth, grown.outside(split)) for name, values in rankings.items()}
    found = {name: recall(each.ranked_NK, truth, wanted) for name, each in lists.items()}
    figures = {name: hits / max(uses, 1) for name, (hits, uses) in found.items()}
    seen_NV = scores_NV[:, : len(taught)]
    return {
        **figures,
        "uses": found["model"][1],
        "seen_f1_before": f1(alone),
        "seen_f1_after": f1(judged(with_others(seen_NV, scores_NV), before.tags, fewer.outside(split))),
        "all_f1_after": f1(lists["model"]),
    }


def with_others(seen_NV: torch.Tensor, scores_NV: torch.Tensor) -> torch.Tensor:
    """The scores of the tags taught, -1 where a tag is not among the first five of all: places that new tags took are lost."""
    kept_N1 = scores_NV.topk(5, dim=1).values[:, 4:]
    return seen_NV.where(seen_NV >= kept_N1, -1.0)


def calibration_of(scores_NV: torch.Tensor, tags: list[list[int]], outside_N: np.ndarray) -> float:
    """Expected calibration error of the first ten tags."""
    scores_NK = top_tags(scores_NV, 10)[1].numpy()
    return calibration(judged(scores_NV, tags, outside_N), scores_NK, "headline")[1]


def groups(study: Study, number: int) -> np.ndarray:
    """The group of each train post, by its user."""
    users = [user or str(row) for row, user in enumerate(study.job.table("train").column("user_id"))]
    return np.array([zlib.crc32(user.encode()) % number for user in users])


def captions_of(study: Study, split: Split) -> list[str | None]:
    return [text for table in study.job.dataset.read(split, ["caption"]) for text in table["caption"].to_pylist()]


def told(rows: list[dict[str, float]], title: str) -> dict[str, float]:
    """Means over draws, printed."""
    means = {name: statistics.mean(row[name] for row in rows) for name in rows[0]}
    times = means["model"] / max(means["cosine"], means["literal"])
    print(f"\n{title}: " + ", ".join(f"{name} {value:.4f}" for name, value in means.items()) + f"; {times:.3f} times")
    return means


@pytest.mark.parametrize("split", ["validation", "test"])
def test_unseen_tags(study: Study, split: Split) -> None:
    means = told([unseen_tags(study, split, draw) for draw in range(DRAWS)], f"unseen tags, {split}")
    assert means["model"] > max(means["cosine"], means["literal"])


def test_length_of_history(study: Study, model: RegressionKriging) -> None:
    """F1@5 on the test posts with the newest 0, 1, 3, 10 and 50 posts of each history; the calibration error with all."""
    table, outside_N = study.job.table("test"), study.outside("test")
    scores = {posts: study.scores(model, table, posts) for posts in (0, 1, 3, 10, 50)}
    figures = {posts: f1(judged(scores_NV, table.tags, outside_N)) for posts, scores_NV in scores.items()}
    print("\nF1@5 by posts of history: " + ", ".join(f"{posts}: {value:.4f}" for posts, value in figures.items()))
    print(f"calibration error of the first ten tags: {calibration_of(scores[50], table.tags, outside_N):.4f}")
    assert figures[50] > figures[0]


def calibration_over_groups(study: Study) -> list[float]:
    """Of train posts in five groups of users, each not learned from in turn."""
    table, outside_N, group_N = study.job.table("train"), study.outside("train"), groups(study, GROUPS)
    found = []
    for group in range(GROUPS):
        model = study.fit(Rows(table, np.flatnonzero(group_N != group)))
        held = Rows(table, np.flatnonzero(group_N == group))
        found.append(calibration_of(study.scores(model, held), held.tags, outside_N[group_N == group]))
    return found


def test_calibration_of_new_users(study: Study) -> None:
    errors = calibration_over_groups(study)
    print(
        f"\ncalibration error of the first ten tags: {statistics.mean(errors):.4f}, {min(errors):.4f} .. {max(errors):.4f}"
    )
    assert statistics.mean(errors) < 0.1


def test_parts(study: Study) -> None:
    """F1@5 (before calibration) on train posts in five groups of users, each not learned from in turn: with each part taken
    away, and with what was tried and not kept (`kriging_parts.VARIANTS`)."""
    table, outside_N, group_N = study.job.table("train"), study.outside("train"), groups(study, GROUPS)
    found: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for group in range(GROUPS):
        learned, held = Rows(table, np.flatnonzero(group_N != group)), Rows(table, np.flatnonzero(group_N == group))
        for name, scores_NV in variant_scores(study, learned, held):
            found[name].append(f1(judged(scores_NV, held.tags, outside_N[group_N == group])))
    print("\n| | F1@5 | less `all` | least | most |\n|---|---|---|---|---|")
    for name, figures in found.items():
        less = [one - other for one, other in zip(figures, found["all"], strict=True)]
        print(
            f"| {name} | {statistics.mean(figures):.4f} | {statistics.mean(less):+.4f} | {min(less):+.4f} | {max(less):+.4f} |"
        )
    assert statistics.mean(found["all"]) > statistics.mean(found["regression alone"])


def test_speed_and_size(study: Study, model: RegressionKriging) -> None:
    """Posts scored in a second of one core's time from cached features, and the size of the model folder's tensors."""
    table = study.job.table("test")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rates = {}
    for posts in (0, None):
        batches = list(study.batches(table, posts))
        if posts == 0:
            batches = [replace(batch, history=None) for batch in batches]
        taken = []
        for _ in range(5):
            began = time.process_time()
            with torch.inference_mode():
                for batch in batches:
                    model.score(batch)
            taken.append(time.process_time() - began)
        rates[posts] = len(table) / min(taken)
    torch.set_num_threads(threads)
    size = {name: value.numel() * value.element_size() / 1e6 for name, value in model.state_dict().items()}
    index = sum(value for name, value in size.items() if name.startswith("neighbours."))
    print(
        f"\nposts/s of one core: {rates[0]:.0f} without history, {rates[None]:.0f} with; {len(study.vocabulary)} tags"
    )
    print(f"model {sum(size.values()) - index:.1f} MB, index {index:.1f} MB")
    assert rates[0] >= POSTS_PER_SECOND
    assert rates[None] >= POSTS_PER_SECOND_WITH_HISTORY
    assert sum(size.values()) - index <= MEGABYTES
