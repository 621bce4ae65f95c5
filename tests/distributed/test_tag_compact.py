"""Compaction: the same rows in the same order in fewer files, for every reader; killed at any step; before forgetting and after."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hashtag_core.distributed.lease import Lease, LeaseHeldError
from hashtag_core.distributed.tag_compact import _pieces, compact, merged
from hashtag_core.distributed.tag_job import TagSummary, plan_tagging
from hashtag_core.distributed.tag_plan import Layout
from hashtag_core.distributed.tag_rewrite import file_bytes, file_entry
from hypothesis import given, settings
from hypothesis import strategies as st

from hashtag_core import storage
from hashtag_core.config import Recipe
from hashtag_core.distributed.tag import tag
from hashtag_core.distributed.tag_forget import forget
from hashtag_core.distributed.tag_verify import verify_output
from hashtag_core.errors import IntegrityError, NotFoundError
from hashtag_core.schema import TAGGED
from hashtag_core.tracking.registry import resolve_model
from jobs.tag import main
from tests.distributed.test_tag import stop_after

RECIPE = Recipe.model_validate({"tagging": {"chunk_rows": 4}})
GLOB = "model=*/version=*/**/part-*.parquet"


def run(archive: Path, out: Path, model: Path) -> TagSummary:
    return tag(plan_tagging(RECIPE, str(archive), str(out), resolve_model(str(model))))


@pytest.fixture
def output(
    inline: None, popularity: Path, tmp_path: Path, make_posts: Callable, write_part: Callable
) -> tuple[Path, Path]:
    """An archive of a part of 22 rows (21 posts, 6 files), one of 3 (1 file) and one that is none; and its output."""
    archive, out = tmp_path / "archive", tmp_path / "out"
    write_part(archive / "a.parquet", [*make_posts(21), {"post_id": ""}])
    write_part(archive / "nested" / "b é.parquet", make_posts(3, seed=1))
    (archive / "html.parquet").write_text("<html>")
    run(archive, out, popularity)
    return archive, out


def rows(out: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of each part as they stand in its files."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(out.glob(GLOB)):
        table = pq.read_table(path, partitioning=None)
        assert table.schema.equals(TAGGED)
        found.setdefault(str(path.parent.relative_to(out)), []).extend(table.to_pylist())
    return found


def counted(out: Path) -> list[tuple[int, int, int]]:
    """Rows, ids and tags as DuckDB and Polars see them by the glob of the documentation."""
    query = f"SELECT count(*), count(DISTINCT post_id), sum(len(hashtags)) FROM read_parquet('{out}/{GLOB}')"
    (by_duckdb,) = duckdb.sql(query).fetchall()
    frame = pl.scan_parquet(f"{out}/{GLOB}").collect()
    assert frame["model_version"].n_unique() == 1
    by_polars = (frame.height, frame["post_id"].n_unique(), frame["hashtags"].list.len().sum())
    return [tuple(map(int, by_duckdb)), by_polars]


def state(out: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_the_same_rows_in_fewer_files(output: tuple[Path, Path], popularity: Path) -> None:
    archive, out = output
    before = rows(out)
    assert counted(out) == [(24, 24, 240)] * 2
    found = compact(str(out))
    assert (found.parts, found.compacted_parts, found.files_before, found.files_after) == (3, 1, 7, 2)
    assert 0 < found.bytes_after < found.bytes_before
    assert rows(out) == before
    assert counted(out) == [(24, 24, 240)] * 2
    assert len(list(out.glob(GLOB))) == 2
    assert verify_output(str(out), str(archive)).problems == []
    held = state(out)
    again = compact(str(out))
    assert (again.compacted_parts, again.files_before, again.files_after) == (0, 2, 2)
    summary = run(archive, out, popularity)
    assert (summary.parts, summary.skipped_parts, summary.run) == (0, 3, None)
    assert state(out) == held, "nothing is left to do"


def test_a_small_target_gives_files_of_about_that_size(output: tuple[Path, Path]) -> None:
    archive, out = output
    before = rows(out)
    found = compact(str(out), 1_000)
    assert 2 < found.files_after < found.files_before
    assert rows(out) == before
    names = [path.name for path in sorted(out.glob("model=*/version=*/a.parquet/part-*"))]
    assert names[0].split("-")[2] == "00000"
    assert verify_output(str(out), str(archive)).problems == []
    assert compact(str(out)).files_after == 2, "another target merges on"
    assert rows(out) == before


@settings(max_examples=15, deadline=None)
@given(sizes=st.lists(st.integers(0, 5), min_size=1, max_size=12), target=st.integers(1, 20_000))
def test_merging_keeps_rows_and_order(sizes: list[int], target: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    layout = Layout(str(tmp_path_factory.mktemp("out")), "m", "1")
    manifest: dict[str, Any] = {"id": "0" * 16, "part": "a.parquet"}
    files, ids = [], [str(n) for n in range(sum(sizes))]
    for number, size in enumerate(sizes):
        begin = sum(sizes[:number])
        row = {"hashtags": ["x"], "scores": [0.5], "status": "ok", "model_name": "m", "model_version": "1"}
        table = pa.Table.from_pylist([{"post_id": post, **row} for post in ids[begin : begin + size]], schema=TAGGED)
        content = file_bytes(table)
        before = f"model=m/version=1/a.parquet/part-{'0' * 16}-{number:05d}.parquet"
        files.append(file_entry(layout, manifest, before, content))
        storage.write_bytes(storage.join(layout.out, files[-1]["path"]), content)
    found = list(merged(_pieces(layout, files), target))
    held = [post for _, content in found for post in pq.read_table(pa.BufferReader(content))["post_id"].to_pylist()]
    assert held == ids
    firsts = [[file["path"] for file in files].index(first) for first, _ in found]
    assert firsts[0] == 0
    assert firsts == sorted(set(firsts))
    assert all(len(content) >= target for _, content in found[:-1])


def test_killed_at_any_step_the_same_command_finishes(
    output: tuple[Path, Path], popularity: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, out = output
    before, whole = rows(out), out.rename(out.with_name("whole"))
    steps, stopped, told = 0, True, 0
    while stopped:
        shutil.copytree(whole, out)
        stopped = False
        with monkeypatch.context() as patch:
            stop_after(patch, steps)
            try:
                compact(str(out))
            except KeyboardInterrupt:
                stopped = True
        problems = verify_output(str(out), str(archive)).problems
        told += bool(problems)
        assert problems or rows(out) == before, "rows twice, or no marker, are told"
        if steps % 4:
            run(archive, out, popularity)
            assert verify_output(str(out), str(archive)).problems == []
            assert rows(out) == before
        assert compact(str(out)).files_after == 2
        assert verify_output(str(out), str(archive)).problems == []
        assert rows(out) == before
        assert not [path for path in out.rglob("rewrites/**/*") if path.is_file()]
        shutil.rmtree(out)
        steps += 2
    assert told > 3


def test_a_reader_of_old_files_keeps_them_until_the_manifest_names_the_new(
    output: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the first file goes, the manifest names files that are all there, and the marker is away."""
    _, out = output
    remove, seen = storage.remove, []

    def removing(uri: str) -> None:
        if "/part-" in uri and not seen:
            seen.append(uri)
            for path in out.glob("_state/*/*/manifests/a.parquet/*.json"):
                files = [out / file["path"] for file in json.loads(path.read_text())["files"]]
                assert len(files) == 1
                assert files[0].exists()
            assert not list(out.rglob("_SUCCESS"))
        remove(uri)

    monkeypatch.setattr(storage, "remove", removing)
    compact(str(out))
    assert seen
    assert list(out.rglob("_SUCCESS"))


def test_forgetting_before_and_after(
    output: tuple[Path, Path], popularity: Path, make_posts: Callable, write_part: Callable
) -> None:
    archive, out = output
    theirs = {post["post_id"] for post in make_posts(21) if post["user_id"] == "user-1"}
    theirs |= {"post-1-00001"}
    expected = {part: [row for row in held if row["post_id"] not in theirs] for part, held in rows(out).items()}
    shutil.copytree(out, other := out.with_name("other"))
    forget(str(out), {"user-1"})
    assert counted(out) == [(24 - len(theirs), 24 - len(theirs), 10 * (24 - len(theirs)))] * 2
    compact(str(out))
    compact(str(other))
    forget(str(other), {"user-1"})
    for place in (out, other):
        assert rows(place) == expected
        assert verify_output(str(place), str(archive)).problems == []
        assert len(list(place.glob(GLOB))) == 2
        assert counted(place) == [(24 - len(theirs), 24 - len(theirs), 10 * (24 - len(theirs)))] * 2
    write_part(archive / "a.parquet", make_posts(6, seed=4))
    assert run(archive, out, popularity).parts == 1
    assert counted(out)[0][0] == 4 + 2
    assert verify_output(str(out), str(archive)).problems == []


def test_a_file_that_is_not_what_was_published_is_left_alone(output: tuple[Path, Path]) -> None:
    _, out = output
    broken = sorted(out.glob("model=*/version=*/a.parquet/part-*"))[3]
    broken.write_bytes(broken.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match="is not what was published"):
        compact(str(out))
    assert len(list(out.glob(GLOB))) == 7


def test_the_command(output: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _, out = output
    held = state(out)
    assert main(["--compact", "--out", str(out), "--dry-run"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert (told["parts"], told["compacted_parts"], told["files_before"]) == (3, 1, 7)
    assert state(out) == held
    (lease,) = (path.parent / "lease.json" for path in out.glob("_state/model=*/version=*/_SUCCESS"))
    with Lease(str(lease), "the run"), pytest.raises(LeaseHeldError):
        compact(str(out))
    assert main(["--compact", "--out", str(out), "--target-mb", "1"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert (told["files_before"], told["files_after"]) == (7, 2)
    assert main(["--compact"]) == 2
    assert main(["--compact", "--out", str(out), "--target-mb", "0"]) == 2
    assert main(["--compact", "--verify", "--out", str(out)]) == 2
    assert main(["--target-mb", "5"]) == 2
    with pytest.raises(NotFoundError, match="no tagged output"):
        compact(str(tmp_path))


def test_on_s3(output: tuple[Path, Path], s3_bucket: str) -> None:
    _, out = output
    storage.upload_folder(out, f"{s3_bucket}/out")
    assert compact(f"{s3_bucket}/out").files_after == 2
    assert verify_output(f"{s3_bucket}/out").problems == []
    names = [info.path for info in storage.list_files(f"{s3_bucket}/out", ".parquet")]
    assert len(names) == 2
