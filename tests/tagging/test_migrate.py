"""Outputs of the layout before the table are taken over: the same rows, nothing tagged again, killed at any step."""

import hashlib
import json
import shutil
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hashtag_core import storage
from hashtag_core.errors import ConfigError
from hashtag_core.output.forget_users.delete import forget
from hashtag_core.output.forget_users.forget_list import ForgetList
from hashtag_core.output.migrate import migrate
from hashtag_core.output.records import vectors_name
from hashtag_core.output.verify import verify_output
from hashtag_core.schema import TAGGED
from jobs.tag import main
from tests.tagging.outputs import output_of, rejected, rows_by_glob, rows_by_table, run
from tests.tagging.stopping import stop_after

ROWS_OF_A_CHUNK = 4
PROVENANCE = (
    "post_id",
    "hashtags",
    "scores",
    "status",
    "part",
    "part_row",
    "part_version",
    "created_at",
    "content",
    "user_key",
)


def as_old(new: Path, old: Path, *, by_day: bool = False) -> None:
    """Write what an output holds in the layout of before: files of TAGGED by part, JSON lines, manifests, settings."""
    for output in output_of(new):
        layout, records = output.layout, output.records
        state = old / "_state" / layout.partition
        rows = [
            row
            for row in rows_by_table(new)
            if (row["model_name"], row["model_version"]) == (layout.model_name, layout.model_version)
        ]
        lines = [
            line
            for line in rejected(new)
            if (line["model"], line["version"]) == (layout.model_name, layout.model_version)
        ]
        for path, record in records.parts.items():
            part_id = hashlib.sha256(f"{path}{layout.partition}".encode()).hexdigest()[:16]
            mine = sorted((row for row in rows if row["part"] == path), key=lambda row: row["part_row"])
            pieces = [
                (f"{n:05d}", "", mine[at : at + ROWS_OF_A_CHUNK])
                for n, at in enumerate(range(0, len(mine), ROWS_OF_A_CHUNK))
            ]
            if by_day:
                days = sorted(mine, key=lambda row: str(row["created_at"])[:10])
                pieces = [
                    (f"{n:05d}", f"/day={day}", list(held))
                    for n, (day, held) in enumerate(groupby(days, key=lambda row: str(row["created_at"])[:10]))
                ]
            files = [
                _data_file(old, f"{layout.partition}/{path}{day}/part-{part_id}-{n}.parquet", piece)
                for n, day, piece in pieces
            ]
            told = [
                {"part": path, "row": row, "post_id": line["post_id"], "reason": line["reason"]}
                for line in lines
                if line["part"] == path
                for row in ([None] if line["row"] is None else range(line["row"], line["row"] + line["rows"]))
            ]
            name = f"_rejected/run-{part_id}.jsonl" if told else None
            if name:
                (old / "_rejected").mkdir(parents=True, exist_ok=True)
                (old / name).write_text("".join(json.dumps(line) + "\n" for line in told))
            manifest = {
                "format": 1, "part": path, "etag": record.etag, "id": part_id, "run": "r", "model_name": layout.model_name,
                "model_version": layout.model_version, "model_hash": "", "rows": record.rows, "tagged": record.tagged,
                "rejected": record.rejected, "unread": 0 if record.rows else 1, "forgotten": 0, "rejected_file": name, "files": files,
            }  # fmt: skip
            _json(state / "manifests" / path / f"{part_id}.json", manifest)
        assert records.settings is not None
        _json(state / "settings.json", records.settings.model_dump() | {"format": 1})
        _json(state / "encoders.json", {})
        _json(state / "_SUCCESS", {"plan": "p", "parts": len(records.parts)})
        parts = [
            {"path": path, "etag": record.etag, "content": f"content-{record.number}"}
            for path, record in records.parts.items()
        ]
        _json(state / "plans" / "p.json", {"id": "p", "parts": parts})
        for stray in (
            state / "chunks" / "c" / "00000.parquet",
            old / layout.partition / "gone.parquet" / "part-x-00000.parquet",
        ):
            stray.parent.mkdir(parents=True)
            pq.write_table(TAGGED.empty_table(), stray)
    shutil.copy(
        new / "_state" / "forgotten.json", old / "_state" / "forgotten.json"
    )  # the same salt, for equal user keys
    (old / "_rejected").mkdir(exist_ok=True)
    (old / "_rejected" / "older.jsonl").write_text("{}\n")


def _data_file(old: Path, path: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    (old / path).parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist([{name: row[name] for name in TAGGED.names} for row in rows], schema=TAGGED)
    pq.write_table(table, old / path)
    content = (old / path).read_bytes()
    return {"path": path, "rows": len(rows), "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def told(out: Path) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in PROVENANCE) for row in rows_by_table(out)]


@pytest.fixture
def archive(tmp_path: Path, make_posts: Callable, write_part: Callable) -> Path:
    """Three parts: rows that are none, an id that two parts have, a part that is none at all."""
    folder = tmp_path / "archive"
    first, second = make_posts(10), make_posts(9, seed=1)
    write_part(folder / "a.parquet", [*first, {"post_id": ""}, {**second[5], "created_at": 1}])
    write_part(folder / "nested" / "b.parquet", second)
    (folder / "c.parquet").write_bytes(b"no parquet")
    return folder


@pytest.fixture
def new(inline: None, archive: Path, popularity: Path, tmp_path: Path) -> Path:
    run(archive, tmp_path / "new", popularity)
    return tmp_path / "new"


@pytest.mark.parametrize("by_day", [False, True])
def test_an_old_output_becomes_the_table_that_a_run_would_have_made(
    new: Path, archive: Path, popularity: Path, tmp_path: Path, *, by_day: bool
) -> None:
    old = tmp_path / "old"
    as_old(new, old, by_day=by_day)
    with pytest.raises(ConfigError, match=r"take it over once with `jobs/tag.py migrate"):
        run(archive, old, popularity)
    found = migrate(str(old))
    assert (found.models, found.parts, found.tagged, found.rejected, found.without_archive) == (1, 3, 19, 3, 0)
    assert told(old) == told(new)
    assert [line["post_id"] for line in rejected(old)] == [line["post_id"] for line in rejected(new)]
    assert [row["post_id"] for row in rows_by_glob(old)] == [row["post_id"] for row in rows_by_glob(new)]
    assert output_of(old)[0].has_days is by_day
    assert verify_output(str(old), str(archive)).problems == []
    assert not [
        path for path in old.rglob("*") if path.is_file() and ("manifests" in path.parts or path.suffix == ".jsonl")
    ]
    assert list(old.glob("_state/*/*/encoders-*-first.json"))
    summary = run(archive, old, popularity)
    assert (summary.parts, summary.skipped_parts) == (0, 3)


def test_what_follows_is_as_if_it_had_been_a_table_from_the_start(
    new: Path, archive: Path, popularity: Path, tmp_path: Path
) -> None:
    """A renamed part costs a commit, and users can be forgotten: content and users were looked up in the archive."""
    old = tmp_path / "old"
    as_old(new, old)
    migrate(str(old))
    (archive / "a.parquet").rename(archive / "z.parquet")
    summary = run(archive, old, popularity)
    assert (summary.tagged, summary.kept) == (0, 10)
    found = forget(str(old), {"user-1"})
    assert (found.tagged, found.remaining, found.unknown) == (5, 0, 0)


def test_parts_that_the_archive_lost_are_taken_over_without_what_it_knew(
    new: Path, archive: Path, popularity: Path, tmp_path: Path
) -> None:
    old = tmp_path / "old"
    as_old(new, old)
    (archive / "a.parquet").rename(tmp_path / "a.parquet")
    found = migrate(str(old))
    assert (found.tagged, found.without_archive) == (19, 1)
    rows = {row["post_id"]: row for row in rows_by_table(old)}
    assert {
        (row["content"] is None, row["user_key"] is None) for row in rows.values() if row["part"] == "a.parquet"
    } == {(True, True)}
    assert verify_output(str(old)).problems == []
    assert main(["--forget", str(_file(tmp_path, "user-1")), "--out", str(old)]) == 1, (
        "of 10 posts nobody knows whose they are"
    )
    (archive / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes())
    run(archive, old, popularity)
    assert main(["--forget", str(_file(tmp_path, "user-1")), "--out", str(old)]) == 0


def _file(folder: Path, name: str) -> Path:
    (folder / "users.txt").write_text(name)
    return folder / "users.txt"


def test_stopped_at_any_step_the_same_command_finishes(
    new: Path, archive: Path, popularity: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, expected = tmp_path / "old", told(new)
    steps, stopped = 0, True
    while stopped:
        as_old(new, old)
        stopped = False
        with monkeypatch.context() as patch:
            stop_after(patch, steps)
            try:
                migrate(str(old))
            except KeyboardInterrupt:
                stopped = True
        if stopped and list(old.glob("_state/model=*/*/manifests/**/*.json")):
            with pytest.raises(ConfigError):
                run(archive, old, popularity)
            migrate(str(old))
        assert told(old) == expected
        assert verify_output(str(old), str(archive)).problems == []
        shutil.rmtree(old)
        steps += 3  # of all steps a third, for the time it takes
    assert steps > 20


def test_a_model_that_reads_histories_is_not_tagged_again(
    inline: None, archive: Path, tmp_path: Path, make_model_folder: Callable, make_posts: Callable, write_part: Callable
) -> None:
    model, first, old = (
        make_model_folder(tmp_path / "frequency", family="user_frequency"),
        tmp_path / "first",
        tmp_path / "old",
    )
    run(archive, first, model)
    as_old(first, old)
    migrate(str(old))
    assert run(archive, old, model).posts == 0
    write_part(archive / "later.parquet", [{**post, "created_at": 2**51} for post in make_posts(3, seed=8)])
    summary = run(archive, old, model)
    assert (summary.tagged, summary.parts) == (3, 1), "no earlier post has another history"


def test_vectors_of_histories_are_kept(new: Path, archive: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    as_old(new, old)
    (output,) = output_of(new)
    vectors = old / "_state" / output.layout.partition / "vectors"
    for record in output.records.parts.values():
        _json(vectors / f"content-{record.number}" / "00000.parquet", record.path)
    migrate(str(old))
    (output,) = output_of(old)
    for path in ("a.parquet", "nested/b.parquet"):
        name = vectors_name(output.records.settings, path, output.records.parts[path].etag)  # type: ignore[arg-type]
        assert json.loads((vectors / name / "00000.parquet").read_text()) == path


def test_a_list_of_forgotten_users_from_before_is_kept_to(
    new: Path, archive: Path, popularity: Path, tmp_path: Path, make_posts: Callable, write_part: Callable
) -> None:
    """Its hashes are longer; nobody knows the names behind them."""
    old = tmp_path / "old"
    as_old(new, old)
    long = hashlib.blake2b(b"user-1", key=b"salt", digest_size=32).hexdigest()
    _json(old / "_state" / "forgotten.json", {"format": 1, "salt": "salt", "users": [long]})
    migrate(str(old))
    assert ForgetList.load(str(old)).lists("user-1")  # type: ignore[union-attr]
    write_part(archive / "later.parquet", make_posts(8, seed=8))
    summary = run(archive, old, popularity)
    assert (summary.tagged, summary.rejected) == (6, 2)


def test_the_command(new: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    old = tmp_path / "old"
    as_old(new, old)
    before = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    assert main(["migrate", "--out", str(old), "--dry-run"]) == 0
    assert json.loads(capfd.readouterr().out)["tagged"] == 19
    assert {path: path.read_bytes() for path in old.rglob("*") if path.is_file()} == before
    assert main(["--migrate", "--out", str(old), "--archive", str(tmp_path / "none")]) == 2
    assert main(["--migrate", "--out", str(old)]) == 0
    summary = json.loads(capfd.readouterr().out)
    assert (summary["models"], summary["parts"], summary["tagged"], summary["without_archive"]) == (1, 3, 19, 0)
    assert main(["migrate", "--out", str(old)]) == 2
    assert "nothing to take over" in capfd.readouterr().err
    assert main(["migrate", "--out", str(tmp_path / "none")]) == 2


def test_on_s3(new: Path, archive: Path, tmp_path: Path, s3_bucket: str) -> None:
    as_old(new, tmp_path / "old")
    storage.upload_folder(tmp_path / "old", f"{s3_bucket}/old")
    found = migrate(f"{s3_bucket}/old")
    assert (found.tagged, found.without_archive) == (19, 0)
    assert verify_output(f"{s3_bucket}/old", str(archive)).problems == []
