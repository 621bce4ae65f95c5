"""The contract of every job's command line: what is wrong ends with exit code 2, one line on stderr, and nothing else."""

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pytest

from hashtag_core.schema import POST

JOBS = ("prepare", "train", "evaluate", "promote", "tag", "leaderboard", "nightly", "recommend", "playground", "tune")

FLAGS = {
    "prepare": {"--archive": "{archive}", "--dataset": "{out}"},
    "train": {"--dataset": "{dataset}"},
    "evaluate": {"--dataset": "{dataset}", "--model": "{model}", "--report": "{out}"},
    "promote": {"--dataset": "{dataset}", "--challenger": "models:/no-such-model/1"},
    "tag": {"--archive": "{archive}", "--model": "{model}", "--out": "{out}"},
    "nightly": {"--archive": "{archive}", "--dataset": "{out}", "--out": "{out}"},
    "leaderboard": {"--archive": "{archive}", "--out": "{out}", "--families": "popularity"},
    "tune": {"--dataset": "{dataset}"},
    "recommend": {"--caption": "harbour", "--model": "{model}"},
    "playground": {"--model": "{model}"},
}
"""Flags that make a whole command; `{archive}` is a good one, `{dataset}` and `{model}` do not exist."""

PROMISED = {
    "prepare": {"--format", "--test-archive"},
    "train": {"--workers", "--resume"},
    "evaluate": {"--report", "--model"},
    "promote": {"--gates", "--rollback", "--force", "--explain"},
    "nightly": {"--date", "--retrain-days"},
    "tag": {"--top-k", "--chunk-rows"},
    "leaderboard": {"--name", "--split", "--recipes", "--pairs", "--learning-curve", "--publish"},
    "tune": {"--trials", "--at-once", "--out"},
    "recommend": {"--caption", "--user", "--model", "--top-k", "--explain", "--format", "--out"},
    "playground": {"--model", "--port"},
}


def job_of(name: str) -> ModuleType:
    return importlib.import_module(f"jobs.{name}")


class Refusal:
    """Runs commands that must be refused, in an empty working folder."""

    def __init__(self, folder: Path, archive: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.folder, self.archive, self.capfd = folder, archive, capfd

    def flags(self, name: str, **changed: Any) -> list[str]:
        places = {"archive": self.archive, "dataset": "no-dataset", "model": "no-model", "out": "out", **changed}
        return [part for flag, value in FLAGS[name].items() for part in (flag, value.format(**places))]

    def __call__(self, name: str, arguments: list[str]) -> str:
        """The one line on stderr, after the job's name."""
        before = snapshot(self.folder)
        self.capfd.readouterr()
        code = job_of(name).main(arguments)
        out, err = self.capfd.readouterr()
        assert code == 2, err
        assert out == ""
        assert err.count("\n") == 1, err
        assert snapshot(self.folder) == before, "something was written"
        return err.partition(": ")[2].strip()


def snapshot(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() if path.is_file() else b"" for path in sorted(folder.rglob("*"))}


@pytest.fixture
def refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    make_posts: Callable,
    write_archive: Callable,
) -> Refusal:
    archive = write_archive(tmp_path / "archive", make_posts(6))
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "RAY_ADDRESS", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(variable, raising=False)
    return Refusal(folder, archive, capfd)


@pytest.mark.parametrize("name", JOBS)
def test_help(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        job_of(name).main(["--help"])
    assert ended.value.code == 0
    out, err = capfd.readouterr()
    assert err == ""
    for flag in {*FLAGS[name], *PROMISED[name], "--recipe", "--set", "--dry-run", "--verbose"}:
        assert re.search(rf"(?<!\S){flag}\b", out), flag


@pytest.mark.parametrize("name", JOBS)
def test_unknown_flag_offers_the_nearest(name: str, refused: Refusal) -> None:
    assert "unknown argument '--recip' (did you mean '--recipe'?)" in refused(
        name, [*refused.flags(name), "--recip", "x.toml"]
    )


@pytest.mark.parametrize("name", JOBS)
def test_flag_without_its_value(name: str, refused: Refusal) -> None:
    assert "--recipe" in refused(name, [*refused.flags(name), "--recipe"])


@pytest.mark.parametrize("name", JOBS)
def test_misspelt_recipe_keys(name: str, refused: Refusal, tmp_path: Path) -> None:
    good = refused.flags(name)
    assert "did you mean 'training'" in refused(name, [*good, "--set", "trainig.epochs=3"])
    assert "did you mean 'epochs'" in refused(name, [*good, "--set", "training.epoch=3"])
    assert "expected section.field=value" in refused(name, [*good, "--set", "epochs"])
    assert "training.epochs" in refused(name, [*good, "--set", "training.epochs=many"])
    recipe = tmp_path / "misspelt.toml"
    recipe.write_text("[training]\nlerning_rate = 0.1\n")
    line = refused(name, [*good, "--recipe", str(recipe)])
    assert str(recipe) in line
    assert "did you mean 'learning_rate'" in line
    recipe.write_text("[training\n")
    assert "not a readable TOML file" in refused(name, [*good, "--recipe", str(recipe)])


@pytest.mark.parametrize("name", JOBS)
def test_missing_recipe(name: str, refused: Refusal) -> None:
    assert "no recipe at no-such.toml" in refused(name, [*refused.flags(name), "--recipe", "no-such.toml"])


@pytest.fixture
def model(make_model_folder: Callable[..., Path], tmp_path: Path) -> Path:
    return make_model_folder(tmp_path / "model", family="popularity")


@pytest.mark.parametrize("name", ["prepare", "tag", "leaderboard"])
@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["run", "dry-run"])
def test_missing_archive(name: str, dry: list[str], refused: Refusal, model: Path) -> None:
    assert "no-archive" in refused(name, [*refused.flags(name, archive="no-archive", model=model), *dry])


@pytest.mark.parametrize("name", ["train", "evaluate", "promote"])
@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["run", "dry-run"])
def test_missing_dataset(name: str, dry: list[str], refused: Refusal) -> None:
    assert "no-dataset" in refused(name, [*refused.flags(name), *dry])


@pytest.mark.parametrize("missing", ["no-model", "models:/no-such-model/1", "models:/no-such-model@champion"])
def test_missing_model(missing: str, refused: Refusal, mlflow_store: Path) -> None:
    assert missing.removeprefix("models:/").partition("/")[0].partition("@")[0] in refused(
        "tag", refused.flags("tag", model=missing)
    )


@pytest.mark.parametrize("name", ["prepare", "tag", "leaderboard"])
def test_archives_that_are_none(name: str, refused: Refusal, model: Path, write_part: Callable, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert str(empty) in refused(name, refused.flags(name, archive=empty, model=model))
    no_id = tmp_path / "no-id"
    schema = pa.schema([pa.field("caption", pa.string()), *list(POST)[1:3]])
    write_part(no_id / "part.parquet", [{"caption": "a post without an id"}], schema)
    assert "post_id" in refused(name, refused.flags(name, archive=no_id, model=model))


@pytest.mark.parametrize("name", JOBS)
def test_from_anywhere_without_an_installation(name: str, repository: Path, tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    flags = [part for flag, value in FLAGS[name].items() for part in (flag, value)]
    command = [sys.executable, repository / "jobs" / f"{name}.py", *flags, "--no-such-flag"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert re.fullmatch(rf"{name}(\.py)?: unknown argument '--no-such-flag'.*\n", done.stderr)
    assert list(tmp_path.iterdir()) == []
