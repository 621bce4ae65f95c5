"""Tags as words: `boatnonspecific` is read as `boat non specific`, since that is what the text encoder can make sense of.

The words are those of the text encoder's own tokenizer, which come in the order of how common they are; of all ways to cut a
tag into them the likeliest is taken, each word as likely as its rank in Zipf's law (Norvig, Natural Language Corpus Data,
in Beautiful Data, 2009, has the search).
"""

import json
import math
from functools import cached_property
from pathlib import Path

SHORT = frozenset(
    [
        "a",
        "an",
        "and",
        "as",
        "at",
        "by",
        "for",
        "if",
        "in",
        "is",
        "it",
        "me",
        "my",
        "no",
        "of",
        "on",
        "or",
        "so",
        "the",
        "to",
        "up",
        "us",
        "we",
        "you",
    ]
)
"""Words below `MIN_LETTERS` letters that a tag may be cut at; any other short piece is chance."""
MIN_LETTERS = 3


class TagWords:
    """Cuts tags into words of a tokenizer file (`tokenizer.json`)."""

    def __init__(self, tokenizer_file: Path) -> None:
        self.tokenizer_file = tokenizer_file

    @cached_property
    def _cost(self) -> dict[str, float]:
        """- log probability of each word, without a constant."""
        vocabulary = json.loads(self.tokenizer_file.read_text(encoding="utf-8"))["model"].get("vocab", {})
        pieces = list(vocabulary) if isinstance(vocabulary, dict) else [piece for piece, _ in vocabulary]
        marked = any(piece.startswith("\u2581") for piece in pieces)  # sentencepiece: the beginning of a word
        words = [piece.removeprefix("\u2581") for piece in pieces if not marked or piece.startswith("\u2581")]
        words = [
            word.lower() for word in words if word.isalpha() and (len(word) >= MIN_LETTERS or word.lower() in SHORT)
        ]
        ranked = dict.fromkeys(words)
        return {word: math.log((rank + 2) * math.log(len(ranked) + 2)) for rank, word in enumerate(ranked)}

    def split(self, tag: str) -> str:
        """The words with spaces between; the tag itself where it is a word, or cannot be cut into words alone."""
        if tag in self._cost or not tag.isalpha():
            return tag
        best: list[tuple[float, int]] = [(0.0, 0)]
        for end in range(1, len(tag) + 1):
            found = [
                (best[start][0] + self._cost[tag[start:end]], start)
                for start in range(end)
                if tag[start:end] in self._cost
            ]
            best.append(min(found, default=(math.inf, 0)))
        if best[-1][0] == math.inf:
            return tag
        words, end = [], len(tag)
        while end:
            words.append(tag[best[end][1] : end])
            end = best[end][1]
        return " ".join(reversed(words))
