"""Hashtags in text, by the rules of twitter-text (https://github.com/twitter/twitter-text, Regex.java `VALID_HASHTAG`) or of
Instagram, which differ in one thing: `#love#nature#sun` is no hashtag to the first and three to the second.

A hashtag is '#' or '＃' and then letters, marks, decimal digits, '_' and the joiners of some scripts, with at least one
letter or mark. None stands right after a character that could be part of a hashtag or after '&', inside a URL, or right
before another '#' (but for Instagram) or '://'. An emoji presentation sign may stand before it; the keycap '#️⃣' is none.
"""

import unicodedata
from collections.abc import Iterable, Iterator
from typing import Literal

import regex

JOINERS = "_\u200c\u200d\ua67e\u05be\u05f3\u05f4\uff5e\u301c\u309b\u309c\u30a0\u30fb\u3003\u0f0b\u0f0c\u00b7"
"""What twitter-text allows inside a hashtag beside letters, marks and digits."""

MAX_TAG_CHARACTERS = 500
"""What is longer is no hashtag: networks allow 100 to 280 characters, and putting marks in order takes time in the square of it."""

_LETTER = r"\p{L}\p{M}"
_PART = rf"{_LETTER}\p{{Nd}}{JOINERS}"

Rules = Literal["instagram", "twitter"]
"""Whose hashtags. Instagram's are the default: of text that holds none run together, both find the same."""

_BEFORE = rf"(?:(?<=[\uFE0E\uFE0F])|(?<![&{_PART}]))"
_SIGN = r"[#＃](?![\uFE0F\u20E3])"
_TAG = rf"(?=[{_PART}]*?[{_LETTER}])[{_PART}]++"

HASHTAG = regex.compile(rf"{_BEFORE}{_SIGN}{_TAG}(?![#＃]|://)")
"""One hashtag of twitter-text with its sign."""

_RUN = regex.compile(rf"{_BEFORE}(?:{_SIGN}[{_PART}]++)+(?!://)")
"""Hashtags run together, as Instagram takes them; some may be digits alone, which are none."""

_OF_A_RUN = regex.compile(rf"{_SIGN}{_TAG}")

_LOOKS_LIKE_ONE = regex.compile(rf"(?<![A-Za-z0-9&]){_SIGN}{_TAG}(?:[#＃]+[{_PART}]++)*")
"""What a reader takes for hashtags though neither set of rules does: after a letter of a script that puts no space between
words, and before another '#' (Weibo's `#topic#`)."""

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

_NOT_A_PART = regex.compile(rf"[^{_PART}]+|(?![\u200c\u200d])\p{{Default_Ignorable_Code_Point}}+")
_HAS_LETTER = regex.compile(rf"[{_LETTER}]")
_STRAY_JOINER = regex.compile(r"(?<![\p{Arabic}\p{M}])[\u200c\u200d]+|\u200c+$")
_DOTTED_I = regex.compile("i\u0307+")
_ANY_SIGN = regex.compile(r"[#＃]")
_SIGN_AFTER_SPACE = regex.compile(r"\s[#＃]")


def url_spans(text: str) -> list[tuple[int, int]]:
    """Begin and end of every URL in the text, in order."""
    return [match.span() for match in URL.finditer(text)] if "/" in text else []


def hashtag_spans(text: str, rules: Rules = "instagram") -> list[tuple[int, int]]:
    """Begin and end of every hashtag in the text, sign included, in order."""
    if "#" not in text and "＃" not in text:
        return []
    found = HASHTAG.finditer(text) if rules == "twitter" else _in_runs(text)
    return _outside_urls(text, (match.span() for match in found))


def tag_like_spans(text: str) -> list[tuple[int, int]]:
    """Begin and end of all that has to go where a model must not read a post's hashtags: those of `hashtag_spans`, whatever
    stands right before (`今日は#東京`) or after (`#旅行#`) them. Not in words of ASCII (`C#minor`), entities and URLs."""
    if "#" not in text and "＃" not in text:
        return []
    return _outside_urls(text, (match.span() for match in _LOOKS_LIKE_ONE.finditer(text)))


def find_hashtags(text: str, rules: Rules = "instagram") -> list[str]:
    """The hashtags of the text as written, without '#', in order, repeats included."""
    return [text[begin + 1 : end] for begin, end in hashtag_spans(text, rules)]


def _in_runs(text: str) -> Iterator[regex.Match[str]]:
    for run in _RUN.finditer(text):
        yield from _OF_A_RUN.finditer(text, *run.span())


def _outside_urls(text: str, spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    urls, kept = iter(url_spans(text)), []
    begin, end = next(urls, (len(text), len(text)))
    for span in spans:  # both in order: each is gone through once
        while span[0] >= end:
            begin, end = next(urls, (len(text), len(text) + 1))
        if span[0] < begin:
            kept.append(span)
    return kept


def normalise_hashtag(tag: str) -> str:
    """The form in which two hashtags are the same: NFKC, case folded, nothing but hashtag characters.

    So '#', spaces and punctuation go (`signs and symbols` -> `signsandsymbols`), '～' is '〜', and what Unicode calls default
    ignorable goes, since it is not seen: variation selectors, fillers, soft hyphens, direction marks. Of these the zero-width
    joiners alone stay, and only where they are spelling: after an Arabic letter or a mark (Persian, Indic). The dot that
    folding 'İ' leaves over 'i' goes. Idempotent. Empty where no letter is left, or beyond MAX_TAG_CHARACTERS: such a thing is no
    hashtag.
    """
    if len(tag) > MAX_TAG_CHARACTERS:
        return ""
    while True:
        folded = unicodedata.normalize("NFKC", tag.replace("\uff5e", "\u301c")).casefold()
        folded = unicodedata.normalize("NFKC", folded)
        folded = _DOTTED_I.sub("i", folded)
        folded = _STRAY_JOINER.sub("", _NOT_A_PART.sub("", folded))
        if folded == tag:
            return tag if _HAS_LETTER.search(tag) else ""
        tag = folded


def normalise_hashtags(tags: Iterable[str]) -> list[str]:
    """All of them normalised, those that are none and repeats dropped, the author's order kept.

    One that holds several (`#love #nature`, `#love#nature`) is several.
    """
    normal = (normalise_hashtag(tag) for written in tags for tag in _apart(written))
    return [tag for tag in dict.fromkeys(normal) if tag]


def _apart(written: str) -> list[str]:
    if written.lstrip()[:1] in ("#", "＃"):
        return _ANY_SIGN.split(written)
    return _SIGN_AFTER_SPACE.split(written)
