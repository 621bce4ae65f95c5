"""The rooms are what CONTRIBUTING and import-linter say they are, none too large, the room of Ray the smallest that it can be."""

import re
import tomllib
from pathlib import Path

LARGEST_SHARE = 0.2
MOST_LINES_ON_RAY = 3_400
"""Today's; to fall to 3,000."""


def rooms(repository: Path) -> dict[str, int]:
    """Lines of code by folder of the package."""
    package = repository / "hashtag_core"
    return {
        folder.name: sum(len(file.read_text(encoding="utf-8").splitlines()) for file in folder.rglob("*.py"))
        for folder in package.iterdir()
        if (folder / "__init__.py").exists()
    }


def test_contributing_names_every_room(repository: Path) -> None:
    text = (repository / "CONTRIBUTING.md").read_text(encoding="utf-8")
    tree = re.search(r"```\njobs/ .*?```", text, re.DOTALL)
    assert tree is not None
    told = set(re.findall(r"^  (\w+)/", tree[0], re.MULTILINE))
    assert told == set(rooms(repository))


def test_import_linter_knows_every_room_and_contributing_shows_its_layers(repository: Path) -> None:
    contracts = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    layers = next(item["layers"] for item in contracts["contracts"] if item["type"] == "layers")
    named = [re.findall(r"hashtag_core\.(\w+)", layer) for layer in layers]
    assert set(rooms(repository)) <= {name for layer in named for name in layer}
    text = (repository / "CONTRIBUTING.md").read_text(encoding="utf-8")
    shown = [re.findall(r"\w+", line) for line in re.findall(r"^ *└─ (.*)$", text, re.MULTILINE)]
    assert shown == [layer for layer in named if layer]


def test_no_room_is_too_large(repository: Path) -> None:
    lines = rooms(repository)
    large = {name: count for name, count in lines.items() if count > LARGEST_SHARE * sum(lines.values())}
    assert not large
    assert lines["distributed"] <= MOST_LINES_ON_RAY
