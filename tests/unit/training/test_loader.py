import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashtag_core.data.batches import PADDING
from hashtag_core.errors import TrainingError
from hashtag_core.training.loader import BatchLoader, Share, TableFitSource, global_batches, in_order, prefetch

from .toy import MemoryTable, reading, settings


@given(
    posts=st.integers(1, 300),
    batch_size=st.integers(1, 40),
    world=st.integers(1, 5),
    epoch=st.integers(0, 3),
    accumulate=st.integers(1, 4),
)
def test_every_post_is_read_once_and_no_rank_waits(posts, batch_size, world, epoch, accumulate):
    if posts < world:
        with pytest.raises(TrainingError, match="spread"):
            global_batches(posts, batch_size, world, seed=0, epoch=epoch)
        return
    batches = global_batches(posts, batch_size, world, seed=0, epoch=epoch)
    assert sorted(np.concatenate(batches)) == list(range(posts))
    sizes = [len(rows) for rows in batches]
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= max(batch_size, 2 * world)
    assert min(sizes) >= world, "a rank would have no post in some step"
    shares = [[rows[rank::world] for rank in range(world)] for rows in batches]
    assert all(len(share) >= 1 for step in shares for share in step)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_weights_make_the_average_over_ranks_the_mean_over_posts(world, accumulate):
    table, section = MemoryTable(50), settings(batch_size=7, accumulate=accumulate)
    loss = np.random.default_rng(1).normal(size=50)
    ranks = [list(BatchLoader(table, reading(), section, rank=r, world=world).epoch(2)) for r in range(world)]
    assert len({len(batches) for batches in ranks}) == 1
    group, done = [], 0
    for step in zip(*ranks, strict=True):
        assert len({batch.last_of_group for batch in step}) == 1
        group.append(step)
        if step[0].last_of_group:
            rows = np.concatenate([batch.rows for member in group for batch in member])
            averaged = sum(loss[b.rows].mean() * b.weight for member in group for b in member) / world
            assert averaged == pytest.approx(loss[rows].mean())
            assert step[0].group_posts == len(rows)
            group, done = [], done + len(rows)
    assert done == 50
    assert not group


def test_workers_share_the_global_batches_of_one():
    table, section = MemoryTable(45), settings()
    one = [set(batch.rows) for batch in BatchLoader(table, reading(), section).epoch(1)]
    two = [BatchLoader(table, reading(), section, rank=rank, world=2).epoch(1) for rank in (0, 1)]
    assert [set(a.rows) | set(b.rows) for a, b in zip(*two, strict=True)] == one


def test_epochs_and_seeds_differ_and_repeat():
    def order(seed, epoch):
        return [
            tuple(batch.rows) for batch in BatchLoader(MemoryTable(30), reading(), settings(seed=seed)).epoch(epoch)
        ]

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_a_resumed_epoch_repeats_nothing_and_skips_nothing():
    table = MemoryTable(50)
    loader = BatchLoader(table, reading(), settings(batch_size=7))
    whole = [batch.rows.tolist() for batch in loader.epoch(3)]
    table.read.clear()
    rest = [(batch.step, batch.rows.tolist()) for batch in loader.epoch(3, start=4)]
    assert rest == list(enumerate(whole))[4:]
    assert sorted(table.read) == sorted(np.concatenate(whole[4:]))


def test_modality_dropout_is_a_function_of_seed_epoch_and_post():
    table = MemoryTable(400)

    def hidden(epoch, world=1, seed=0):
        found = {}
        for rank in range(world):
            loader = BatchLoader(table, reading(), settings(modality_dropout=0.3, seed=seed), rank=rank, world=world)
            for batch in loader.epoch(epoch):
                for row, image, text in zip(
                    batch.rows, batch.posts.image_present_B, batch.posts.text_present_B, strict=True
                ):
                    found[int(row)] = (not bool(image), not bool(text))
                absent = ~batch.posts.image_present_B
                assert not batch.posts.image_vector_BD[absent].any()
        return found

    first = hidden(0)
    assert first == hidden(0) == hidden(0, world=2)
    assert first != hidden(1)
    shares = np.array(list(first.values())).mean(axis=0)
    assert np.abs(shares - 0.3).max() < 0.08
    both = np.array(list(first.values())).all(axis=1).mean()
    assert abs(both - 0.09) < 0.05, "image and caption are hidden independently"


def test_label_orders():
    table = MemoryTable(40)
    table.tags = [[3, 0, 3, 4, 1]] * 40

    def sequences(order, epoch=0, **values):
        loader = BatchLoader(table, reading(), settings(label_order=order, **values))
        return {
            int(row): [int(tag) - 1 for tag in sequence if tag not in (PADDING, 0)]
            for batch in loader.epoch(epoch)
            for row, sequence in zip(batch.rows, batch.targets.sequence_BL, strict=True)
        }

    assert set(map(tuple, sequences("written").values())) == {(3, 0, 4, 1)}
    assert set(map(tuple, sequences("frequent_first").values())) == {(0, 1, 3, 4)}
    assert set(map(tuple, sequences("written", max_tags=2).values())) == {(3, 0)}
    shuffled = sequences("shuffled")
    assert all(sorted(tags) == [0, 1, 3, 4] for tags in shuffled.values())
    assert len(set(map(tuple, shuffled.values()))) > 5
    assert shuffled == sequences("shuffled")
    assert shuffled != sequences("shuffled", epoch=1)


@pytest.mark.parametrize("world", [1, 2])
def test_validation_reads_every_row_once_in_order(world):
    table = MemoryTable(11)
    shares = [
        np.concatenate([rows for rows, _ in in_order(table, reading(), 3, rank=rank, world=world)])
        for rank in range(world)
    ]
    assert sorted(np.concatenate(shares)) == list(range(11))
    assert all((np.diff(share) > 0).all() for share in shares)


def test_fit_source_gives_the_same_rows_at_every_pass():
    source = TableFitSource(MemoryTable(10), reading())
    passes = [
        [
            (post, tags)
            for batch, all_tags in source.batches(4)
            for post, tags in zip(batch.post_ids, all_tags, strict=True)
        ]
        for _ in range(2)
    ]
    assert passes[0] == passes[1]
    assert [post for post, _ in passes[0]] == [f"p{row}" for row in range(10)]
    assert (source.posts, source.vocabulary_size) == (10, 5)


def test_prefetch_works_ahead_in_another_thread_and_raises_at_its_item():
    threads, made = set(), []

    def make(item):
        threads.add(threading.current_thread())
        made.append(item)
        if item == 5:
            raise KeyError(item)
        return item * 2

    results = prefetch(make, range(9), depth=2)
    assert [next(results) for _ in range(5)] == [0, 2, 4, 6, 8]
    with pytest.raises(KeyError):
        next(results)
    assert threading.current_thread() not in threads
    assert len(made) <= 8


def test_a_share_of_the_posts_is_part_of_a_larger_share():
    table = MemoryTable(50)
    small, large = Share(table, 0.2, seed=3), Share(table, 0.6, seed=3)
    assert (len(small), len(large)) == (10, 30)
    assert set(small.kept) < set(large.kept)
    assert list(small.kept) != list(Share(table, 0.2, seed=4).kept)
    for row, whole in enumerate(small.kept):
        assert list(small.tags[row]) == list(table.tags[int(whole)])
    rows = np.array([7, 0])
    assert small.rows(rows).post_ids == table.rows(small.kept[rows]).post_ids
    assert len(Share(table, 1e-9, seed=0)) == 1
