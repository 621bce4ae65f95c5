"""Tags as sequences of pieces, and back."""

import numpy as np
import torch

from hashtag_core.data.batches import PADDING, make_targets
from hashtag_core.models.spelling import STOP, Spelling
from tests.models.signs import TAGS, Writer, spell


def test_spellings_of_tags_that_begin_alike_and_of_any_script():
    spelling = spell(TAGS)
    assert spelling.spellings == spell(TAGS).spellings
    signs = [tuple(row) for row in spelling.spellings]
    assert len(set(signs)) == len(TAGS)
    assert all(STOP < sign < 264 for row in signs for sign in row)
    assert max(map(len, signs)) > 1
    sizes = {pieces: sum(map(len, spell(TAGS, pieces=pieces).spellings)) for pieces in (256, 280)}
    assert sizes[256] == sum(len(tag.encode()) for tag in TAGS)
    assert sizes[280] < sizes[256]


def test_tags_become_signs():
    spelling = Spelling(5)
    spelling.set([[2, 3], [4]])
    targets = spelling.targets(make_targets([[0, 1], [], [1]], 2).sequence_BL)
    filler = PADDING
    assert targets.tolist() == [[2, 3, 1, 4, 1, 0], [0, *[filler] * 5], [4, 1, 0, *[filler] * 3]]


def test_the_chance_of_a_tag_is_the_product_of_its_pieces():
    """Every tag, one piece at a time, at the start and after other tags, is what the beam along the trie finds."""
    posts, spelling = 3, spell(TAGS)
    writer = Writer(264, posts)
    step = spelling.tag_step(writer)
    before = [torch.tensor([1, 6, 3]), torch.tensor([3, 2, 7])]
    state, written = writer.begin, [[] for _ in range(posts)]
    for previous in [None, *before]:
        logits, state = step(previous, state)
        for post in range(posts):
            written[post] += [] if previous is None else [*spelling.spellings[int(previous[post]) - 1], STOP]
            expected = []
            for signs in [[0], *([*row, STOP] for row in spelling.spellings)]:
                inner, last, total = writer.begin[post : post + 1], None, 0.0
                for place, sign in enumerate([*written[post], *signs]):
                    out, inner = writer(last, inner)
                    total += float(out.log_softmax(-1)[0, sign]) if place >= len(written[post]) else 0.0
                    last = torch.tensor([sign])
                expected.append(total)
            np.testing.assert_allclose(logits[post], expected, rtol=1e-3, atol=1e-3)
