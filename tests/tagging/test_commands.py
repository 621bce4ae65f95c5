"""jobs/tag.py is several commands: each by its name, `run` without one, and by the flags of before."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.tag import main
from tests.tagging.outputs import rows_by_glob


@pytest.fixture
def flags(inline: None, tmp_path: Path, popularity: Path, make_posts: Callable, write_part: Callable) -> list[str]:
    write_part(tmp_path / "archive" / "a.parquet", make_posts(6))
    write_part(tmp_path / "archive" / "b.parquet", make_posts(2, seed=1))
    return ["--archive", str(tmp_path / "archive"), "--out", str(tmp_path / "out"), "--model", str(popularity)]


def summary(capfd: pytest.CaptureFixture[str]) -> dict:
    return json.loads(capfd.readouterr().out.splitlines()[-1])


def test_run_is_the_command_that_need_not_be_named(flags: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main([*flags, "--dry-run"]) == 0
    told = summary(capfd)
    assert (told["dry_run"], told["posts"], told["parts"], told["estimated_seconds"]) == (True, 8, 2, None)
    assert main(["run", *flags]) == 0
    told = summary(capfd)
    assert (told["posts"], told["tagged"], told["parts"], told["skipped_parts"]) == (8, 8, 2, 0)
    assert main(flags) == 0
    told = summary(capfd)
    assert (told["posts"], told["parts"], told["skipped_parts"]) == (0, 0, 2)


def test_parts_that_are_gone(flags: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(flags) == 0
    (tmp_path / "archive" / "a.parquet").unlink()
    assert main(flags) == 0
    assert (summary(capfd)["gone_parts"], len(rows_by_glob(tmp_path / "out"))) == (1, 8)
    assert main([*flags, "--drop-gone"]) == 3
    assert "6 of 8 tagged posts (75%) are no longer in the archive" in capfd.readouterr().err
    assert main([*flags, "--drop-gone", "--max-gone", "0.8"]) == 0
    assert (summary(capfd)["dropped_posts"], len(rows_by_glob(tmp_path / "out"))) == (6, 2)


def test_by_day_and_history(flags: list[str], tmp_path: Path, make_posts: Callable, write_part: Callable) -> None:
    assert main([*flags, "--by-day"]) == 0
    before = set((tmp_path / "out").glob("model=*/version=*/day=2020-09-13/part-*.parquet"))
    assert len(before) == 2
    write_part(tmp_path / "archive" / "a.parquet", make_posts(5))
    assert main([*flags, "--keep-history", "24"]) == 0
    assert before < set((tmp_path / "out").glob("model=*/version=*/day=2020-09-13/part-*.parquet"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--compact", "--out", "x"], "--compact: there is nothing to merge any more"),
        (["--target-mb=3", "--out", "x"], "--target-mb: there is nothing to merge any more"),
        (["--verify", "--forget", "x", "--out", "x"], "exclude each other"),
        (["forget", "--out", "x"], "--users or --posts is missing"),
        (["verify", "--retag"], "unknown argument '--retag'"),
        (["--max-gone", "1.5"], "--max-gone 1.5: expected a share from 0 to 1"),
        (["--keep-history", "-1"], "--keep-history -1: expected hours"),
        (["--keep-history", "nan"], "--keep-history nan: expected hours"),
        (["--archive", "x"], "--archive needs --out"),
        (["verfiy", "--out", "x"], "unknown command 'verfiy' (did you mean 'verify'?)"),
    ],
)
def test_what_is_wrong_ends_with_2(given: list[str], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(given) == 2
    printed = capfd.readouterr()
    assert message in printed.err
    assert printed.out == ""


@pytest.mark.parametrize("command", [[], ["run"], ["verify"], ["forget"], ["migrate"]])
def test_each_command_has_its_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert "--out" in told
    assert ("--model MODEL" in told) == (command in ([], ["run"]))
