"""Greedy and beam search and their scores: by hand on a decoder of three tags, and against every list there is."""

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hashtag_core.models.decoding import beam_decode, greedy_decode, search, select_rows, sequence_scores

# rows: step; columns: END, tag 0, tag 1, tag 2
SHARES = [[0.1, 0.2, 0.6, 0.1], [0.5, 0.1, 0.3, 0.1], [0.2, 0.1, 0.1, 0.6]]


def fixed_step(previous: Tensor | None, step: int) -> tuple[Tensor, int]:
    return torch.tensor(SHARES[step]).log()[None], step + 1


def test_a_list_by_hand() -> None:
    """Step 1 takes tag 1 (.6). Step 2: END (.5) and tag 1 (.3) are likelier, the best unused is tag 0 (.1, first of two).
    Tag 0 is in with 1 - (1 - .2)(1 - .9 x .1); alive is 1, then .9."""
    decoded = greedy_decode(fixed_step, 0, vocabulary_size=3, steps=2)
    assert decoded.tags_BK.tolist() == [[1, 0]]
    np.testing.assert_allclose(decoded.probabilities_BK[0], [0.6, 0.1], rtol=1e-6)
    inclusion = [1 - 0.8 * (1 - 0.9 * 0.1), 1 - 0.4 * (1 - 0.9 * 0.3), 1 - 0.9 * (1 - 0.9 * 0.1)]
    np.testing.assert_allclose(decoded.inclusion_BV[0], inclusion, rtol=1e-6)
    np.testing.assert_allclose(sequence_scores(decoded, "marginal")[0], inclusion, rtol=1e-6)
    greedy = sequence_scores(decoded, "greedy")[0]
    np.testing.assert_allclose(greedy, [0.1, 0.6, 0.1 * inclusion[2]], rtol=1e-4)


def test_a_later_tag_never_outranks_an_earlier_one() -> None:
    """At step 3 tag 2 is likelier (.6) than tag 0 was at step 2 (.1): it scores just below it."""
    scores = sequence_scores(greedy_decode(fixed_step, 0, vocabulary_size=3, steps=3), "greedy")[0]
    assert scores.argsort(descending=True).tolist() == [1, 0, 2]
    assert 0.0999 < scores[2] < scores[0]


def test_the_sign_before_is_told() -> None:
    told: list[list[int] | None] = []

    def step(previous: Tensor | None, state: int) -> tuple[Tensor, int]:
        told.append(None if previous is None else previous.tolist())
        return fixed_step(previous, state)

    greedy_decode(step, 0, vocabulary_size=3, steps=9)
    assert told == [None, [2], [1]]


def test_no_steps() -> None:
    with pytest.raises(ValueError, match="at least one step"):
        greedy_decode(fixed_step, 0, vocabulary_size=3, steps=0)


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 10_000),
    tags=st.integers(1, 8),
    steps=st.integers(1, 10),
    spread=st.sampled_from([0.1, 3.0, 60.0]),
)
def test_scores_always_rank_the_decoded_list_first(seed: int, tags: int, steps: int, spread: float) -> None:
    logits = torch.randn(10, 2, tags + 1, generator=torch.Generator().manual_seed(seed)) * spread
    decoded = greedy_decode(lambda _, step: (logits[step], step + 1), 0, tags, steps)
    taken = min(tags, steps)
    assert decoded.tags_BK.shape == (2, taken)
    assert all(len(set(row)) == taken for row in decoded.tags_BK.tolist())
    for ranking in ("greedy", "marginal"):
        scores = sequence_scores(decoded, ranking)
        assert scores.min() >= 0
        assert scores.max() <= 1
    scores = sequence_scores(decoded, "greedy")
    along = scores.gather(1, decoded.tags_BK)
    assert (along.diff(dim=1) <= 0).all()
    rest = scores.scatter(1, decoded.tags_BK, -1.0)
    assert (rest <= along[:, -1:]).all()


class Recurrent:
    """A random decoder whose every step depends on all tags before: a GRU of posts' own hidden states."""

    def __init__(self, tags: int, posts: int, seed: int, spread: float = 2.0) -> None:
        random = torch.Generator().manual_seed(seed)
        self.cell = nn.GRUCell(5, 6)
        for parameter in self.cell.parameters():
            parameter.data = torch.randn(parameter.shape, generator=random) * spread
        self.signs_UE = torch.randn(tags + 2, 5, generator=random)
        self.write_HU = torch.randn(6, tags + 1, generator=random) * spread
        self.start = (torch.randn(posts, 6, generator=random),)

    @torch.no_grad()
    def __call__(self, previous: Tensor | None, state: tuple[Tensor]) -> tuple[Tensor, tuple[Tensor]]:
        index = torch.full((len(state[0]),), len(self.signs_UE) - 1) if previous is None else previous
        hidden = self.cell(self.signs_UE[index], state[0])
        return hidden @ self.write_HU, (hidden,)


def every_list(decoder: Recurrent, post: int, tags: int, steps: int) -> list[dict]:
    """All lists of `steps` distinct tags of one post with what the docstrings say of them, one at a time in NumPy."""
    found = []
    for order in itertools.permutations(range(tags), steps):
        state, previous = (decoder.start[0][post : post + 1],), None
        alive, total, counted, chances, absent = 1.0, 0.0, 0.0, [], np.ones(tags)
        for tag in order:
            logits, state = decoder(previous, state)
            shares = np.exp(logits[0].double().numpy() - np.logaddexp.reduce(logits[0].double().numpy()))
            total += alive * np.log(shares[tag + 1])
            counted += alive
            chances.append(shares[tag + 1])
            absent *= 1 - alive * shares[1:]
            alive *= 1 - shares[0]
            previous = torch.tensor([tag + 1])
        found.append({"order": order, "quality": total / counted, "sum": total, "chances": chances, "absent": absent})
    return found


@pytest.mark.parametrize(("tags", "steps"), [(4, 3), (3, 9), (5, 2), (2, 1)])
def test_a_beam_wide_enough_is_exact(tags: int, steps: int) -> None:
    decoder = Recurrent(tags, posts=4, seed=tags)
    decoded = beam_decode(decoder, decoder.start, tags, steps, beam_width=200)
    differs = 0
    for post in range(4):
        lists = every_list(decoder, post, tags, min(steps, tags))
        best = max(lists, key=lambda one: one["quality"])
        assert decoded.tags_BK[post].tolist() == list(best["order"])
        np.testing.assert_allclose(decoded.probabilities_BK[post], best["chances"], rtol=1e-4)
        weights = np.exp([one["sum"] for one in lists])
        inclusion = 1 - sum(w * one["absent"] for w, one in zip(weights / weights.sum(), lists, strict=True))
        np.testing.assert_allclose(decoded.inclusion_BV[post], inclusion, rtol=1e-4, atol=1e-6)
        differs += list(best["order"]) != greedy_decode(decoder, decoder.start, tags, steps).tags_BK[post].tolist()
    if (tags, steps) == (4, 3):
        assert differs  # or greedy search would do


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000), tags=st.integers(1, 6), steps=st.integers(1, 7), width=st.integers(2, 9))
@example(seed=1503, tags=3, steps=2, width=2)  # an end so likely that float32 lost what follows it
def test_a_beam_of_one_is_greedy_and_any_beam_gives_a_ranked_list(seed: int, tags: int, steps: int, width: int) -> None:
    decoder = Recurrent(tags, posts=3, seed=seed)
    greedy = greedy_decode(decoder, decoder.start, tags, steps)
    single = beam_decode(decoder, decoder.start, tags, steps, beam_width=1)
    assert torch.equal(single.tags_BK, greedy.tags_BK)
    torch.testing.assert_close(single.probabilities_BK, greedy.probabilities_BK)
    torch.testing.assert_close(single.inclusion_BV, greedy.inclusion_BV)
    assert torch.equal(search(decoder, decoder.start, tags, steps).tags_BK, greedy.tags_BK)
    wide = search(decoder, decoder.start, tags, steps, width)
    assert all(len(set(row)) == min(tags, steps) for row in wide.tags_BK.tolist())
    for ranking in ("greedy", "marginal"):
        scores = sequence_scores(wide, ranking)
        assert 0 <= scores.min() <= scores.max() <= 1
    assert sequence_scores(wide, "greedy").gather(1, wide.tags_BK).diff(dim=1).le(0).all()
    alone = [search(decoder, (decoder.start[0][post : post + 1],), tags, steps, width) for post in range(3)]
    assert torch.equal(torch.cat([one.tags_BK for one in alone]), wide.tags_BK)


def test_after_a_sure_end_the_likeliest_fill_the_list() -> None:
    """END takes all of the first step: without a floor every list is worth the same, and the vocabulary's order would decide."""
    later_U = torch.tensor([0.0, 1.0, 5.0, 2.0, 4.0])

    def step(previous_B: torch.Tensor | None, seen_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits_BU = later_U.expand(len(seen_B), -1).clone()
        if previous_B is None:
            logits_BU[:, 0] = 200.0
        return logits_BU, seen_B

    decoded = beam_decode(step, torch.zeros(1), 4, 3, beam_width=4)
    assert decoded.tags_BK[0].tolist()[1:] == [tag for tag in (1, 3, 2) if tag != decoded.tags_BK[0, 0]][:2]
    assert float(decoded.inclusion_BV.max()) < 1e-6


def test_what_follows_a_likely_end_hardly_counts() -> None:
    """After tag 0 (.5) the model ends (.98) and tag 1 is unlikely (.01); after tag 1 (.4) it goes on with tag 0 (.6).
    quality([0, 1]) = (ln .5 + ln .01) / 2, but the end before the second step is told by P_1(END) = .1 alone:
    [1, 0] = (ln .4 + .9 ln .6) / 1.9 = -.724 beats (ln .5 + .9 ln .01) / 1.9 = -2.546."""
    after = {None: [0.1, 0.5, 0.4], 1: [0.98, 0.01, 0.01], 2: [0.3, 0.6, 0.1]}

    def step(previous: Tensor | None, state: tuple[()]) -> tuple[Tensor, tuple[()]]:
        signs = [None] if previous is None else previous.tolist()
        return torch.tensor([after[sign] for sign in signs]).log(), state

    assert greedy_decode(step, (), 2, 2).tags_BK.tolist() == [[0, 1]]
    decoded = beam_decode(step, (), 2, 2, beam_width=2)
    assert decoded.tags_BK.tolist() == [[1, 0]]
    sums = np.exp([np.log(0.4) + 0.9 * np.log(0.6), np.log(0.5) + 0.9 * np.log(0.01)])
    absent = np.array(
        [[0.5 * (1 - 0.9 * 0.6), 0.6 * (1 - 0.9 * 0.1)], [0.5 * (1 - 0.9 * 0.01), 0.6 * (1 - 0.9 * 0.01)]]
    )
    np.testing.assert_allclose(decoded.inclusion_BV[0], 1 - (sums / sums.sum()) @ absent, rtol=1e-5)


def test_an_impossible_tag_is_decoded_last() -> None:
    decoded = beam_decode(lambda _, state: (torch.tensor([[0.0, -torch.inf, 1.0]]), state), (), 2, 2, beam_width=1)
    assert decoded.tags_BK.tolist() == [[1, 0]]
    assert decoded.inclusion_BV.isfinite().all()
    with pytest.raises(ValueError, match="at least one step"):
        beam_decode(fixed_step, 0, 3, 0, beam_width=2)


def test_rows_of_any_state() -> None:
    class Pair(NamedTuple):
        a: Tensor
        b: int

    @dataclass(frozen=True)
    class Held:
        pair: Pair
        more: tuple[Tensor, ...]

    state = Held(Pair(torch.arange(3), 7), (torch.arange(6).view(3, 2),))
    chosen = select_rows(state, torch.tensor([2, 0, 2]))
    assert chosen.pair.a.tolist() == [2, 0, 2]
    assert chosen.pair.b == 7
    assert chosen.more[0].tolist() == [[4, 5], [0, 1], [4, 5]]
