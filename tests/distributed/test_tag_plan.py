"""The plan of a tagging run, without Ray: chunk borders, repeated ids, what is pinned, what is refused."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hashtag_core.distributed.tag_plan import (
    Layout,
    PartPlan,
    TagPlan,
    TagSettings,
    list_archive,
    load_plan,
    make_plan,
    pin_settings,
    resolve_archive,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from hashtag_core import storage
from hashtag_core.errors import ArchiveError, ConfigError, NotFoundError


def settings_for(archive: Path | str, **changes: Any) -> TagSettings:
    values = {
        "archive": str(archive),
        "model_name": "toy",
        "model_version": "1",
        "model_hash": "abc",
        "top_k": 10,
        "chunk_rows": 4,
        "batch_size": 64,
        "backend": "auto",
        "precision": "auto",
    }
    return TagSettings(**{**values, **changes})


def plan_of(archive: Path | str, **changes: Any) -> TagPlan:
    return make_plan("id", settings_for(archive, **changes), storage.list_files(str(archive), ".parquet"))


def write(path: Path, ids: list[Any], times: list[int | None] | None = None, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns: dict[str, Any] = {"post_id": pa.array(ids)}
    if times is not None:
        columns["created_at"] = pa.array(times, pa.timestamp("us", tz="UTC"))
    pq.write_table(pa.table(columns), path, **options)


def left_out(plan: TagPlan) -> dict[str, list[tuple[int | None, str]]]:
    return {part.path: [(item.row, item.reason) for item in part.left_out] for part in plan.parts if part.left_out}


@given(groups=st.lists(st.integers(0, 30), max_size=6), chunk_rows=st.integers(1, 12), unreadable=st.integers(0, 40))
def test_chunks_hold_each_readable_row_once(groups: list[int], chunk_rows: int, unreadable: int) -> None:
    readable = max(0, sum(groups) - unreadable)
    part = PartPlan(id="x", path="p", etag="e", groups=groups, readable=readable, left_out=[])
    chunks = list(part.chunks(chunk_rows))
    assert [chunk.number for chunk in chunks] == list(range(len(chunks)))
    assert [row for c in chunks for row in range(c.first_row, c.first_row + c.rows)] == list(range(readable))
    for chunk in chunks:
        assert 0 < chunk.rows <= chunk_rows
        assert chunk.first_row == sum(groups[: chunk.group]) + chunk.offset
        assert chunk.offset + chunk.rows <= groups[chunk.group]
        assert chunk.offset % chunk_rows == 0


def test_the_latest_of_repeated_ids_is_tagged(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", ["late", "tie", "never", "once", "same"], [9, 5, None, 1, 3])
    write(tmp_path / "b.parquet", ["late", "tie", "never", "same", "same"], [8, 5, 1, None, 3])
    reasons = left_out(plan_of(tmp_path))
    assert reasons == {
        "a.parquet": [
            (1, "repeated post_id: tagged from b.parquet, row 1"),
            (2, "repeated post_id: tagged from b.parquet, row 2"),
            (4, "repeated post_id: tagged from b.parquet, row 4"),
        ],
        "b.parquet": [
            (0, "repeated post_id: tagged from a.parquet, row 0"),
            (3, "repeated post_id: tagged from b.parquet, row 4"),
        ],
    }


POSTS = st.lists(st.tuples(st.sampled_from("abcdef"), st.none() | st.integers(0, 3)), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None)
@given(parts=st.lists(POSTS, min_size=1, max_size=3))
def test_repeated_ids_against_a_plain_search(parts: list[list[tuple[str, int | None]]], tmp_path_factory: Any) -> None:
    folder = tmp_path_factory.mktemp("archive")
    winners: dict[str, tuple[int, int, int]] = {}
    for p, posts in enumerate(parts):
        write(folder / f"{p}.parquet", [post_id for post_id, _ in posts], [time for _, time in posts])
        for row, (post_id, time) in enumerate(posts):
            place = (-1 if time is None else time, p, row)
            winners[post_id] = max(winners.get(post_id, place), place)
    plan = plan_of(folder)
    kept = set()
    for p, part in enumerate(plan.parts):
        gone = {item.row for item in part.left_out}
        kept |= {(post_id, p, row) for row, (post_id, _) in enumerate(parts[p]) if row not in gone}
    assert kept == {(post_id, p, row) for post_id, (_, p, row) in winners.items()}


def test_equal_hashes_of_different_ids_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np
    import pandas as pd

    monkeypatch.setattr(pd.util, "hash_array", lambda values, categorize: np.zeros(len(values), np.uint64))
    write(tmp_path / "a.parquet", ["a", "b", "c", "b"])
    assert left_out(plan_of(tmp_path)) == {"a.parquet": [(1, "repeated post_id: tagged from a.parquet, row 3")]}


def test_rows_without_id_and_parts_that_are_none(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", ["a", None, " ", "b"])
    write(tmp_path / "int.parquet", [7, 8, 7])
    write(tmp_path / "empty.parquet", pa.array([], pa.string()))
    (tmp_path / "html.parquet").write_text("<html>")
    pq.write_table(pa.table({"id": ["x"]}), tmp_path / "noid.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "zero.parquet").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("no part")
    (tmp_path / "_hidden").mkdir()
    write(tmp_path / "_hidden" / "c.parquet", ["a"])
    plan = plan_of(tmp_path)
    reasons = left_out(plan)
    assert [part.path for part in plan.parts] == [
        f"{name}.parquet" for name in ("a", "cut", "empty", "html", "int", "noid", "zero")
    ]
    assert [row for row, _ in reasons["a.parquet"]] == [1, 2]
    assert reasons["int.parquet"] == [(0, "repeated post_id: tagged from int.parquet, row 2")]
    assert "empty.parquet" not in reasons
    for name in ("html", "noid", "cut", "zero"):
        ((row, reason),) = reasons[f"{name}.parquet"]
        assert row is None
        assert reason == "post_id: column missing, found id" if name == "noid" else "Parquet" in reason


def test_what_is_no_archive(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        list_archive(settings_for(tmp_path / "nowhere"))
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "x.txt").write_text("")
    with pytest.raises(ArchiveError, match="without a part"):
        list_archive(settings_for(tmp_path / "bare"))
    write(tmp_path / "rowless" / "a.parquet", pa.array([], pa.string()))
    with pytest.raises(ArchiveError, match=r"no part holds posts: a\.parquet: empty"):
        plan_of(tmp_path / "rowless")
    (tmp_path / "noid").mkdir()
    pq.write_table(pa.table({"id": ["x"]}), tmp_path / "noid" / "a.parquet")
    with pytest.raises(ArchiveError, match="post_id: column missing, found id"):
        plan_of(tmp_path / "noid")


def test_partition_folders_are_not_mixed(tmp_path: Path) -> None:
    write(tmp_path / "hive" / "day=1" / "a.parquet", ["a"])
    write(tmp_path / "hive" / "day=2" / "a.parquet", ["b"])
    assert len(plan_of(tmp_path / "hive").parts) == 2
    write(tmp_path / "hive" / "plain" / "a.parquet", ["c"])
    with pytest.raises(ArchiveError, match=r"mixes partition folders: day=1/a\.parquet beside plain/a\.parquet"):
        plan_of(tmp_path / "hive")
    write(tmp_path / "ours" / "version=1" / "a.parquet", ["a"])
    with pytest.raises(ArchiveError, match="those of the output"):
        plan_of(tmp_path / "ours")


def test_the_output_is_not_inside_the_archive(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "archive")
    archive = str(tmp_path / "archive")
    for out in (archive, f"{archive}/", f"{archive}/tagged", str(tmp_path / "link" / "x"), f"{archive}/../archive/y"):
        with pytest.raises(ConfigError, match="is inside --archive"):
            resolve_archive(archive, out)
    with pytest.raises(ConfigError, match="is inside --archive"):
        resolve_archive("s3://bucket/posts", "s3://bucket/posts/tagged")
    assert resolve_archive("s3://bucket/posts/", "s3://bucket/posts-tagged") == "s3://bucket/posts"
    assert resolve_archive(str(tmp_path / "link"), str(tmp_path / "archive-tagged")) == archive


def test_ids_depend_on_what_the_rows_depend_on(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", ["a", "b"])
    write(tmp_path / "b.parquet", ["c"])
    before = {part.path: part.id for part in plan_of(tmp_path).parts}
    assert {part.path: part.id for part in plan_of(tmp_path).parts} == before
    assert plan_of(tmp_path, top_k=3).parts[0].id != before["a.parquet"]
    write(tmp_path / "c.parquet", ["d"])
    assert {part.path: part.id for part in plan_of(tmp_path).parts}.items() >= before.items()
    write(tmp_path / "d.parquet", ["a"])
    after = {part.path: part.id for part in plan_of(tmp_path).parts}
    assert after["a.parquet"] != before["a.parquet"]
    assert after["b.parquet"] == before["b.parquet"]


def test_a_plan_is_read_back_for_the_same_archive(tmp_path: Path) -> None:
    write(tmp_path / "archive" / "a.parquet", ["a", None])
    layout, chosen = Layout(str(tmp_path / "out"), "toy", "1"), settings_for(tmp_path / "archive")
    plan, is_new = load_plan(layout, chosen, list_archive(chosen))
    assert is_new
    storage.write_json(layout.plan(plan.id), plan.model_dump())
    assert load_plan(layout, chosen, list_archive(chosen)) == (plan, False)
    write(tmp_path / "archive" / "a.parquet", ["a", "b", "c"])
    changed, is_new = load_plan(layout, chosen, list_archive(chosen))
    assert is_new
    assert changed.id != plan.id


def test_settings_are_pinned(tmp_path: Path) -> None:
    layout, chosen = Layout(str(tmp_path), "toy", "1"), settings_for("/archive")
    pin_settings(layout, chosen, write=False)
    assert not storage.exists(layout.settings)
    pin_settings(layout, chosen, write=True)
    pin_settings(layout, chosen, write=False)
    with pytest.raises(ConfigError, match=r"top_k was 10, now 3; chunk_rows was 4, now 8\): use the same, or another"):
        pin_settings(layout, settings_for("/archive", top_k=3, chunk_rows=8), write=False)


def test_names_of_the_model_are_one_folder(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path), "team/tags=all 100%", "3")
    assert layout.tagged == f"{tmp_path}/model=team%2Ftags%3Dall 100%25/version=3"


def test_a_plan_needs_neither_ray_nor_torch(repository: Path) -> None:
    code = (
        "import sys, hashtag_core.distributed.tag; print(sorted({'torch', 'ray', 'mlflow', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
