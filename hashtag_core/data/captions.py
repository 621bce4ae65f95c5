"""What a model reads of a caption, and the form in which two captions are the same.

(Articles by number: docs/models.md.)
"""

import functools
import html
import unicodedata

import regex

from hashtag_core.config import CaptionsSection
from hashtag_core.data.hashtags import hashtag_spans, url_spans

_CONTROL = regex.compile(r"[\p{Cc}\p{Zl}\p{Zp}\s]+")
_INVISIBLE = regex.compile(r"[\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]+")
"""Zero-width spaces and direction marks; the joiners are spelling and stay."""

_RETWEET = regex.compile(r"(?<![\p{L}\p{N}_])RT\s+[@＠][A-Za-z0-9_.]+:?")
_MENTION = regex.compile(r"(?<![\p{L}\p{N}_!#$%&*@＠.])[@＠][A-Za-z0-9_](?:[A-Za-z0-9_.]*[A-Za-z0-9_])?")
_SCHEME_LEFT = regex.compile(r"https?:/{0,2}(?=…|\.{3}|$)|(?<![\p{L}\p{N}])ht(?:tps?|t)?(?=…|\.{3})", regex.IGNORECASE)
"""What is left of a URL where a caption was cut off."""

_ENTITY = regex.compile(r"&(?:amp|lt|gt|quot|apos|nbsp|hellip|#\d{1,7}|#x[0-9a-f]{1,6});", regex.IGNORECASE)
_SIGNS = regex.compile(r"[^\p{L}\p{M}\p{N}'’\-\s]+|(?<![\p{L}\p{M}\p{N}])['’\-]+|['’\-]+(?![\p{L}\p{M}\p{N}])")
_TOKEN_WITH_DIGIT = regex.compile(r"\S*\p{N}\S*")
_ANY_CONTENT = regex.compile(r"[\p{L}\p{N}\p{S}]")
_NOT_A_WORD = regex.compile(r"(?:[^\p{L}\p{M}\p{N}]+|(?<![\p{L}\p{M}\p{N}])\p{M}+)+")
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_WORD = regex.compile(
    rf"[{_UNSPACED}]{{1,2}}|(?:(?![{_UNSPACED}])[\p{{L}}\p{{N}}])(?:(?![{_UNSPACED}])[\p{{L}}\p{{M}}\p{{N}}'’])*"
)
_NOT_ENGLISH = regex.compile(r"[^\P{L}A-Za-z]|(?![©®™])\p{Extended_Pictographic}|\p{Regional_Indicator}")
_ASCII_WORD = regex.compile(r"[A-Za-z0-9][A-Za-z0-9']*")
_BETWEEN_TAGS = regex.compile(r"[\s\p{P}\p{S}\p{M}\u200d]*")


def clean_caption(text: str | None, section: CaptionsSection) -> str | None:
    """The caption without what the section takes out; None where no letter, digit or symbol is left.

    Idempotent: rules are applied until nothing changes, so that a caption cleaned once more at tagging time stays as it
    is. White space and control characters become one space, direction marks go, HTML entities become what they stand
    for; words, case and punctuation stay.
    """
    held = text or ""
    while True:
        cleaned = _clean_once(held, section)
        if cleaned == held:
            return cleaned if _ANY_CONTENT.search(cleaned) else None
        held = cleaned


def normalised_caption(text: str | None) -> str:
    """The form in which two captions are one: no URL, mention, 'RT @user:' or hashtag, NFKC, case folded, words only.

    It does not depend on the recipe, so that two recipes for captions split an archive alike. Empty where no word is left.
    """
    if not text:
        return ""
    bare = _INVISIBLE.sub("", text)
    bare = _without(bare, url_spans(bare))
    bare = _MENTION.sub(" ", _RETWEET.sub(" ", _SCHEME_LEFT.sub(" ", bare)))
    bare = _without(bare, hashtag_spans(bare))
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


def _clean_once(text: str, section: CaptionsSection) -> str:
    text = _INVISIBLE.sub("", text)
    if section.hashtags == "remove":
        text = _without(text, hashtag_spans(text))
    elif section.hashtags == "keep_inline_words":
        text = _keep_inline_words(text)
    if section.urls == "remove":
        text = _SCHEME_LEFT.sub(" ", _without(text, url_spans(text)))
    text = _unescaped(text)
    if section.mentions == "remove":
        text = _MENTION.sub(" ", _RETWEET.sub(" ", text))
    if section.non_alphabetic == "remove":
        text = _TOKEN_WITH_DIGIT.sub(" ", _SIGNS.sub(" ", text))
    if section.stop_words == "remove":
        text = _WORD.sub(lambda word: " " if word[0].casefold() in stop_words() else word[0], text)
    return _CONTROL.sub(" ", text).strip()


@functools.cache
def stop_words() -> frozenset[str]:
    """scikit-learn's English stop words."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS  # a second to import, and few recipes need it

    return frozenset(ENGLISH_STOP_WORDS)


def _unescaped(text: str) -> str:
    return _ENTITY.sub(lambda match: html.unescape(match[0]), text) if "&" in text else text


def _without(text: str, spans: list[tuple[int, int]]) -> str:
    """The text with a space in place of each span."""
    pieces, end = [], 0
    for begin, after in spans:
        pieces.append(text[end:begin])
        end = after
    return " ".join([*pieces, text[end:]])


def _keep_inline_words(text: str) -> str:
    """Hashtags of the block that ends the caption go; any other loses its '#' and keeps its word (article 001)."""
    spans = hashtag_spans(text)
    trailing, end = len(spans), len(text)
    while trailing and _BETWEEN_TAGS.fullmatch(text, spans[trailing - 1][1], end):
        trailing -= 1
        end = spans[trailing][0]
    text = _without(text, spans[trailing:])
    for begin, _ in reversed(spans[:trailing]):
        text = text[:begin] + text[begin + 1 :]
    return text
