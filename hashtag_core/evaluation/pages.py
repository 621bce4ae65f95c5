"""HTML pages of reports: one file each, which opens without a network and runs no code but its own.

Everything that comes from data is escaped by Jinja2's autoescape; what a script reads is JSON from `json_blob`. Charts are SVG
in the page: matplotlib draws them (it draws the published figures too, needs no script, and prints), and `themed_svg` makes their
colours those of the page, so that they follow light and dark.
"""

import io
import json
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, TypedDict

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

INK, MUTED, LINE, PAPER = "#010101", "#020202", "#030303", "#040404"
"""Colours that charts are drawn in; the page has its own in their place."""
SERIES = tuple(f"#0501{place:02x}" for place in range(10))
"""The colours of up to ten systems."""

SVG_SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "hashtag",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "figure.facecolor": "none",
}

_COLOURS = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    PAPER: "var(--paper)",
    **{colour: f"var(--c{place})" for place, colour in enumerate(SERIES)},
}
_DIGITS = re.compile(r"(\.\d\d)\d+")
_BREAKING = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}


class Chart(TypedDict):
    """A drawing of a section, and what it shows in words."""

    svg: Markup
    description: str


class PageTable(TypedDict):
    """A table of a section; `folded`: shown when it is asked for."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    description: str
    folded: bool


class Section(TypedDict):
    """A section of a page: what `templates/sections.html` reads."""

    id: str
    title: str
    description: str
    charts: Sequence[Chart]
    tables: Sequence[PageTable]


def page_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], description: str = "", *, folded: bool = False
) -> PageTable:
    """A table of a section."""
    return {"header": header, "rows": rows, "description": description, "folded": folded}


def page_section(
    name: str, title: str, tables: Sequence[PageTable] = (), description: str = "", charts: Sequence[Chart] = ()
) -> Section:
    """A section, `name` its address on the page, without the tables that have no row."""
    shown = [table for table in tables if table["rows"]]
    return {"id": name, "title": title, "description": description, "charts": charts, "tables": shown}


def shown_sections(sections: Iterable[Section]) -> list[Section]:
    """Those that have something to show."""
    return [section for section in sections if section["charts"] or section["tables"]]


def render(template: str, **values: Any) -> str:
    """The page that a template of `templates/` makes of the values."""
    return _environment().get_template(template).render(**values)


def style() -> Markup:
    """The style sheet that all pages share."""
    return Markup(_text("page.css"))  # noqa: S704  (our own file)


def script(name: str) -> Markup:
    """A script of ours, to be set into a page."""
    return Markup(_text(name))  # noqa: S704  (our own file)


def json_blob(value: Any) -> Markup:
    """JSON for a `<script type="application/json">`: no character in it can end that element or begin another."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.translate(_BREAKING))  # noqa: S704  (escaped in the line above)


def themed_svg(figure: Any, name: str, description: str) -> Markup:
    """The figure as an SVG element: `name` makes its ids its own on the page, `description` says what it shows to who cannot see it."""
    out = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # letters stay letters: the browser has the fonts
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"#0[1-5]0[0-9a-f]0[0-9a-f]\b", lambda found: _COLOURS.get(found[0], found[0]), svg)
    svg = _DIGITS.sub(r"\1", svg)
    head = Markup('<svg role="img" aria-label="{}" ').format(description)
    return head + Markup(svg.removeprefix("<svg "))  # noqa: S704  (matplotlib escapes what it draws)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("hashtag_core.evaluation", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    functions: Mapping[str, Any] = {"style": style, "script": script, "json_blob": json_blob}
    environment.globals.update(functions)
    return environment


def _text(name: str) -> str:
    return files("hashtag_core.evaluation").joinpath("templates", name).read_text(encoding="utf-8")
