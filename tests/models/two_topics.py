"""Captions of two topics."""

from hashtag_core.models.base import InputSpec
from tests.models.small import batch_of


class Captions:
    """A train split of captions as lists of token ids; None is an absent one."""

    def __init__(self, captions, words):
        self.captions = captions
        self.spec = InputSpec(vocabulary_size=2, token_vocabulary_size=words)
        self.vocabulary_size, self.posts = 2, len(captions)

    def batches(self, batch_size):
        for start in range(0, self.posts, batch_size):
            part = self.captions[start : start + batch_size]
            yield batch_of(self.spec, captions=part), [[] for _ in part]
