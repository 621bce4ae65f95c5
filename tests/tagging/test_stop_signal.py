"""Signals and deadlines: chunks in hand end, whole parts are committed, a rerun does the rest."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashtag_core import storage
from hashtag_core.config import Recipe
from hashtag_core.distributed import tag_actors
from hashtag_core.errors import ConfigError, NotFoundError
from hashtag_core.tagging.actor_pool import ActorPool
from hashtag_core.tagging.stop_signal import StoppedError, StopSignal, parse_deadline
from hashtag_core.tagging.tag_chunks import ChunkTagger
from hashtag_core.tagging.task import Task, Work
from jobs.tag import main
from tests.tagging.outputs import plan_for, run

RECIPE = Recipe.model_validate({"tagging": {"chunk_rows": 4, "chunks_per_task": 3, "actors": 1}})


def ids(out: Path | str) -> list[str]:
    """By the glob, where it can be listed."""
    found = []
    try:
        files = storage.list_files(str(out), ".parquet")
    except NotFoundError:
        return []
    for info in files:
        with storage.open_input(info.uri) as source:
            found += pq.read_table(source, columns=["post_id"])["post_id"].to_pylist()
    return sorted(found)


@pytest.fixture
def archive(tmp_path: Path, make_posts: Callable, write_archive: Callable) -> Path:
    """Three parts of 12 posts, three chunks each."""
    return write_archive(tmp_path / "archive", make_posts(36), parts=3)


@pytest.fixture
def at_chunk(inline: None, monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[Work], None]], None]:
    """`at_chunk(4, act)`: `act(work)` is called when so many chunks were reported; the tasks run in this process."""

    def prepare(number: int, act: Callable[[Work], None]) -> None:
        def run_tasks(tasks: Sequence[Task], work: Work, actors: ActorPool) -> Iterator[dict[str, Any]]:
            tagger = ChunkTagger(work)
            for task in tasks:
                for outcome in tagger.run(task):
                    nonlocal number
                    number -= 1
                    if number == 0:
                        act(work)
                    yield outcome

        monkeypatch.setattr(tag_actors, "run_tasks", run_tasks)

    return prepare


def send(number: int) -> Callable[[Work], None]:
    def act(work: Work) -> None:
        os.kill(os.getpid(), number)
        _wait_for(work)

    return act


def _wait_for(work: Work) -> None:
    assert work.stop is not None
    until = time.monotonic() + 10
    while not storage.exists(work.stop):
        assert time.monotonic() < until
        time.sleep(0.005)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_between_two_chunks(
    at_chunk: Callable, archive: Path, popularity: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "out"
    before = signal.getsignal(number)
    at_chunk(5, send(number))
    with pytest.raises(StoppedError, match=rf"^stopped for {number.name}: 1 part\(s\) are committed, 16 row") as caught:
        run(archive, out, popularity, RECIPE)
    assert caught.value.exit_code == 1
    assert caught.value.summary["tagged"] == 12  # type: ignore[attr-defined]
    assert signal.getsignal(number) == before
    (state,) = (out / "_state").glob("model=*/version=*")
    assert not (state / "lease.json").exists()
    assert not (state / "stop.json").exists()
    assert len(list(state.glob("chunks/*/*.parquet"))) == 2, "chunks of the part in hand wait for the next run"
    (record,) = [json.loads(path.read_text()) for path in (out / "_state" / "runs").iterdir()]
    assert (record["status"], record["tagged"], record["failures"]) == ("stopped", 12, [])
    at_chunk(99, send(number))
    assert run(archive, out, popularity, RECIPE).parts == 2
    assert len(ids(out)) == len(set(ids(out))) == 36


def test_a_second_ctrl_c_ends_it_at_once(at_chunk: Callable, archive: Path, popularity: Path, tmp_path: Path) -> None:
    def act(work: Work) -> None:
        send(signal.SIGINT)(work)
        os.kill(os.getpid(), signal.SIGINT)

    at_chunk(1, act)
    with pytest.raises(KeyboardInterrupt):
        run(archive, tmp_path / "out", popularity, RECIPE)
    assert not list((tmp_path / "out").rglob("lease.json"))
    assert not list((tmp_path / "out").rglob("stop.json"))


def test_no_chunk_begins_after_the_deadline(
    at_chunk: Callable, archive: Path, popularity: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    at_chunk(4, _wait_for)
    flags = ["--archive", str(archive), "--out", str(out), "--model", str(popularity), "--chunk-rows", "4"]
    assert main([*flags, "--deadline", "0.1"]) == 1
    told = capfd.readouterr()
    assert json.loads(told.out)["tagged"] == 12
    (line,) = [line for line in told.err.splitlines() if line.startswith("tag: ")]
    assert line.endswith(
        "stopped for its deadline: 1 part(s) are committed, 20 row(s) of 2 part(s) are left; run again to go on"
    )
    assert main(flags) == 0
    assert len(ids(out)) == 36
    assert main([*flags, "--deadline", "yesterday"]) == 2


def test_an_order_after_the_last_chunk_changes_nothing(
    at_chunk: Callable, archive: Path, popularity: Path, tmp_path: Path
) -> None:
    at_chunk(9, send(signal.SIGTERM))
    assert run(archive, tmp_path / "out", popularity, RECIPE).parts == 3
    assert plan_for(archive, tmp_path / "out", popularity, RECIPE).is_done


def test_a_stopped_task_reports_every_chunk_at_its_place(
    at_chunk: Callable, archive: Path, popularity: Path, tmp_path: Path
) -> None:
    at_chunk(1, _stopped_task(tmp_path))
    with pytest.raises(StoppedError):
        run(archive, tmp_path / "out", popularity, RECIPE)


def _stopped_task(tmp_path: Path) -> Callable[[Work], None]:
    def act(work: Work) -> None:
        part = plan_for(work.archive, tmp_path / "out", work.model_folder, RECIPE).works[0]
        send(signal.SIGTERM)(work)
        outcomes = list(
            ChunkTagger(work).run(Task("key", part.path, part.file.uri, part.record.etag, part.chunks(4), []))
        )
        assert [(item["chunk"], item["stopped"], item["error"], item["tagged"]) for item in outcomes] == [
            (number, True, None, 0) for number in range(3)
        ]

    return act


def test_what_stopped_a_killed_run_does_not_stop_the_next(tmp_path: Path) -> None:
    stop = str(tmp_path / "stop.json")
    storage.write_json(stop, {"reason": "SIGTERM"})
    with StopSignal(stop) as signal_:
        assert not storage.exists(stop)
        assert signal_.reason is None


@given(minutes=st.integers(0, 59), hours=st.integers(0, 23), second=st.integers(0, 10**8))
def test_a_clock_time_is_the_next_one(minutes: int, hours: int, second: int) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=second)
    found = parse_deadline(f"{hours:02d}:{minutes:02d}", now)
    assert timedelta(0) < found - now <= timedelta(days=1, hours=1)
    assert (found.astimezone().hour, found.astimezone().minute) == (hours, minutes)


def test_deadlines() -> None:
    now = datetime(2026, 1, 31, 22, 30, tzinfo=UTC)
    assert parse_deadline("90", now) == datetime(2026, 2, 1, 0, 0, tzinfo=UTC)
    assert parse_deadline("0.5", now) - now == timedelta(seconds=30)
    assert parse_deadline("2026-02-01T06:00+02:00", now) == datetime(2026, 2, 1, 4, 0, tzinfo=UTC)
    for wrong in ("soon", "25:00", "-3", "2026-13-01"):
        with pytest.raises(ConfigError, match="expected minutes, HH:MM"):
            parse_deadline(wrong, now)
    with pytest.raises(ConfigError, match="has passed"):
        parse_deadline("2026-01-31T22:00+00:00", now)
