"""The console command: it reaches every job, and nothing heavy is imported for a help text."""

import argparse
import ast
import logging
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from hashtag_core.errors import NotFoundError, UsageError
from jobs import cli
from jobs.common import JobParser, as_called, run

HEAVY = (
    "ray",
    "torch",
    "mlflow",
    "transformers",
    "pandas",
    "matplotlib",
    "scipy",
    "duckdb",
    "onnxruntime",
    "sklearn",
    "deltalake",
)
"""Each of them costs a tenth of a second at least; together they are five seconds."""


def test_every_command_is_a_job_with_a_main(repository: Path) -> None:
    jobs = {path.stem for path in (repository / "jobs").glob("*.py") if "\nif __name__" in path.read_text()} - {"cli"}
    assert set(cli.COMMANDS) == jobs
    scripts = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"hashtags": "jobs.cli:main"}


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in cli.COMMANDS)
    assert max(map(len, out.splitlines())) <= 80


def test_without_a_command_the_help_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: hashtags")


def test_the_version_is_told_with_those_that_decide_most(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("hashtags ")
    assert f"ray {metadata.version('ray')}" in line
    assert f"deltalake {metadata.version('deltalake')}" in line


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["--date-format", "%d.%m.%Y", "%H:%M"],
            "unknown argument '%H:%M': a value with a blank in it stands in quotes",
        ),
        (["--date-formt", "x"], "unknown argument '--date-formt' (did you mean '--date-format'?)"),
    ],
)
def test_what_a_blank_cut_off_is_told_as_that(words: list[str], told: str) -> None:
    parser = JobParser(prog="x")
    parser.add_argument("--date-format")
    with pytest.raises(UsageError) as caught:
        parser.parse_args(words)
    assert told in str(caught.value)


def test_an_unknown_command_offers_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["recomend"]) == 2
    assert capsys.readouterr().err == (
        "hashtags: no command 'recomend' (did you mean 'recommend'?) (see hashtags --help)\n"
    )


def test_exit_codes_and_arguments_pass_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "--dataset", "nowhere", "--bogus"]) == 2
    assert "--bogus" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("program", "told", "usage"),
    [
        ("/usr/bin/hashtags", "`hashtags prepare` first, then hashtags demo; hashtags tag verify", "hashtags prepare"),
        (
            "jobs/train.py",
            "`python jobs/prepare.py` first, then make demo; .venv/bin/python jobs/tag.py verify",
            "prepare",
        ),
    ],
)
def test_jobs_are_named_as_they_are_called(
    program: str, told: str, usage: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    message = "`python jobs/prepare.py` first, then make demo; .venv/bin/python jobs/tag.py verify"

    def work(_: argparse.Namespace) -> str:
        logging.getLogger("hashtag_core.jobs").info(message)
        raise NotFoundError(message)

    monkeypatch.setattr(sys, "argv", [program])
    assert run(JobParser(prog="train"), work, []) == 2
    lines = capfd.readouterr().err.splitlines()
    assert lines[0].endswith(f" INFO {told}")
    assert lines[1] == f"train: {told}"
    parser = JobParser(prog="prepare", description="python jobs/prepare.py --archive URI")
    assert parser.format_help().startswith(f"usage: {usage} ")
    assert ("hashtags prepare --archive" in parser.format_help()) == (usage != "prepare")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_imports_nothing_heavy(name: str, repository: Path) -> None:
    code = (
        "import sys\nfrom jobs import cli\n"
        f"try: cli.main([{name!r}, '--help'])\nexcept SystemExit: pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("usage: ")
    assert ast.literal_eval(done.stderr) == []


def test_the_package_lists_what_it_offers_before_its_first_use(repository: Path) -> None:
    code = "import sys, hashtag_core; print('Recommender' in dir(hashtag_core), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)
    assert done.stdout == "True False\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("see .venv/bin/python jobs/train.py --resume X", "see hashtags train --resume X"),
        ("jobs/tag.py: run again", "hashtags tag: run again"),
        ("/data/jobs/foo.py: not found", "/data/jobs/foo.py: not found"),
        ("s3://bucket/my-jobs/foo.py", "s3://bucket/my-jobs/foo.py"),
    ],
)
def test_jobs_are_named_as_they_were_called_and_a_persons_own_files_are_not(
    text: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/bin/hashtags"])
    assert as_called(text) == told
    monkeypatch.setattr("sys.argv", ["jobs/train.py"])
    assert as_called(text) == text
