"""Hashtags in text, by the rules of twitter-text (https://github.com/twitter/twitter-text, Regex.java `VALID_HASHTAG`).

A hashtag is '#' or '＃' and then letters, marks, decimal digits, '_' and the joiners of some scripts, with at least one
letter or mark. None stands right after a character that could be part of a hashtag or after '&', inside a URL, or right
before another '#' or '://'. An emoji presentation sign may stand before it; the keycap '#️⃣' is none.
"""

import unicodedata
from collections.abc import Iterable

import regex

JOINERS = "_\u200c\u200d\ua67e\u05be\u05f3\u05f4\uff5e\u301c\u309b\u309c\u30a0\u30fb\u3003\u0f0b\u0f0c\u00b7"
"""What twitter-text allows inside a hashtag beside letters, marks and digits."""

_LETTER = r"\p{L}\p{M}"
_PART = rf"{_LETTER}\p{{Nd}}{JOINERS}"

HASHTAG = regex.compile(
    rf"(?:(?<=[\uFE0E\uFE0F])|(?<![&{_PART}]))"
    r"[#＃](?![\uFE0F\u20E3])"
    rf"(?=[{_PART}]*?[{_LETTER}])([{_PART}]++)"
    r"(?![#＃]|://)"
)
"""Group 1 is the tag without its sign."""

_PATH_CHARACTER = r"\p{Latin}\p{Cyrillic}0-9!*';:=+,.$/%#\[\]\-\u2013_~@|&?"
_PATH_END = r"\p{Latin}\p{Cyrillic}0-9=_#/+\-&"
_PATH = rf"(?:[{_PATH_CHARACTER}]|\([{_PATH_CHARACTER}]*\))*(?:[{_PATH_END}]|\([{_PATH_CHARACTER}]*\))"
_BARE_ENDING = "com|net|org|edu|gov|mil|int|info|biz|name|app|dev|page|link|shop|store|blog|news|site|online|[a-z]{2}"
URL = regex.compile(
    rf"(?:https?|ftp)://[\p{{L}}\p{{M}}\p{{N}}._\-]+(?::\d+)?(?:[/?]{_PATH}|/)?"
    rf"|(?<![\p{{L}}\p{{N}}@#＃$_./\-])(?:[a-z0-9](?:[a-z0-9\-]*+)\.)+(?:{_BARE_ENDING})(?:/{_PATH}|/)",
    regex.IGNORECASE,
)
"""A URL with its scheme, or a bare domain of a common ending that a path follows."""

_NOT_A_PART = regex.compile(rf"[^{_PART}]+|[\uFE0E\uFE0F]+")
_HAS_LETTER = regex.compile(rf"[{_LETTER}]")
_STRAY_JOINER = regex.compile(r"(?<![\p{Arabic}\p{M}])[\u200c\u200d]+|\u200c+$")


def url_spans(text: str) -> list[tuple[int, int]]:
    """Begin and end of every URL in the text, in order."""
    return [match.span() for match in URL.finditer(text)] if "/" in text else []


def hashtag_spans(text: str) -> list[tuple[int, int]]:
    """Begin and end of every hashtag in the text, sign included, in order."""
    if "#" not in text and "＃" not in text:
        return []
    urls = url_spans(text)
    return [
        match.span() for match in HASHTAG.finditer(text) if not any(begin <= match.start() < end for begin, end in urls)
    ]


def find_hashtags(text: str) -> list[str]:
    """The hashtags of the text as written, without '#', in order, repeats included."""
    return [text[begin + 1 : end] for begin, end in hashtag_spans(text)]


def normalise_hashtag(tag: str) -> str:
    """The form in which two hashtags are the same: NFKC, case folded, nothing but hashtag characters.

    So '#', spaces and punctuation go (`signs and symbols` -> `signsandsymbols`), '～' is '〜', variation selectors go, and
    the zero-width joiners stay only where they are spelling: after an Arabic letter or a mark (Persian, Indic). The dot
    that folding 'İ' leaves over 'i' goes. Idempotent. Empty where no letter is left: such a thing is no hashtag.
    """
    while True:
        folded = unicodedata.normalize("NFKC", tag.replace("\uff5e", "\u301c")).casefold()
        folded = unicodedata.normalize("NFKC", folded).replace("i\u0307", "i")
        folded = _STRAY_JOINER.sub("", _NOT_A_PART.sub("", folded))
        if folded == tag:
            return tag if _HAS_LETTER.search(tag) else ""
        tag = folded


def normalise_hashtags(tags: Iterable[str]) -> list[str]:
    """All of them normalised, those that are none and repeats dropped, the author's order kept."""
    return [tag for tag in dict.fromkeys(normalise_hashtag(tag) for tag in tags) if tag]
