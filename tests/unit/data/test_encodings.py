"""Which encoding a table is in."""

from hypothesis import given, settings
from hypothesis import strategies as st

from hashtag_core.data.formats.encodings import looks_western


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.characters(min_codepoint=0x410, max_codepoint=0x44F), min_size=3), min_size=3))
def test_cyrillic_is_never_taken_for_western_text(words: list[str]) -> None:
    assert not looks_western(" ".join(words).encode("cp1251"))
