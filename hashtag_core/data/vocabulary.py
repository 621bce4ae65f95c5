"""The hashtags a model may recommend, in the order that breaks every tie: falling train count, then name."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Self, TypedDict

import numpy as np

from hashtag_core import storage
from hashtag_core.config import VocabularySection
from hashtag_core.data.hashtags import normalise_hashtag, normalise_hashtags
from hashtag_core.errors import ConfigError, IntegrityError
from hashtag_core.json_values import JsonObject


class VocabularyRecord(TypedDict):
    """`vocabulary.json`."""

    tags: list[str]
    counts: list[int]
    posts: int
    config: JsonObject


@dataclass(frozen=True)
class Vocabulary:
    """`tags[i]` was used by `counts[i]` of the `posts` train posts; `config` is the section it was made by."""

    tags: list[str]
    counts: np.ndarray
    posts: int = 0
    config: JsonObject = field(default_factory=dict)
    """As it was: an older release had other keys."""

    def __len__(self) -> int:
        return len(self.tags)

    @cached_property
    def index(self) -> dict[str, int]:
        """Tag -> its place in `tags`."""
        return {tag: index for index, tag in enumerate(self.tags)}

    def with_tags(self, tags: Sequence[str]) -> Self:
        """This one with tags behind the others that no train post has; they must be new."""
        counts = np.concatenate([self.counts, np.zeros(len(tags), np.int64)])
        return replace(self, tags=[*self.tags, *tags], counts=counts)

    def encode(self, tags: Iterable[str]) -> list[int]:
        """Indices of the known tags, in the order given, repeats dropped."""
        return list(dict.fromkeys(self.index[tag] for tag in tags if tag in self.index))

    def to_json(self) -> VocabularyRecord:
        """What `vocabulary.json` holds."""
        return {"tags": self.tags, "counts": self.counts.tolist(), "posts": self.posts, "config": self.config}

    @classmethod
    def from_json(cls, value: VocabularyRecord) -> Self:
        """The vocabulary that `to_json` wrote; IntegrityError if it is not one (repeated tags, counts that do not match or rise)."""
        try:
            tags, counts = [str(tag) for tag in value["tags"]], np.array(value["counts"], dtype=np.int64)
            vocabulary = cls(tags, counts, int(value.get("posts", 0)), dict(value.get("config", {})))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise IntegrityError(f"vocabulary: {type(error).__name__}: {error}") from None
        if counts.shape != (len(tags),) or len(vocabulary.index) != len(tags) or (np.diff(counts) > 0).any():
            raise IntegrityError("vocabulary: expected distinct tags with one count each, counts falling")
        return vocabulary

    def save(self, uri: str) -> None:
        """Write as JSON, atomically."""
        storage.write_json(uri, self.to_json())

    @classmethod
    def load(cls, uri: str) -> Self:
        """Read what `save` wrote. NotFoundError, or IntegrityError that names the file."""
        value = storage.read_json(uri)
        try:
            return cls.from_json(value)
        except IntegrityError as error:
            raise IntegrityError(f"{uri}: {error}") from None


@dataclass(frozen=True)
class TagRules:
    """The deny list and the synonym map of a section, files read, every tag normalised and chains of synonyms followed."""

    deny: frozenset[str]
    synonyms: dict[str, str]

    def apply(self, tags: Sequence[str]) -> list[str]:
        """Author's tags, normalised, synonyms replaced, repeats dropped, order kept. Denied tags stay: they are true."""
        return list(dict.fromkeys(self.synonyms.get(tag, tag) for tag in normalise_hashtags(tags)))


def read_tag_rules(section: VocabularySection) -> TagRules:
    """The rules of a section.

    `deny_file` has one tag a line; `synonyms_file` has a tag and what it becomes, separated by white space, a line.
    ConfigError for a line that is not so, a tag that is none, or synonyms in a circle; NotFoundError for a missing file.
    """
    pairs = [(tag, target, "vocabulary.synonyms") for tag, target in section.synonyms.items()]
    for words, where in _lines(section.synonyms_file, "vocabulary.synonyms_file", 2):
        pairs.append((words[0], words[1], where))
    synonyms = {_tag(tag, where): _tag(target, where) for tag, target, where in pairs}
    return TagRules(
        read_tags(section.deny, section.deny_file, "vocabulary.deny"),
        {tag: _end_of_chain(tag, synonyms) for tag, target in synonyms.items() if tag != target},
    )


def read_tags(written: Iterable[str], file: str | None, key: str) -> frozenset[str]:
    """The tags of a recipe key and of the file that `<key>_file` names, one a line, normalised. Errors as `read_tag_rules`."""
    named = [(tag, key) for tag in written]
    named += [(words[0], where) for words, where in _lines(file, f"{key}_file", 1)]
    return frozenset(_tag(tag, where) for tag, where in named)


def build_vocabulary(
    train_tags: Iterable[Sequence[str]], section: VocabularySection, deny: Iterable[str] = ()
) -> Vocabulary:
    """Count every tag once a post and keep the most used: at least `min_count`, at most `max_size`, none denied."""
    posts, counts = 0, Counter[str]()
    for tags in train_tags:
        posts += 1
        counts.update(set(tags))
    refused = set(deny)
    ranked = sorted(
        ((tag, n) for tag, n in counts.items() if n >= section.min_count and tag not in refused),
        key=lambda item: (-item[1], item[0]),
    )[: section.max_size]
    return Vocabulary(
        [tag for tag, _ in ranked],
        np.array([n for _, n in ranked], dtype=np.int64),
        posts,
        section.model_dump(),
    )


def _tag(written: str, where: str) -> str:
    tag = normalise_hashtag(written)
    if not tag:
        raise ConfigError(f"{where}: {written!r} is no hashtag")
    return tag


def _lines(uri: str | None, where: str, words: int) -> Iterable[tuple[list[str], str]]:
    if uri is None:
        return
    try:
        text = storage.read_bytes(uri).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where}: {uri} is not UTF-8: {error}") from None
    for number, line in enumerate(text.splitlines(), 1):
        found = line.split()
        if found and len(found) != words:
            raise ConfigError(f"{where}: {uri} line {number}: expected {words} word(s), found {len(found)}: {line!r}")
        if found:
            yield found, f"{uri} line {number}"


def _end_of_chain(tag: str, synonyms: Mapping[str, str]) -> str:
    seen = [tag]
    while synonyms.get(seen[-1], seen[-1]) != seen[-1]:
        seen.append(synonyms[seen[-1]])
        if seen[-1] in seen[:-1]:
            raise ConfigError(f"vocabulary.synonyms: a circle: {' -> '.join(seen)}")
    return seen[-1]
