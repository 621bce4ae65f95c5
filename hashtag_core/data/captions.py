"""What a model reads of a caption, and the form in which two captions are the same.

A caption is a stranger's text. It is cut to MAX_CHARACTERS before anything looks at it, and everything that does takes time in
proportion to its length: no rule scans one stretch of text from each of its characters, and rounds of rules are counted.
(Articles by number: docs/models.md.)
"""

import functools
import html
import unicodedata
from collections.abc import Sequence

import regex

from hashtag_core.config import CaptionsSection
from hashtag_core.data.hashtags import (
    find_hashtags,
    hashtag_spans,
    normalise_hashtag,
    normalise_hashtags,
    tag_like_spans,
    url_spans,
)

MAX_CHARACTERS = 10_000
"""What is read of a caption, cut at a space where one is near. No network takes longer ones of people who do not pay for it
(Instagram 2,200, TikTok 4,000, X 280); at this length cleaning takes some 10 ms, some 200 ms for the worst that was found."""

MAX_ROUNDS = 64
"""Rounds of the rules until nothing changes: 2 or 3 for what people write, one for each hashtag or mention of a run at worst."""

_CONTROL = regex.compile(r"[\p{Cc}\p{Zl}\p{Zp}\s]+")
_INVISIBLE = regex.compile(r"(?:(?![\u200c\u200d\ufe0e\ufe0f\U000E0020-\U000E007F])\p{Default_Ignorable_Code_Point})+")
"""What Unicode calls default ignorable: zero-width spaces, direction marks, fillers, soft hyphens. The joiners are spelling and
stay, and so do the selectors and tags that make one emoji of several signs."""

_LAST_SPACE = regex.compile(r"\s(?=\S*$)")
_SIGN = regex.compile(r"[#＃]")
_CHUNK = regex.compile(r"(?<![#＃])[#＃]++([^\s#＃]{1,200})")

_RETWEET = regex.compile(r"(?<![\p{L}\p{N}_])RT\s+[@＠][A-Za-z0-9_.]+:?")
_MENTION = regex.compile(r"(?<![\p{L}\p{N}_!#$%&*@＠.])[@＠][A-Za-z0-9_](?:[A-Za-z0-9_.]*[A-Za-z0-9_])?")
_SCHEME_LEFT = regex.compile(r"https?:/{0,2}(?=…|\.{3}|$)|(?<![\p{L}\p{N}])ht(?:tps?|t)?(?=…|\.{3})", regex.IGNORECASE)
"""What is left of a URL where a caption was cut off."""

_ENTITY = regex.compile(r"&(?:amp|lt|gt|quot|apos|nbsp|hellip|#\d{1,7}|#x[0-9a-f]{1,6});", regex.IGNORECASE)
_SCHEME_AT_END = regex.compile(r"https?:/{0,2}\s*+$", regex.IGNORECASE)
_TAIL = 32

_ENTITY_LENGTH = 10
"""Characters of the longest of them, `&#1114111;`."""

_SIGNS = regex.compile(r"[^\p{L}\p{M}\p{N}'’\-\s]+|(?<![\p{L}\p{M}\p{N}])['’\-]+|['’\-]+(?![\p{L}\p{M}\p{N}])")
_TOKEN_WITH_DIGIT = regex.compile(r"(?<!\S)(?=[^\s\p{N}]*+\p{N})\S++")
_MARKED_TOKEN = regex.compile(r"(?<!\S)(?=[^\s#＃@＠&:/]*+[#＃@＠&:/])\S++")
_ANY_CONTENT = regex.compile(r"[\p{L}\p{N}\p{S}]")
_NOT_A_WORD = regex.compile(r"(?:[^\p{L}\p{M}\p{N}]+|(?<![\p{L}\p{M}\p{N}])\p{M}+)+")
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_WORD = regex.compile(
    rf"[{_UNSPACED}]{{1,2}}|(?:(?![{_UNSPACED}])[\p{{L}}\p{{N}}])(?:(?![{_UNSPACED}])[\p{{L}}\p{{M}}\p{{N}}'’])*"
)
_NOT_ENGLISH = regex.compile(r"[^\P{L}A-Za-z]|(?![©®™])\p{Extended_Pictographic}|\p{Regional_Indicator}")
_ASCII_WORD = regex.compile(r"[A-Za-z0-9][A-Za-z0-9']*")
_BETWEEN_TAGS = regex.compile(r"[\s\p{P}\p{S}\p{M}\u200d]*")


def clean_caption(text: str | None, section: CaptionsSection, labels: Sequence[str] = ()) -> str | None:
    """The caption without what the section takes out; None where no letter, digit or symbol is left.

    Unless hashtags are kept, none of the caption's own and of `labels` is left behind a '#', in whatever script and wherever it
    stands; `labels` are the post's normalised hashtags where something else than the caption tells them.

    Idempotent: rules are applied until nothing changes, so that a caption cleaned once more at tagging time stays as it
    is. White space and control characters become one space, direction marks go, HTML entities become what they stand
    for; words, case and punctuation stay.
    """
    kept, known = _cut(text or ""), frozenset[str]()
    if section.hashtags != "keep":
        known = frozenset({*labels, *normalise_hashtags(find_hashtags(kept))})
    for _ in range(MAX_ROUNDS):
        cleaned = _clean_once(kept, section, known)
        if cleaned == kept:
            return cleaned if _ANY_CONTENT.search(cleaned) else None
        kept = cleaned
    # Nobody writes so, and each round may bring forth the next one: no token stays in which a rule can find anything.
    return clean_caption(_MARKED_TOKEN.sub(" ", kept), section)


def normalised_caption(text: str | None) -> str:
    """The form in which two captions are one: no URL, mention, 'RT @user:' or hashtag, NFKC, case folded, words only.

    It does not depend on the recipe, so that two recipes for captions split an archive alike. Empty where no word is left.
    """
    if not text:
        return ""
    bare = _INVISIBLE.sub("", _cut(text))
    bare = _without(bare, url_spans(bare))
    bare = _MENTION.sub(" ", _RETWEET.sub(" ", _SCHEME_LEFT.sub(" ", bare)))
    bare = _without(bare, tag_like_spans(bare))
    bare = unicodedata.normalize("NFKC", _unescaped(bare)).casefold()
    return _NOT_A_WORD.sub(" ", bare).strip()


def has_english_letters(text: str) -> bool:
    """Whether every letter is one of A-Z and no sign is an emoji."""
    return not _NOT_ENGLISH.search(text)


def count_words(text: str | None) -> int:
    """Words of a text. In scripts that put no space between words (Han, Kana, Thai, ...) two characters count as one."""
    if not text:
        return 0
    return len((_ASCII_WORD if text.isascii() else _WORD).findall(text))


def _cut(text: str) -> str:
    """The text, at most MAX_CHARACTERS of it."""
    if len(text) <= MAX_CHARACTERS:
        return text
    kept = text[:MAX_CHARACTERS]
    space = _LAST_SPACE.search(kept, MAX_CHARACTERS - 300)
    return kept if space is None else kept[: space.start()]


def _clean_once(text: str, section: CaptionsSection, labels: frozenset[str]) -> str:
    text = _INVISIBLE.sub("", text)
    if section.hashtags == "remove":
        text = _without(text, tag_like_spans(text))
    elif section.hashtags == "keep_inline_words":
        text = _keep_inline_words(text)
    if section.urls == "remove":
        text = _SCHEME_LEFT.sub(" ", _without_end(_without(text, url_spans(text))))
    text = _unescaped(text)
    if section.mentions == "remove":
        text = _MENTION.sub(" ", _RETWEET.sub(" ", text))
    if section.non_alphabetic == "remove":
        text = _TOKEN_WITH_DIGIT.sub(" ", _SIGNS.sub(" ", text))
    if section.stop_words == "remove":
        text = _WORD.sub(lambda word: " " if word[0].casefold() in stop_words() else word[0], text)
    if labels and _SIGN.search(text):
        text = _without_labels(text, labels)
    return _CONTROL.sub(" ", text).strip()


@functools.cache
def stop_words() -> frozenset[str]:
    """scikit-learn's English stop words."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS  # a second to import, and few recipes need it

    return frozenset(ENGLISH_STOP_WORDS)


def _unescaped(text: str) -> str:
    """The text without HTML entities, also those that stand in one another (`&amp;amp;`, `&am&#112;;`).

    Each `;` may end one, which then is a character and may itself be a part of the next: a stack, gone through once.
    """
    if "&" not in text or ";" not in text:
        return text
    done: list[str] = []
    for character in text:
        done.append(character)
        while done and done[-1] == ";":
            written = "".join(done[-_ENTITY_LENGTH:])
            begin = len(written) - max(written.rfind("&"), 0)
            written = written[-begin:]
            if not _ENTITY.fullmatch(written) or (meant := html.unescape(written)) == written:
                break
            del done[-begin:]
            done += meant
    return "".join(done)


def _without(text: str, spans: list[tuple[int, int]]) -> str:
    """The text with a space in place of each span."""
    pieces, end = [], 0
    for begin, after in spans:
        pieces.append(text[end:begin])
        end = after
    return " ".join([*pieces, text[end:]])


def _without_end(text: str) -> str:
    """The text without the schemes that it ends in, one after the other; a round each would take long for many."""
    end = len(text)
    while found := _SCHEME_AT_END.search(text, max(0, end - _TAIL), end):
        end = found.start()
    return text[:end]


def _without_labels(text: str, labels: frozenset[str]) -> str:
    """The text with a space in place of each '#' and what is, normalised, one of the labels or begins with one."""
    spans = []
    for found in _CHUNK.finditer(text):
        written = found[1]
        normal = normalise_hashtag(written)
        if label := next((normal[:end] for end in range(len(normal), 0, -1) if normal[:end] in labels), None):
            ends = (end for end in range(1, len(written)) if normalise_hashtag(written[:end]) == label)
            spans.append((found.start(), found.start(1) + next(ends, len(written))))
    return _without(text, spans)


def _keep_inline_words(text: str) -> str:
    """Hashtags of the block that ends the caption go; any other loses its '#' and keeps its word (article 001)."""
    spans = hashtag_spans(text)
    trailing, end = len(spans), len(text)
    while trailing and _BETWEEN_TAGS.fullmatch(text, spans[trailing - 1][1], end):
        trailing -= 1
        end = spans[trailing][0]
    text = _without(text, spans[trailing:])
    text = _without_signs(text, [begin for begin, _ in spans[:trailing]], "")
    # Where no rule sees a hashtag, as after a Japanese letter, its word stays too: the sentence is written around it.
    return _without_signs(text, [begin for begin, _ in tag_like_spans(text)], " ")


def _without_signs(text: str, places: Sequence[int], instead: str) -> str:
    """The text with `instead` in place of the characters at some places."""
    ends = [0, *(place + 1 for place in places)]
    return instead.join(text[begin:end] for begin, end in zip(ends, [*places, len(text)], strict=True))
