"""Captions to token ids, for families that read text with embeddings of their own.

One file format for both kinds, the `tokenizer.json` of the `tokenizers` library: `wordpiece` is the text encoder's own
file, `words` is built here on the train captions. The file also holds the truncation length.

(Articles by number: docs/models.md.)
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor

from hashtag_core.data.captions import stop_words
from hashtag_core.errors import IntegrityError, NotFoundError

PAD, UNKNOWN = "[PAD]", "[UNK]"

CHARACTERS_A_TOKEN = 64
"""A caption is cut to `max_tokens` times this many characters before it is tokenized: nothing that the model would read
is lost in practice, and a caption of a megabyte costs no more than a long one."""


@dataclass(frozen=True)
class TokenizerSpec:
    """How a family cuts captions: `wordpiece` (the text encoder's own tokenizer file) or `words` (built on the train captions)."""

    kind: Literal["wordpiece", "words"]
    max_tokens: int
    """Special tokens included."""
    min_count: int = 1
    """`words`: how often a word must occur in the train captions."""
    stop_words: bool = False
    """`words`: True drops English stop words (article 003)."""


class CaptionTokenizer:
    """Captions to padded ids. A present caption has at least one token, an absent one (None) has none.

    A `words` tokenizer drops words that it does not know (stop words and rare words among them, as article 003 does);
    a caption of nothing else is one `[UNK]`.
    """

    def __init__(self, tokenizer: Tokenizer, max_tokens: int) -> None:
        tokenizer.no_padding()
        words = isinstance(tokenizer.model, models.WordLevel)
        if words:
            tokenizer.no_truncation()
        else:
            tokenizer.enable_truncation(max_tokens)
        self._tokenizer = tokenizer
        self._unknown_id: int | None = tokenizer.token_to_id(UNKNOWN) if words else None
        self.max_tokens = max_tokens
        self.pad_id: int = tokenizer.token_to_id(PAD) or 0

    @classmethod
    def from_file(cls, path: str | Path, max_tokens: int | None = None) -> Self:
        """The tokenizer of a `tokenizer.json`; `max_tokens` None: the length that the file was saved with.

        Raises NotFoundError for a file that is not there, IntegrityError for one that is no tokenizer.
        """
        path = Path(path)
        if not path.is_file():
            raise NotFoundError(f"no tokenizer file at {path}")
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # noqa: BLE001 - the library raises bare Exception
            raise IntegrityError(f"{path}: not a tokenizer file: {error}") from None
        if max_tokens is None:
            if tokenizer.truncation is None:
                raise IntegrityError(f"{path}: truncation length expected, found none")
            max_tokens = int(tokenizer.truncation["max_length"])
        return cls(tokenizer, max_tokens)

    @classmethod
    def build_words(cls, captions: Iterable[str | None], spec: TokenizerSpec) -> Self:
        """A word-level tokenizer of the words that occur `spec.min_count` times or more, the most frequent first.

        Words are runs of letters and digits, lower-cased after NFKC; ids are the same for the same captions in any order.
        """
        normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        splitter = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(r"[^\p{L}\p{N}\p{M}]+"), "removed"), pre_tokenizers.WhitespaceSplit()]
        )
        counts: Counter[str] = Counter()
        for caption in captions:
            if caption is not None:
                counts.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(caption)))
        dropped = stop_words() if spec.stop_words else frozenset()
        kept = [word for word, count in counts.items() if count >= spec.min_count and word not in dropped]
        kept.sort(key=lambda word: (-counts[word], word))
        ids = {word: index for index, word in enumerate([PAD, UNKNOWN, *kept])}
        tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
        tokenizer.normalizer = normalizer
        tokenizer.pre_tokenizer = splitter
        return cls(tokenizer, spec.max_tokens)

    @property
    def size(self) -> int:
        """Number of ids, special ones included."""
        return int(self._tokenizer.get_vocab_size())

    def words(self) -> dict[str, int]:
        """Token to id, to align pretrained word vectors."""
        return dict(self._tokenizer.get_vocab())

    def encode(self, captions: list[str | None]) -> tuple[Tensor, Tensor]:
        """ids_BT int64 padded with `pad_id`, mask_BT bool; T is the longest row, at least 1."""
        limit = self.max_tokens * CHARACTERS_A_TOKEN
        present = [index for index, caption in enumerate(captions) if caption is not None]
        rows: list[list[int]] = [[] for _ in captions]
        encoded = self._tokenizer.encode_batch([(captions[index] or "")[:limit] for index in present])
        for index, item in zip(present, encoded, strict=True):
            rows[index] = self._kept(item.ids)
        longest = max([1, *map(len, rows)])
        ids_BT = torch.full((len(rows), longest), self.pad_id, dtype=torch.int64)
        mask_BT = torch.zeros((len(rows), longest), dtype=torch.bool)
        for index, row in enumerate(rows):
            ids_BT[index, : len(row)] = torch.tensor(row, dtype=torch.int64)
            mask_BT[index, : len(row)] = True
        return ids_BT, mask_BT

    def _kept(self, ids: list[int]) -> list[int]:
        if self._unknown_id is None:
            return ids
        known = [token for token in ids if token != self._unknown_id][: self.max_tokens]
        return known or [self._unknown_id]

    def save(self, path: str | Path) -> None:
        """Write `tokenizer.json`, `max_tokens` in it."""
        self._tokenizer.enable_truncation(self.max_tokens)
        self._tokenizer.save(str(path))
        if self._unknown_id is not None:
            self._tokenizer.no_truncation()
