"""Three days of an archive that grows, each night called twice: what is done, and what is not done again."""

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pytest
import yaml

from hashtag_core.errors import ConfigError, GateRefused, HashtagError
from hashtag_core.tracking.registry import champion, list_versions
from jobs import nightly

NAME = "hashtag-recommender"


def posts(first: int, count: int) -> list[dict[str, Any]]:
    """Users who keep to two tags of their own; no pictures, no captions."""
    rng = np.random.default_rng(first)
    return [
        {
            "post_id": f"p{n:05d}",
            "user_id": f"u{n % 40}",
            "created_at": 1_600_000_000_000_000 + n * 60_000_000,
            "hashtags": [
                f"topic{n % 40 % 16}",
                f"topic{(n % 40 * 7 + 3) % 16}",
                *(["common"] if rng.random() < 0.5 else []),
            ],
        }
        for n in range(first, first + count)
    ]


@pytest.fixture
def jobs_here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Jobs run in this process, on the Ray of the session, in place of processes of their own; their names."""
    called: list[str] = []

    class Done:
        def __init__(self, code: int, summary: object) -> None:
            self.returncode, self.stdout = code, json.dumps(summary)

    process = subprocess.run

    def run(command: list[str], **how: Any) -> Any:
        if command[0] != sys.executable:
            return process(command, **how)  # git, which a run asks for the commit
        name = Path(command[1]).stem
        called.append(name)
        module = importlib.import_module(f"jobs.{name}")
        try:
            return Done(0, getattr(module, f"_{name}")(module.build_parser().parse_args(command[2:])))
        except HashtagError as error:
            return Done(error.exit_code, getattr(error, "summary", None))

    monkeypatch.setattr(nightly.subprocess, "run", run)
    return called


@pytest.fixture
def night(tmp_path: Path, mlflow_store: Path, jobs_here: list[str]) -> Callable[..., tuple[dict[str, Any], list[str]]]:
    """`night("2026-01-01")`: what that night tells, and which jobs it called."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        '[model]\nfamily = "user_frequency"\n[vocabulary]\nmin_count = 2\n[split]\nkind = "random"\ntest = 0.3\n'
        f'[training]\nstorage = "{tmp_path / "runs"}"\n[evaluation]\nbootstrap_samples = 10\n'
        "[gates]\nspeed_posts = 8\n[tagging]\nactors = 1\n"
    )

    def go(day: str, *more: str) -> tuple[dict[str, Any], list[str]]:
        jobs_here.clear()
        command = [
            "--archive",
            str(tmp_path / "archive"),
            "--dataset",
            str(tmp_path / "data"),
            "--out",
            str(tmp_path / "out"),
        ]
        parsed = nightly.build_parser().parse_args([*command, "--recipe", str(recipe), "--date", day, *more])
        return nightly._nightly(parsed), list(jobs_here)

    return go


@pytest.mark.slow
def test_three_days_twice(
    night: Callable[..., tuple[dict[str, Any], list[str]]],
    ray_session: None,
    tmp_path: Path,
    write_part: Callable[..., Path],
) -> None:
    archive = tmp_path / "archive"
    write_part(archive / "day-1.parquet", posts(0, 400))
    told, called = night("2026-01-01", "--dry-run")
    assert (called, told["training_is_due"], told["champion"]) == ([], True, None)

    told, called = night("2026-01-01")
    assert called == ["prepare", "train", "promote", "tag"]
    assert (told["trained"], told["gates"]["promoted"]) == (f"models:/{NAME}/1", True)
    assert (told["tagged"]["tagged"], told["champion"]) == (400, f"models:/{NAME}/1")
    told, called = night("2026-01-01")
    assert (called, told["tagged"]["tagged"], told["trained"], told["gates"]) == (["tag"], 0, None, None)

    write_part(archive / "day-2.parquet", posts(400, 60))
    told, called = night("2026-01-02")
    assert (called, told["tagged"]["tagged"]) == (["tag"], 60)
    assert told["drift"] is not None
    assert night("2026-01-02")[0]["tagged"]["tagged"] == 0

    write_part(archive / "day-8.parquet", posts(460, 60))
    told, called = night("2026-01-08")
    assert called == ["tag", "prepare", "train", "promote"]
    assert told["tagged"]["tagged"] == 60
    assert (told["trained"], told["gates"]["promoted"], told["gates"]["refused_by"]) == (
        f"models:/{NAME}/2",
        False,
        ["gain"],
    )
    assert champion(NAME) == "1"  # the same family on a few more posts is no better beyond chance
    told, called = night("2026-01-08")
    assert (called, told["champion"]) == (["tag"], f"models:/{NAME}/1")

    assert [tags["gates"] for _, tags in list_versions(NAME)] == ["passed", "refused"]
    parts = list((tmp_path / "out").glob("model=*/version=*/**/part-*.parquet"))
    ids = ds.dataset(parts).to_table(columns=["post_id"])["post_id"].to_pylist()
    assert sorted(ids) == [f"p{n:05d}" for n in range(520)]


def test_a_night_that_breaks_off_goes_on_where_it_was(
    night: Callable[..., tuple[dict[str, Any], list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], **_: object) -> Any:
        called.append(Path(command[1]).stem)
        return type("Done", (), {"returncode": 1, "stdout": ""})()

    called: list[str] = []
    monkeypatch.setattr(nightly.subprocess, "run", run)
    with pytest.raises(HashtagError, match="prepare ended with exit code 1"):
        night("2026-01-01")
    assert called == ["prepare"]
    versions = [("1", {"dataset": ""})]
    monkeypatch.setattr(nightly, "list_versions", lambda name: versions)
    parsed = "--dataset", "data"
    root = nightly._absolute(parsed[1])
    versions[:] = [("1", {"dataset": f"{root}/2026-01-01", "gates": "refused", "gates.run": "abc"})]
    with pytest.raises(GateRefused, match=r"no champion, and models:/hashtag-recommender/1 was refused: abc"):
        nightly._judge(nightly.build_parser().parse_args(["--archive", "a", *parsed, "--out", "o"]), NAME)


def test_wrong_flags(night: Callable[..., tuple[dict[str, Any], list[str]]]) -> None:
    for day, more in (("today", ()), ("2026-01-01", ("--retrain-days", "0"))):
        with pytest.raises(HashtagError, match="expected") as caught:
            night(day, *more)
        assert caught.value.exit_code == ConfigError.exit_code


def test_the_mlflow_project_calls_it_as_it_wants_to_be_called(repository: Path) -> None:
    project = yaml.safe_load((repository / "mlflow_project" / "MLproject").read_text())
    entry = project["entry_points"]["nightly"]
    values = {name: held.get("default", name) for name, held in entry["parameters"].items()}
    program, script, *flags = entry["command"].format(**values).split()
    assert (program, script) == ("python", "../jobs/nightly.py")
    parsed = nightly.build_parser().parse_args(flags)
    assert (parsed.archive, parsed.dataset, parsed.out) == ("archive", "dataset", "out")
    assert (repository / "mlflow_project" / parsed.recipe).exists()
