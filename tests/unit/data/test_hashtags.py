import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hashtag_core.data.hashtags import find_hashtags, normalise_hashtag, normalise_hashtags

FOUND = [
    ("#text at the start, then #another", ["text", "another"]),
    ("full-width ＃sign", ["sign"]),
    ('in (#brackets), "#quotes", after.#dot and /#slash', ["brackets", "quotes", "dot", "slash"]),
    ("punctuation ends it: #one, #two. #three! #four-five #six's", ["one", "two", "three", "four", "six"]),
    ("#under_score #_leading #trailing_ #x_1", ["under_score", "_leading", "trailing_", "x_1"]),
    ("#2024goals and #goals2024", ["2024goals", "goals2024"]),
    ("accents #café #ÆØÅ #straße #Ümlaut", ["café", "ÆØÅ", "straße", "Ümlaut"]),
    ("combining #cafe\u0301 stays whole", ["cafe\u0301"]),
    ("#日本語 と #ハッシュタグ、#カタカナ・中点", ["日本語", "ハッシュタグ", "カタカナ・中点"]),
    ("全角の後。#句点 「#括弧」", ["句点", "括弧"]),
    ("#한국어 #中文标签 #繁體", ["한국어", "中文标签", "繁體"]),
    ("#сейчас #Ελληνικά", ["сейчас", "Ελληνικά"]),
    ("#عربي و #می‌خواهم", ["عربي", "می‌خواهم"]),
    ("#עברית #צה״ל", ["עברית", "צה״ל"]),
    ("#हिन्दी #தமிழ் #বাংলা #తెలుగు #ไทย", ["हिन्दी", "தமிழ்", "বাংলা", "తెలుగు", "ไทย"]),
    ("Arabic digits with a letter #كأس٢٠٢٢", ["كأس٢٠٢٢"]),
    ("Catalan #col·lecció", ["col·lecció"]),
    ("emoji before 😀#tag and ❤\ufe0f#heart", ["tag", "heart"]),
    ("an emoji ends it: #sun😀 and #sea🌊wave", ["sun", "sea"]),
    ("math letters #𝓼𝓬𝓻𝓲𝓹𝓽", ["𝓼𝓬𝓻𝓲𝓹𝓽"]),
    ("##double sign", ["double"]),
    ("line\n#break\t#tab", ["break", "tab"]),
    ("the dots of a cut caption #sunset…", ["sunset"]),
    ("after a URL http://t.co/abc #yes", ["yes"]),
    ("after a URL and a Chinese stop http://t.co/abc。#yes", ["yes"]),
    ("a closed bracket ends the URL (http://t.co/abc)#yes", ["yes"]),
    ("and/or #yes", ["yes"]),
    ("#same #same", ["same", "same"]),
]

RUN_TOGETHER = [
    ("quiet evening #love#nature#sun", ["love", "nature", "sun"], []),
    ("#a#b", ["a", "b"], []),
    ("#a #b#c.", ["a", "b", "c"], ["a"]),
    ("#1#a digits alone are none", ["a"], []),
    ("#旅行#很开心", ["旅行", "很开心"], []),
    ("#旅行# 很开心", ["旅行"], []),
    ("＃love＃sea", ["love", "sea"], []),
    ("##double##sign", ["double", "sign"], ["sign"]),
    ("a#b#c after a letter", [], []),
    ("&#39;#x after an entity", ["x"], ["x"]),
    ("http://t.co/#a#b in a URL", [], []),
    ("#a#http://t.co", ["a"], []),
]

NOT_FOUND = [
    "#1 #123 #٣٤٥ #１２３ digits alone",
    "#_ #__ #1_2 no letter",
    "after a letter a#b, é#b, 日#b, 1#b, _#b",
    "&#39; &#x27; &#nbsp; entities",
    "#️⃣ and #\u20e3 keycaps",
    "# alone, # space",
    "http://example.com/#fragment https://example.com/a/#/b?x=#c",
    "example.com/#fragment and www.example.org/page/#top",
    "#http://example.com #https://example.com",
    "nothing here",
    "",
]


@pytest.mark.parametrize(("text", "tags"), FOUND)
def test_finds_what_is_a_hashtag(text: str, tags: list[str]) -> None:
    assert find_hashtags(text) == tags


@pytest.mark.parametrize("text", NOT_FOUND)
def test_finds_nothing_where_there_is_none(text: str) -> None:
    assert find_hashtags(text) == []
    assert find_hashtags(text, "twitter") == []


@pytest.mark.parametrize(("text", "tags"), FOUND)
def test_twitters_rules_differ_in_runs_alone(text: str, tags: list[str]) -> None:
    assert find_hashtags(text, "twitter") == tags


@pytest.mark.parametrize(("text", "instagram", "twitter"), RUN_TOGETHER)
def test_tags_run_together(text: str, instagram: list[str], twitter: list[str]) -> None:
    assert find_hashtags(text) == instagram
    assert find_hashtags(text, "twitter") == twitter


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("#Sunset", "sunset"),
        ("＃ＡＢＣ１２", "abc12"),
        ("STRASSE", "strasse"),
        ("straße", "strasse"),
        ("cafe\u0301", "caf\u00e9"),
        ("ﬁre", "fire"),
        ("İstanbul", "istanbul"),
        ("ΣΊΣΥΦΟΣ", "σίσυφοσ"),
        ("ｶﾞﾝﾀﾞﾑ", "ガンダム"),
        ("ラ～メン", "ラ〜メン"),
        ("signs and symbols!", "signsandsymbols"),
        ("tag\ufe0f", "tag"),
        ("a\u200db\u200c", "ab"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("क्\u200dष", "क्\u200dष"),
        ("lo\u034fve", "love"),
        ("lo\ufe00ve", "love"),
        ("lo\U000e0100ve", "love"),
        ("lo\u00adve", "love"),
        ("\u3164love", "love"),
        ("love\u115f\u1160", "love"),
        ("가\uffa0나", "가나"),
        ("\u3164", ""),
        ("123", ""),
        ("#", ""),
        ("", ""),
        ("🌊", ""),
    ],
)
def test_normal_form(written: str, normal: str) -> None:
    assert normalise_hashtag(written) == normal


def test_a_list_loses_repeats_and_non_tags_and_keeps_its_order() -> None:
    assert normalise_hashtags(["#B", "a", "123", "b", "A", "ｃ"]) == ["b", "a", "c"]


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        (["#love #nature"], ["love", "nature"]),
        (["#love#nature", "sun"], ["love", "nature", "sun"]),
        (["love #nature"], ["love", "nature"]),
        (["#旅行#"], ["旅行"]),
        (["＃a＃b"], ["a", "b"]),
        (["C#"], ["c"]),
        (["new york"], ["newyork"]),
    ],
)
def test_an_entry_that_holds_several_is_several(written: list[str], normal: list[str]) -> None:
    assert normalise_hashtags(written) == normal


TEXT = st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=40)
TAGGY = st.text(alphabet="#＃aZé日1_&/.: ・\u200d\ufe0f\u0301İß～゛ﷺक्", max_size=20)


@settings(deadline=None)
@given(TEXT | TAGGY)
def test_normalising_twice_is_normalising_once(text: str) -> None:
    once = normalise_hashtag(text)
    assert normalise_hashtag(once) == once
    assert normalise_hashtag("#" + once) == once
    assert once == unicodedata.normalize("NFKC", once.casefold()).replace("i\u0307", "i")


@settings(deadline=None)
@given(TEXT | TAGGY)
@example("A:#A")
def test_what_is_found_stands_in_the_text_and_holds_a_letter(text: str) -> None:
    place = 0
    for tag in find_hashtags(text):
        places = [text.find(sign + tag, place) for sign in "#＃"]
        assert max(places) >= 0
        assert any(unicodedata.category(character)[0] in "LM" for character in tag)
        place = min(at for at in places if at >= 0) + 1 + len(tag)


@settings(deadline=None)
@given(TAGGY)
def test_a_normal_tag_is_found_again_in_a_text(text: str) -> None:
    tag = normalise_hashtag(text)
    if tag and tag[0] not in "\ufe0f\u20e3":
        assert find_hashtags(f"before #{tag} after") == [tag]


def test_long_hostile_texts_are_quick() -> None:
    for text in (
        "#" * 100_000,
        "#1" * 50_000,
        "a." * 50_000,
        "http://" + "(" * 50_000,
        "#" + "1" * 100_000,
        "a/" * 50_000,
    ):
        find_hashtags(text)
