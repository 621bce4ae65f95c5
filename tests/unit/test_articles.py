"""What "article 003" means, and that every family is told of, stands in docs/models.md, and every file leads there."""

import re
from pathlib import Path

import pytest

from hashtag_core.models import list_models

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
NUMBERED = re.compile(r"\barticles? (00\d)")
FILES = [
    path
    for folder in ("hashtag_core", "jobs")
    for pattern in ("*.py", "*.toml")
    for path in sorted((ROOT / folder).rglob(pattern))
    if NUMBERED.search(path.read_text(encoding="utf-8"))
]


def test_every_number_is_an_article() -> None:
    told = {number for row in re.findall(r"^\| ([0-9, ]+) \|", PAGE, re.MULTILINE) for number in row.split(", ")}
    used = {number for path in FILES for number in NUMBERED.findall(path.read_text(encoding="utf-8"))}
    assert used <= told == {"000", "001", "002", "003", "004"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_that_names_an_article_by_number_leads_to_it(path: Path) -> None:
    assert "docs/models.md" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", list_models())
def test_every_family_is_told_of(name: str) -> None:
    assert re.search(rf"^\|.*`{name}`.*\|", PAGE, re.MULTILINE)


def test_the_commands_name_files_that_are_there() -> None:
    for recipe in re.findall(r"jobs/recipes/[\w/]+\.toml", PAGE):
        assert (ROOT / recipe).is_file(), recipe
