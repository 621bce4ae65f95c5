"""A decoder of signs that draws at random."""

import torch

from hashtag_core.models.spelling import Spelling

TAGS = ["sun", "sunflower", "sunflowers", "flower", "été", "夏", "s"]


def spell(tags, beam_width=50, pieces=262):
    spelling = Spelling(beam_width)
    spelling.learn(tags, pieces)
    return spelling


class Writer:
    """A random decoder of signs whose every step depends on all signs before."""

    def __init__(self, signs, posts):
        random = torch.Generator().manual_seed(2)
        self.signs = torch.randn(signs + 1, 4, generator=random)
        self.across, self.out = torch.randn(4, 4, generator=random), torch.randn(4, signs, generator=random)
        self.begin = torch.randn(posts, 4, generator=random)

    def __call__(self, previous, state):
        sign = self.signs[-1].expand(len(state), -1) if previous is None else self.signs[previous]
        state = torch.tanh(state @ self.across + sign)
        return state @ self.out, state
