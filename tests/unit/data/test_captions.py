import html
import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashtag_core.config import CaptionsSection
from hashtag_core.data import captions
from hashtag_core.data.captions import clean_caption, count_words, normalised_caption
from hashtag_core.data.hashtags import find_hashtags, normalise_hashtags

ARTICLE = CaptionsSection(hashtags="keep_inline_words", mentions="remove", non_alphabetic="remove")
KEEP = CaptionsSection(hashtags="keep", urls="keep")


@pytest.mark.parametrize(
    ("text", "section", "cleaned"),
    [
        ("Sunset at the #beach #sea", CaptionsSection(), "Sunset at the"),
        ("Sunset at the #beach tonight #sea", ARTICLE, "Sunset at the beach tonight"),
        ("#Beach day with @ann_b! 3 photos http://t.co/x #sun #sea…", ARTICLE, "Beach day with photos"),
        ("the 5s phone isn't well-known -- 'really'", ARTICLE, "the phone isn't well-known really"),
        ("#a http://t.co/x", KEEP, "#a http://t.co/x"),
        ("Look http://t.co/x?y=1#z, and example.com/a now", CaptionsSection(), "Look , and now"),
        ("cut off http:/…", CaptionsSection(), "cut off …"),
        ("cut off htt…", CaptionsSection(), "cut off …"),
        ("RT @ann: hi @bob, a@b.c", CaptionsSection(mentions="remove"), "hi , a@b.c"),
        ("RT @ann: hi @bob", CaptionsSection(), "RT @ann: hi @bob"),
        ("a &amp; b &lt;3 &amp;amp; c", CaptionsSection(), "a & b <3 & c"),
        (" two\n\nlines\tand\x00control\u200f ", CaptionsSection(), "two lines and control"),
        ("#only #tags", CaptionsSection(), None),
        ("#only #tags …!!", CaptionsSection(), None),
        ("❤️ #love", CaptionsSection(), "❤️"),
        ("a quiet evening #love#nature#sun", CaptionsSection(), "a quiet evening"),
        ("今日は#東京 楽しい", CaptionsSection(), "今日は 楽しい"),
        ("#旅行# 很开心", CaptionsSection(), "# 很开心"),
        ("ไป#ทะเล กัน", CaptionsSection(), "ไป กัน"),
        ("café#crème", CaptionsSection(), "café"),
        ("in C#minor &#35;sea", CaptionsSection(), "in C#minor"),
        ("lo\u00adve #lo\u034fve \u3164x", CaptionsSection(), "love x"),
        ("今日は#東京 楽しい", ARTICLE, "今日は 東京 楽しい"),
        ("", CaptionsSection(), None),
        (None, CaptionsSection(), None),
    ],
)
def test_cleaning(text: str | None, section: CaptionsSection, cleaned: str | None) -> None:
    assert clean_caption(text, section) == cleaned


SECTIONS = st.builds(
    CaptionsSection,
    hashtags=st.sampled_from(["remove", "keep_inline_words", "keep"]),
    mentions=st.sampled_from(["keep", "remove"]),
    urls=st.sampled_from(["keep", "remove"]),
    non_alphabetic=st.sampled_from(["keep", "remove"]),
)
PIECES = st.lists(
    st.sampled_from(
        [
            "#",
            "＃",
            "@",
            "a",
            "B1",
            "http://t.co/x",
            "RT",
            " ",
            ":",
            "&amp;",
            "&num;",
            ";",
            "\u200b",
            "…",
            "-",
            "'",
            "#tag",
            "e.co/",
        ]
    ),
    max_size=14,
).map("".join)


@settings(deadline=None)
@given(PIECES | st.text(max_size=30), SECTIONS)
def test_cleaning_twice_is_cleaning_once(text: str, section: CaptionsSection) -> None:
    once = clean_caption(text, section)
    assert clean_caption(once, section) == once


@settings(deadline=None)
@given(PIECES)
def test_no_hashtag_is_left_for_the_model(text: str) -> None:
    assert find_hashtags(clean_caption(text, CaptionsSection()) or "") == []


WORDS = [
    "love",
    "Nature",
    "東京",
    "很开心",
    "ทะเล",
    "שמש",
    "바다",
    "café",
    "Straße",
    "x1",
    "новости",
    "日の出",
    "ｓｕｎ",
    "क्षण",
]
GLUE = [
    "#",
    "＃",
    " #",
    "##",
    "#\u200b",
    "\ufe0f#",
    " ",
    "",
    "、#",
    "(#",
    "x#",
    "は#",
    "/#",
    "http://t.co/#",
    "&num;",
    ".",
]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(GLUE), st.sampled_from(WORDS)), min_size=1, max_size=6),
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=3),
    SECTIONS,
)
def test_no_label_is_left_in_the_caption_in_any_script(
    pieces: list[tuple[str, str]], written: list[str], section: CaptionsSection
) -> None:
    labels = normalise_hashtags(written)
    cleaned = clean_caption("".join(map("".join, pieces)), section, labels) or ""
    assert clean_caption(cleaned, section, labels) in (cleaned, None)
    if section.hashtags == "keep":
        return
    seen = unicodedata.normalize("NFKC", cleaned).casefold()
    assert [label for label in labels if "#" + label in seen] == []


@pytest.mark.parametrize(
    ("text", "labels", "cleaned"),
    [
        ("word#love is", ["love"], "word is"),
        ("word#lovely is", ["love"], "word ly is"),
        ("see #rock&roll now", ["rockroll"], "see &roll now"),
        ("#😀love now", ["love"], "now"),
        ("word#Straße", ["strasse"], "word"),
        ("word#nature", ["love"], "word#nature"),
    ],
)
def test_labels_of_a_column_go(text: str, labels: list[str], cleaned: str) -> None:
    assert clean_caption(text, CaptionsSection(), labels) == cleaned


@pytest.mark.parametrize(
    "text",
    [
        "Good morning, World!",
        "RT @ann: good morning   world http://t.co/x",
        "GOOD MORNING world ❤️ #happy",
        "@bob good\nmorning ｗｏｒｌｄ…",
    ],
)
def test_captions_that_are_one(text: str) -> None:
    assert normalised_caption(text) == "good morning world"


@pytest.mark.parametrize("text", [None, "", "#tags #only", "!!! ❤️ …", "@ann http://t.co/x"])
def test_no_word_no_normal_caption(text: str | None) -> None:
    assert normalised_caption(text) == ""


@settings(deadline=None)
@given(PIECES | st.text(max_size=30))
def test_the_normal_caption_has_single_spaces_and_is_folded(text: str) -> None:
    normal = normalised_caption(text)
    assert normal == " ".join(normal.split())
    assert normal == normal.casefold()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, 0),
        ("", 0),
        ("one", 1),
        ("I'm a well-known man", 5),
        ("❤️ … !", 0),
        ("日本語です", 3),
        ("añejo café", 2),
        ("tokyo 東京 1", 3),
    ],
)
def test_words(text: str | None, words: int) -> None:
    assert count_words(text) == words


def test_a_caption_is_cut_before_anything_looks_at_it() -> None:
    words = "word " * 4_000
    assert len(clean_caption(words, CaptionsSection())) == 9_999
    assert clean_caption("a" * 20_000, CaptionsSection()) == "a" * 10_000
    assert (
        clean_caption("word " * 1_999 + "https://example.com/path " * 9, CaptionsSection()) == "word " * 1_998 + "word"
    )
    assert normalised_caption(words) == normalised_caption(words[:10_000])
    for text in (words, "a" * 20_000):
        once = clean_caption(text, CaptionsSection())
        assert clean_caption(once, CaptionsSection()) == once


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("a &amp;amp;amp;lt; b", "a < b"),
        ("&am&#112;;lt;", "<"),
        ("&#3&#56;;amp;", "&"),
        ("&#x1F600; &#1114111;1 &nosuch; &Quot; & ; &;", "\U0001f600 1 &nosuch; &Quot; & ; &;"),
        ("a; &am p; &amp", "a; &am p; &amp"),
    ],
)
def test_entities_that_stand_in_one_another(text: str, meant: str) -> None:
    assert captions._unescaped(text) == meant


@given(
    st.lists(
        st.sampled_from(["&", ";", "amp", "#", "3", "8", "38", "#38;", "&amp;", "lt", "x", " ", "&#59;"]), max_size=14
    )
)
def test_entities_are_those_of_replacing_until_nothing_changes(pieces: list[str]) -> None:
    """The oracle replaces them all, again and again."""
    text = before = "".join(pieces)
    while True:
        text = captions._ENTITY.sub(lambda match: html.unescape(match[0]), text)
        if text == before:
            break
        before = text
    assert captions._unescaped("".join(pieces)) == text


UNITS = [
    "&amp;",
    "amp;",
    "&#5",
    "https:",
    "#a http://b.co/c ",
    "@a",
    "#a",
    "#",
    "a",
    "1",
    "a-",
    "http://a/(",
    "a.co/",
    "ht…",
]
EVERYTHING = CaptionsSection(mentions="remove", non_alphabetic="remove", stop_words="remove")


@pytest.mark.parametrize("unit", UNITS)
def test_no_caption_takes_long(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uncut, 60 kB: some 0.5 s at worst. What takes time in the square of the length takes minutes."""
    monkeypatch.setattr(captions, "MAX_CHARACTERS", 10**9)
    text = "&" + unit * (60_000 // len(unit))
    rounds = 0
    real = captions._clean_once

    def counted(*args: object) -> str:
        nonlocal rounds
        rounds += 1
        return real(*args)

    monkeypatch.setattr(captions, "_clean_once", counted)
    before = time.process_time()
    for section in (CaptionsSection(), EVERYTHING, ARTICLE):
        once = clean_caption(text, section, ["a", "b"])
        assert clean_caption(once, section, ["a", "b"]) == once
    normalised_caption(text)
    find_hashtags(text)
    assert time.process_time() - before < 30
    assert rounds < 3 * (captions.MAX_ROUNDS + 10)


def test_what_rounds_without_end_bring_forth_is_left_out() -> None:
    """A run longer than any that people write: its tokens go, and what stands beside them stays."""
    text = "bird " + "@a" * 500 + " sea"
    assert clean_caption(text, EVERYTHING) == "bird sea"
