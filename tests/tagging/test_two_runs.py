"""Two runs on one output, one of them paused at each of its writes in turn, woken after the other finished; and kills there."""

import shutil
from pathlib import Path

import pytest

from hashtag_core.errors import HashtagError
from hashtag_core.output import lease
from hashtag_core.output.verify import verify_output
from tests.tagging.outputs import content, rejected, rows_by_glob, run
from tests.tagging.pausing import PausedRun, Writes, killed_before
from tests.tagging.test_nights import part


def first_night(archive: Path) -> None:
    part(archive / "a.parquet", [str(n) for n in range(12)])
    part(archive / "b.parquet", ["20", "21", "22"])
    part(archive / "c.parquet", ["30", "31"])


def second_night(archive: Path) -> None:
    """A renamed part, a new one that takes a post, a changed one, one that is gone."""
    (archive / "b.parquet").rename(archive / "renamed.parquet")
    part(archive / "new.parquet", ["11", "40", "41"], day=3)
    part(archive / "a.parquet", [str(n) for n in range(10)] + ["11", "50"], day=2, caption="changed")
    (archive / "c.parquet").unlink()


def told(out: Path) -> tuple[object, object]:
    """The table, checked against the glob, and the rejected rows."""
    rows = content(out)
    assert [row[0] for row in rows] == [row["post_id"] for row in rows_by_glob(out)]
    return rows, [(line["part"], line["row"], line["post_id"], line["reason"]) for line in rejected(out)]


@pytest.fixture
def nights(tmp_path: Path, popularity: Path, inline: None) -> tuple[Path, Path, object]:
    """The archive of the second night, the output of the first, and what an undisturbed run makes of them."""
    archive, out = tmp_path / "archive", tmp_path / "first"
    first_night(archive)
    run(archive, out, popularity)
    second_night(archive)
    shutil.copytree(out, tmp_path / "undisturbed")
    run(archive, tmp_path / "undisturbed", popularity)
    return archive, out, told(tmp_path / "undisturbed")


def test_a_run_paused_at_any_write_changes_nothing_after_it_woke(
    nights: tuple[Path, Path, object], popularity: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, first, expected = nights
    monkeypatch.setattr(lease.Lease.__init__, "__kwdefaults__", {"ttl_s": 0.05})
    monkeypatch.setattr(lease, "_is_dead", lambda content: False)
    monkeypatch.setattr(lease, "_process", lambda content: None)
    writes = Writes(monkeypatch)
    number, fenced = 0, 0
    while True:
        number += 1
        out = tmp_path / f"out-{number}"
        shutil.copytree(first, out)
        paused = PausedRun(writes, lambda out=out: run(archive, out, popularity), number)
        if not paused.start():
            assert paused.error is None
            break
        run(archive, out, popularity)
        assert told(out) == expected, number
        paused.wake()
        assert told(out) == expected, number
        assert paused.error is None or isinstance(paused.error, HashtagError), number
        fenced += paused.error is not None
        run(archive, out, popularity)
        assert told(out) == expected, number
        shutil.rmtree(out)
    assert number > 20
    assert fenced > 10


def test_a_run_killed_at_any_write_is_taken_up(
    nights: tuple[Path, Path, object], popularity: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, first, expected = nights
    monkeypatch.setattr(lease, "_is_dead", lambda content: True)
    writes = Writes(monkeypatch)
    number = 0
    killed = True
    while killed:
        number += 1
        out = tmp_path / f"out-{number}"
        shutil.copytree(first, out)
        killed = killed_before(writes, number, lambda archive=archive, out=out: run(archive, out, popularity))
        run(archive, out, popularity)
        assert told(out) == expected, number
        shutil.rmtree(out)
    assert number > 20


@pytest.mark.parametrize("change", ["renamed", "deleted"])
def test_a_part_that_changes_its_name_after_the_kill(
    change: str,
    nights: tuple[Path, Path, object],
    popularity: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The rows of a part that the killed run committed, and of which it has no record, are not tagged twice and not lost."""
    whole, first, _ = nights
    monkeypatch.setattr(lease, "_is_dead", lambda content: True)
    writes = Writes(monkeypatch)
    number, killed = 0, True
    while killed:
        number += 1
        out, archive = tmp_path / f"out-{number}", tmp_path / "archive"
        shutil.copytree(first, out)
        stays = tmp_path / f"stays-{number}"
        shutil.copytree(whole, stays)
        killed = killed_before(writes, number, lambda archive=archive, out=out: run(archive, out, popularity))
        new = archive / "new.parquet"
        new.rename(archive / "named-anew.parquet") if change == "renamed" else new.unlink()
        run(archive, out, popularity)
        rows = rows_by_glob(out)
        ids = [row["post_id"] for row in rows]
        assert len(set(ids)) == len(ids), number
        there = {str(n) for n in range(10)} | {"11"} | {"20", "21", "22", "30", "31", "50"}
        assert there | ({"40", "41"} if change == "renamed" else set()) <= set(ids), number
        assert verify_output(str(out), str(archive)).problems == [], number
        assert run(archive, out, popularity).parts == 0, number
        shutil.rmtree(out)
        shutil.rmtree(archive)
        stays.rename(archive)
    assert number > 20
