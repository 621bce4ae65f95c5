"""The pictures of a board."""

import re
import xml.etree.ElementTree as ET
from typing import Any

from hashtag_core.evaluation.board_figures import report_figures
from hashtag_core.evaluation.board_page import (
    side_by_side_html,
    side_by_side_markdown,
)


def test_pictures_are_whole_and_the_same_each_time(report: dict[str, Any]) -> None:
    figures = report_figures(report)
    assert set(figures) == {"systems.svg", "curves.svg", "slices.svg", "learning.svg", "cost.svg"}
    assert report_figures(report) == figures
    for text in figures.values():
        ET.fromstring(text)
    words = {name: set(re.findall(r">([^<>]+)</text>", text)) for name, text in figures.items()}
    assert {"amnn", "popularity"} <= words["curves.svg"] & words["systems.svg"]
    assert {"F1 (headline)", "precision (headline)", "recall (headline)", "hit rate (headline)"} <= words["curves.svg"]
    assert "amnn" in words["learning.svg"]
    assert "popularity" not in words["learning.svg"]
    page = side_by_side_markdown(report, figures)
    html = side_by_side_html(page, "toy <1>", figures)
    assert html.count("data:image/svg+xml;base64,") == 5
    assert "<title>toy &lt;1&gt;</title>" in html
    assert html.count('<div class="wide" ') == html.count("</table></div>") > 10
    assert "| --- |" not in html
