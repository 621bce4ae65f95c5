"""pyproject.toml, requirements.lock and what a wheel would carry agree."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def pinned(repository: Path) -> dict[str, str]:
    lines = (repository / "requirements.lock").read_text().splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def test_the_lock_satisfies_every_requirement(repository: Path) -> None:
    versions = pinned(repository)
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    for requirement in (Requirement(text) for group in groups for text in group):
        if requirement.name != project["name"]:
            version = versions[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(version), requirement


def test_the_lock_belongs_to_no_machine(repository: Path) -> None:
    text = (repository / "requirements.lock").read_text()
    assert "+" not in text, "a local build"
    assert not re.search(r"^(nvidia-|cuda|triton)|://|^-", text, re.MULTILINE)


def test_a_wheel_carries_recipes_and_sample(repository: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    clone.mkdir()
    for name in ("hashtag_core", "jobs", "pyproject.toml", "README.md", "LICENSE"):
        (clone / name).symlink_to(repository / name)
    build = "import setuptools.build_meta as b, sys; b.build_wheel(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", build, tmp_path], cwd=clone, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = tmp_path.glob("hashtag_recommender-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    carried = {"jobs/recipes": "**/*.toml", "jobs/sample": "*.parquet", "jobs/pages": "*", "hashtag_core": "**/*.py"}
    for folder, pattern in {**carried, "hashtag_core/evaluation/templates": "*"}.items():
        files = [path.relative_to(repository).as_posix() for path in (repository / folder).glob(pattern)]
        assert files
        assert set(files) <= names
    assert "hashtag_core/py.typed" in names
    assert not any(name.startswith(("tests", "cluster")) for name in names)
