"""What a job tells on stderr: JSON lines, and how far a pass over posts is."""

import io
import json
import logging
import sys

import pytest

from hashtag_core.errors import ConfigError
from hashtag_core.progress_bar import ProgressBar
from jobs.common import JobParser, add_common_arguments, run


def parser() -> JobParser:
    made = JobParser(prog="work")
    add_common_arguments(made)
    return made


@pytest.mark.parametrize("flags", [["--log-format", "json"], ["--log-format=json", "--verbose"]])
def test_every_line_is_an_object(flags: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    def work(arguments: object) -> dict[str, int]:
        logging.getLogger("hashtag_core.x").info("déjà %d", 1)
        raise ConfigError("key: expected\nfound")

    assert run(parser(), work, flags) == 2
    out, err = capfd.readouterr()
    assert out == ""
    told, failed = [json.loads(line) for line in err.splitlines()]
    assert (told["level"], told["logger"], told["message"]) == ("INFO", "hashtag_core.x", "déjà 1")
    assert told["time"].endswith("+00:00")
    assert (failed["level"], failed["message"]) == ("ERROR", "work: key: expected\\nfound")
    assert ("exception" in failed) == ("--verbose" in flags)


def test_a_bug_is_one_object_with_its_trace(capfd: pytest.CaptureFixture[str]) -> None:
    def work(arguments: object) -> dict[str, int]:
        return {"one": 1 // 0}

    assert run(parser(), work, ["--log-format", "json"]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert json.loads(line)["message"].startswith("work: ZeroDivisionError")
    assert "1 // 0" in json.loads(line)["exception"]


def test_without_a_terminal_progress_is_a_line_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), ProgressBar(1_000, "tagging", every_s=0) as progress:
        progress.add(240, 10)
        progress.every_s = 3_600
        progress.add(250)
    first, last = (record.getMessage() for record in caplog.records)
    assert first.startswith("tagging: 250 of 1000 posts (25 %), ")
    assert last.startswith("tagging: 500 of 1000 posts (50 %), ")
    assert all(text.endswith(" left, 10 rejected") for text in (first, last))


def test_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    with caplog.at_level(logging.INFO), ProgressBar(10, "tagging") as progress:
        progress.add(4, 1)
        told = str(progress._bar)
    assert "5/10" in told
    assert "rejected=1" in told
    assert not caplog.records


def test_a_short_pass_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), ProgressBar(2, "compacting", "part") as progress:
        progress.add()
        progress.add()
    assert not caplog.records


@pytest.mark.parametrize("flags", [[], ["--log-format", "json"], ["--verbose"]])
def test_no_line_is_forged_and_no_secret_told(flags: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    """Neither by a message, nor by an error, nor by the trace of what a library raised."""
    forged = "a\n2026-01-01 ERROR forged\u2028.parquet"
    secret = "http://alice:S3cret@127.0.0.1:9/api"

    def work(arguments: object) -> dict[str, int]:
        logging.getLogger("hashtag_core.x").warning("%s at %s", forged, secret)
        try:
            raise ValueError(f"request to {secret} failed")
        except ValueError as error:
            logging.getLogger("hashtag_core.x").exception("x")
            raise ConfigError(f"{forged}: {secret}") from error

    assert run(parser(), work, flags) == 2
    err = capfd.readouterr().err
    assert "S3cret" not in err
    assert err.count("alice:***@127.0.0.1:9") >= 3
    assert not [line for line in err.splitlines() if line.startswith("2026-01-01 ERROR forged")]

    def bug(arguments: object) -> dict[str, int]:
        raise RuntimeError(f"{forged} {secret}")

    assert run(parser(), bug, flags) == 1
    assert "S3cret" not in capfd.readouterr().err
