"""pyproject.toml, requirements.lock and what a wheel would carry agree."""

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def pinned(repository: Path, lock: str = "requirements.lock") -> dict[str, str]:
    lines = (repository / lock).read_text().splitlines()
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


def needed(requirements: list[str]) -> set[str]:
    """The closure of some requirements over what is installed here, extras and markers heeded."""
    seen: set[str] = set()
    left = [Requirement(text) for text in requirements]
    while left:
        requirement = left.pop()
        name = canonicalize_name(requirement.name)
        key = f"{name}[{','.join(sorted(requirement.extras))}]"
        if key in seen:
            continue
        seen |= {key, name}
        for text in metadata.distribution(name).requires or []:
            following = Requirement(text)
            if following.marker is None or any(
                following.marker.evaluate({"extra": e}) for e in {"", *requirement.extras}
            ):
                left.append(following)
    return {name for name in seen if "[" not in name}


def test_the_runtime_lock_is_what_the_jobs_need_and_nothing_else(repository: Path) -> None:
    everything, runtime = pinned(repository), pinned(repository, "requirements-runtime.lock")
    assert runtime.items() <= everything.items()
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    wanted = needed(project["dependencies"] + project["optional-dependencies"]["encoders"])
    of_cuda = re.compile(r"nvidia-|cuda-|triton$")
    wanted = {name for name in wanted if not of_cuda.match(name)} | {"setuptools"}
    lacking = [f"{name}=={everything.get(name)}" for name in sorted(wanted - runtime.keys())]
    assert (lacking, sorted(runtime.keys() - wanted)) == ([], []), "make lock: (lacking, too many)"


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-runtime.lock"])
def test_the_lock_belongs_to_no_machine(repository: Path, lock: str) -> None:
    text = (repository / lock).read_text()
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
