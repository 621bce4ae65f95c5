"""Pages: what comes from data stays text, in elements, in scripts and in charts; the gallery keeps its budget."""

import base64
import json
import re
from html.parser import HTMLParser

import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure

from hashtag_core.evaluation.pages import INK, SVG_SETTINGS, json_blob, themed_svg
from tests.unit.evaluation.small_gallery import gallery


@pytest.mark.parametrize(
    "text", ["</script><script>alert(1)</script>", "<!--", "\u2028\u2029", "&lt;", 'a"b\\c', "]]>", "🌅שלום"]
)
def test_a_blob_is_the_same_value_and_ends_nothing(text: str) -> None:
    blob = json_blob({"x": [text]})
    assert json.loads(blob) == {"x": [text]}
    assert not re.search("[<>&\u2028\u2029]", blob)


def test_a_chart_takes_the_colours_of_the_page_and_escapes() -> None:
    with rc_context(SVG_SETTINGS):
        figure = Figure(figsize=(2, 2))
        panel = figure.subplots()
        panel.plot([0, 1], color=INK, label="<b>$x$</b>")
        panel.legend()
        svg = themed_svg(figure, "one", 'a "chart" <i>')
        again = themed_svg(figure, "two", "x")
    assert svg.startswith('<svg role="img" aria-label="a &#34;chart&#34; &lt;i&gt;" ')
    assert "&lt;b&gt;$x$&lt;/b&gt;" in svg
    assert "var(--ink)" in svg
    assert "#010101" not in svg
    ids = set(re.findall(r'id="([^"]+)"', svg))
    assert ids.isdisjoint(re.findall(r'id="([^"]+)"', again)), "two charts of one page share no id"
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', svg))
    assert used
    assert used <= ids
    HTMLParser().feed(svg)


def test_tags_are_numbered_anew_and_pictures_stand_once() -> None:
    data = gallery(4).data()
    assert data["tags"] == ["a", "c"]
    assert data["known"] == 1
    assert data["posts"][0] == {
        "i": "0", "u": "", "c": "x", "s": 0, "k": 1, "g": [1], "t": 0, "r": [[0, 1]], "v": [[500, 123]]
    }  # fmt: skip
    assert [post["t"] for post in data["posts"]] == [0, 0, 1, 1]
    assert data["thumbnails"] == [base64.b64encode(b"1234").decode()] * 2
