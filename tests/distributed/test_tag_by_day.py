"""Folders by day: every post once and in the folder of its day, for every reader; killed at any step; with all that comes before and after."""

import hashlib
import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, date, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hashtag_core.distributed.tag_by_day import partition
from hashtag_core.distributed.tag_compact import compact
from hashtag_core.distributed.tag_forget import forget
from hashtag_core.distributed.tag_job import TagSummary, plan_tagging
from hashtag_core.distributed.tag_plan import Layout
from hashtag_core.distributed.tag_rewrite import file_bytes, file_entry, part_folder
from hashtag_core.distributed.tag_verify import verify_output
from hypothesis import given, settings
from hypothesis import strategies as st

from hashtag_core import storage
from hashtag_core.config import Recipe
from hashtag_core.distributed import tag_by_day
from hashtag_core.distributed.tag import tag
from hashtag_core.errors import ConfigError, IntegrityError, NotFoundError
from hashtag_core.schema import POST, TAGGED
from hashtag_core.tracking.registry import resolve_model
from jobs.tag import main
from tests.distributed.test_tag import stop_after

RECIPE = Recipe.model_validate({"tagging": {"chunk_rows": 4}})
GLOB = "model=*/version=*/**/part-*.parquet"
NONE = "__HIVE_DEFAULT_PARTITION__"
DAYS = ("2020-02-28", "2020-02-29", None, "2020-03-01", "1969-12-31")

Rows = dict[str, list[dict[str, Any]]]


def run(archive: Path, out: Path, model: Path) -> TagSummary:
    return tag(plan_tagging(RECIPE, str(archive), str(out), resolve_model(str(model))))


def at(day: str | None, second: int = 0) -> int | None:
    """Microseconds since 1970, so many seconds into the day, or for a negative number before its end."""
    if day is None:
        return None
    begin = int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp())
    return (begin + second % 86_400) * 1_000_000


@pytest.fixture
def output(
    inline: None, popularity: Path, tmp_path: Path, make_posts: Callable, write_part: Callable
) -> tuple[Path, Path]:
    """Archive and output. Part a: 22 rows in no order of days, one without an id, and post 20 is tagged from part b;
    b é: posts of one day; c: a row that is no post; html: no part at all."""
    archive, out = tmp_path / "archive", tmp_path / "out"
    posts = [{**post, "created_at": at(DAYS[n % 5], -n)} for n, post in enumerate(make_posts(21))]
    write_part(archive / "a.parquet", [*posts, {"post_id": ""}])
    later = {**posts[20], "created_at": at("2020-03-01", 5), "user_id": "user-9"}
    write_part(
        archive / "nested" / "b é.parquet",
        [*({**post, "created_at": at("2020-03-01")} for post in make_posts(3, seed=1)), later],
    )
    write_part(archive / "c.parquet", [{"post_id": ""}])
    (archive / "html.parquet").write_text("<html>")
    run(archive, out, popularity)
    return archive, out


def days_of(archive: Path) -> dict[str, str]:
    """The folder that each post should be in, by its latest version."""
    found: dict[str, datetime | None] = {}
    for path in sorted(archive.rglob("*.parquet")):
        if path.name != "html.parquet":
            for post in pq.read_table(path, partitioning=None).select(["post_id", "created_at"]).to_pylist():
                if post["created_at"] is None:
                    found.setdefault(post["post_id"], None)
                elif (held := found.get(post["post_id"])) is None or held < post["created_at"]:
                    found[post["post_id"]] = post["created_at"]
    return {post: NONE if time is None else time.strftime("%Y-%m-%d") for post, time in found.items()}


def rows(out: Path) -> Rows:
    """The rows of each folder as they stand in its files."""
    found: Rows = {}
    for path in sorted(out.glob(GLOB)):
        table = pq.read_table(path, partitioning=None)
        assert table.schema.equals(TAGGED)
        found.setdefault(str(path.parent.relative_to(out)), []).extend(table.to_pylist())
    return found


def by_day(before: Rows, days: dict[str, str]) -> Rows:
    """What `rows` should give afterwards."""
    found: Rows = {}
    for folder, held in before.items():
        for row in held:
            found.setdefault(f"{folder}/day={days[row['post_id']]}", []).append(row)
    return found


def state(out: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_every_post_is_in_the_folder_of_its_day(output: tuple[Path, Path], popularity: Path) -> None:
    archive, out = output
    expected = by_day(rows(out), days_of(archive))
    assert len(expected) == 6
    assert sum(map(len, expected.values())) == 24
    found = partition(str(out))
    assert (found.parts, found.compacted_parts, found.left_parts, found.files_after) == (4, 3, 0, 6)
    assert rows(out) == expected
    checked = verify_output(str(out), str(archive))
    assert (checked.problems, checked.tagged, checked.files) == ([], 24, 6)
    held = state(out)
    again = partition(str(out))
    assert (again.compacted_parts, again.files_before, again.files_after) == (0, 6, 6)
    assert compact(str(out)).compacted_parts == 0
    assert run(archive, out, popularity).run is None
    assert state(out) == held, "nothing is left to do"


def test_readers_filter_by_day(output: tuple[Path, Path]) -> None:
    archive, out = output
    partition(str(out))
    expected = {post for post, day in days_of(archive).items() if day == "2020-03-01"}
    where = f"read_parquet('{out}/{GLOB}', hive_partitioning=true)"
    found = duckdb.sql(f"SELECT post_id FROM {where} WHERE day = DATE '2020-03-01'").fetchall()
    assert {post for (post,) in found} == expected
    found = duckdb.sql(f"SELECT count(*), count(day), count(DISTINCT day), typeof(min(day)) FROM {where}").fetchall()
    assert found == [(24, 20, 4, "DATE")]
    frame = pl.scan_parquet(f"{out}/{GLOB}", hive_partitioning=True)
    assert set(frame.filter(pl.col("day") == date(2020, 3, 1)).collect()["post_id"]) == expected
    assert frame.filter(pl.col("day").is_null()).collect().height == 4
    (tagged,) = out.glob("model=*/version=*")
    read = pd.read_parquet(tagged, filters=[("day", "==", "2020-03-01")])
    assert set(read["post_id"]) == expected
    days = ds.partitioning(pa.schema([("day", pa.date32())]), flavor="hive")
    whole = pd.read_parquet(tagged, partitioning=days)
    assert (len(whole), int(whole["day"].isna().sum())) == (24, 4)


def test_parts_that_are_not_by_day_hide_the_day(
    output: tuple[Path, Path], popularity: Path, make_posts: Callable, write_part: Callable
) -> None:
    """After a part was tagged that is new: who asks for the day is told that it is not there, who does not reads every row."""
    archive, out = output
    partition(str(out))
    write_part(archive / "d.parquet", make_posts(2, seed=2))
    run(archive, out, popularity)
    with pytest.raises(duckdb.BinderException, match="Hive partition mismatch"):
        duckdb.sql(f"SELECT count(day) FROM read_parquet('{out}/{GLOB}', hive_partitioning=true)").fetchall()
    for options in ("", ", hive_partitioning=false"):
        assert duckdb.sql(f"SELECT count(*) FROM read_parquet('{out}/{GLOB}'{options})").fetchall() == [(26,)]
    assert pl.scan_parquet(f"{out}/{GLOB}").collect().height == 26
    assert partition(str(out)).compacted_parts == 1
    assert duckdb.sql(f"SELECT count(day) FROM read_parquet('{out}/{GLOB}', hive_partitioning=true)").fetchall() == [
        (22,)
    ]


@given(days=st.lists(st.integers(-3, 3), max_size=30), most=st.integers(0, 12))
def test_runs_of_days(days: list[int], most: int) -> None:
    found = [run.tolist() for run in tag_by_day._runs(np.array(days, np.int32), most)]
    assert [day for run in found for day in run] == sorted(set(days))
    sizes = [sum(days.count(day) for day in run) for run in found]
    assert all(size <= most or len(run) == 1 for size, run in zip(sizes, found, strict=True))
    nexts = [days.count(run[0]) for run in found[1:]]
    assert all(size + following > most for size, following in zip(sizes, nexts, strict=False)), "as many as fit"


@settings(max_examples=25, deadline=None)
@given(
    days=st.lists(st.none() | st.integers(-2, 2), min_size=1, max_size=25),
    gone=st.sets(st.integers(0, 24)),
    cuts=st.sets(st.integers(0, 24)),
    most=st.integers(0, 12),
    target=st.sampled_from([1, 3_000, 1 << 20]),
)
def test_each_row_goes_to_its_day_in_order(
    days: list[int | None],
    gone: set[int],
    cuts: set[int],
    most: int,
    target: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Rows with any days, some of them rejected, in files that are cut anywhere, with room for any number of rows."""
    folder = tmp_path_factory.mktemp("out")
    layout = Layout(str(folder), "m", "1")
    times = [None if day is None else day * 86_400_000_000 + n for n, day in enumerate(days)]
    posts = [{"post_id": str(n), "created_at": time} for n, time in enumerate(times)]
    pq.write_table(pa.Table.from_pylist(posts, POST), folder / "a.parquet")
    kept = [n for n in range(len(days)) if n not in gone]
    row = {"hashtags": ["x"], "scores": [0.5], "status": "ok", "model_name": "m", "model_version": "1"}
    lines = "".join(json.dumps({"row": n}) + "\n" for n in sorted(gone & set(range(len(days)))))
    (folder / "gone.jsonl").write_text(lines)
    manifest: dict[str, Any] = {"id": "0" * 16, "part": "a.parquet", "rejected_file": "gone.jsonl", "files": []}
    borders = [0, *sorted(cut for cut in cuts if cut < len(kept)), len(kept)]
    for begin, end in pairwise(borders):
        table = pa.Table.from_pylist([{"post_id": str(n), **row} for n in kept[begin:end]], schema=TAGGED)
        before = f"{part_folder(layout, manifest)}/part-{'0' * 16}-{begin:05d}.parquet"
        manifest["files"].append(file_entry(layout, manifest, before, file_bytes(table)))
        storage.write_bytes(f"{folder}/{manifest['files'][-1]['path']}", file_bytes(table))
    manifest |= {"rows": len(days), "tagged": len(kept)}
    source = storage.file_info(str(folder / "a.parquet")) if kept else None
    found: dict[str, list[int]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tag_by_day, "SCAN_ROWS", 3)
        patch.setattr(tag_by_day, "HELD_BYTES", most)
        patch.setattr(tag_by_day, "_held_bytes", lambda *_: 1.0)
        for first, content in tag_by_day._by_day(layout, "uri", manifest, source, target):
            ids = pq.read_table(pa.BufferReader(content))["post_id"].to_pylist()
            found.setdefault(first.split("/")[-2], []).extend(map(int, ids))
    expected: dict[str, list[int]] = {}
    for n in kept:
        day = days[n]
        name = NONE if day is None else str(date.fromordinal(date(1970, 1, 1).toordinal() + day))
        expected.setdefault(f"day={name}", []).append(n)
    assert found == expected


@pytest.mark.parametrize("held_bytes", [1, 2_000, 1 << 30])
def test_however_few_rows_are_held(output: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, held_bytes: int) -> None:
    """The same content whether days are read one by one, a few at once, or all; in one file of a day or in several."""
    archive, out = output
    expected = by_day(rows(out), days_of(archive))
    monkeypatch.setattr(tag_by_day, "HELD_BYTES", held_bytes)
    monkeypatch.setattr(tag_by_day, "SCAN_ROWS", 2)
    partition(str(out), target_bytes=1)
    assert rows(out) == expected
    assert len(list(out.glob(f"model=*/version=*/a.parquet/day={NONE}/*"))) >= 2
    assert verify_output(str(out), str(archive)).problems == []
    assert compact(str(out)).files_after == 6, "compaction merges within a day"
    assert rows(out) == expected
    assert verify_output(str(out), str(archive)).problems == []


def test_killed_at_any_step_the_same_command_finishes(
    inline: None,
    popularity: Path,
    tmp_path: Path,
    make_posts: Callable,
    write_part: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    archive, out = tmp_path / "archive", tmp_path / "out"
    write_part(archive / "a.parquet", [{**post, "created_at": at(DAYS[n % 3])} for n, post in enumerate(make_posts(6))])
    write_part(archive / "c.parquet", [{"post_id": ""}])
    run(archive, out, popularity)
    before = rows(out)
    expected = by_day(before, days_of(archive))
    whole = out.rename(out.with_name("whole"))
    shutil.copytree(whole, out)
    partition(str(out))
    names = sorted(path.relative_to(out) for path in out.rglob("*.parquet") if path.is_file())
    shutil.rmtree(out)
    steps, stopped, told = 0, True, 0
    while stopped:
        shutil.copytree(whole, out)
        stopped = False
        with monkeypatch.context() as patch:
            stop_after(patch, steps)
            try:
                partition(str(out))
            except KeyboardInterrupt:
                stopped = True
        problems = verify_output(str(out), str(archive)).problems
        told += bool(problems)
        assert problems or rows(out) in (before, expected), "rows twice, or no marker, are told"
        if steps % 3 == 1:
            run(archive, out, popularity)
            assert verify_output(str(out), str(archive)).problems == []
        if steps % 3 == 2:
            compact(str(out))
            assert verify_output(str(out), str(archive)).problems == []
        partition(str(out))
        assert verify_output(str(out), str(archive)).problems == []
        assert rows(out) == expected
        if steps % 3 < 2:
            assert sorted(path.relative_to(out) for path in out.rglob("*.parquet") if path.is_file()) == names
        assert not [path for path in out.rglob("rewrites/**/*") if path.is_file()]
        shutil.rmtree(out)
        steps += 1
    assert told > 10


def test_compaction_first_or_afterwards(output: tuple[Path, Path]) -> None:
    archive, out = output
    expected = by_day(rows(out), days_of(archive))
    compact(str(out))
    assert partition(str(out)).compacted_parts == 3
    assert rows(out) == expected
    assert verify_output(str(out), str(archive)).problems == []
    assert compact(str(out), 5 << 20).compacted_parts == 0, "a file a day: nothing to merge"


def test_a_part_that_changed_is_left_until_it_is_tagged_again(
    output: tuple[Path, Path], popularity: Path, make_posts: Callable, write_part: Callable
) -> None:
    archive, out = output
    before = rows(out)
    write_part(archive / "a.parquet", [{**post, "created_at": at("2021-01-01")} for post in make_posts(6, seed=4)])
    (archive / "nested" / "b é.parquet").rename(archive.parent / "kept.parquet")
    with pytest.raises(IntegrityError, match=r"2 part\(s\) are not by day: a\.parquet, nested/b é\.parquet") as caught:
        partition(str(out))
    told = caught.value.summary  # type: ignore[attr-defined]
    assert (told["parts"], told["left_parts"], told["compacted_parts"]) == (4, 2, 1)
    assert rows(out) == {folder: held for folder, held in before.items() if held}
    assert list(out.rglob("_SUCCESS")), "and the others are done"
    assert partition(str(out), dry_run=True).left_parts == 2
    (archive.parent / "kept.parquet").rename(archive / "nested" / "b é.parquet")
    run(archive, out, popularity)
    assert partition(str(out)).left_parts == 0
    expected = by_day({folder.partition("/day=")[0]: held for folder, held in rows(out).items()}, days_of(archive))
    assert rows(out) == expected
    assert verify_output(str(out), str(archive)).problems == []
    assert sum(map(len, rows(out).values())) == 6 + 4


def test_tagged_again_and_by_day_again(
    output: tuple[Path, Path], popularity: Path, make_posts: Callable, write_part: Callable
) -> None:
    """The part's new rows take the place of those in folders by day, of which nothing is left."""
    archive, out = output
    partition(str(out))
    posts = [{**post, "created_at": at("2021-01-01", n)} for n, post in enumerate(make_posts(9, seed=4))]
    write_part(archive / "a.parquet", posts)
    summary = run(archive, out, popularity)
    assert summary.parts == 1
    assert not list(out.glob("model=*/version=*/a.parquet/day=*/*"))
    assert verify_output(str(out), str(archive)).problems == []
    assert partition(str(out)).compacted_parts == 1
    assert [len(held) for folder, held in rows(out).items() if "a.parquet" in folder] == [9]
    assert verify_output(str(out), str(archive)).problems == []


def test_forgetting_afterwards(
    output: tuple[Path, Path], tmp_path: Path, popularity: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where user-0 had the id of a post first that is tagged as user-9's, which stays; killed at any step."""
    archive, out = output
    posts = pq.read_table(archive / "a.parquet", partitioning=None).to_pylist()
    theirs = {post["post_id"] for post in posts if post["user_id"] == "user-0"} | {"post-1-00000"}
    assert posts[20]["post_id"] in theirs
    partition(str(out))
    expected = {
        folder: [row for row in held if row["post_id"] not in theirs or row["post_id"] == posts[20]["post_id"]]
        for folder, held in rows(out).items()
    }
    shutil.copytree(out, whole := tmp_path / "whole")
    for steps in range(0, 60, 7):
        shutil.rmtree(out)
        shutil.copytree(whole, out)
        with monkeypatch.context() as patch:
            stop_after(patch, steps)
            with suppress(KeyboardInterrupt):
                forget(str(out), {"user-0"})
        found = forget(str(out), {"user-0"})
        assert (found.remaining, found.unknown) == (0, 0)
        assert rows(out) == expected
        assert verify_output(str(out), str(archive)).problems == []
    lines = [json.loads(line) for path in out.glob("_rejected/*-*.jsonl") for line in path.read_text().splitlines()]
    gone = sorted(line["row"] for line in lines if line["part"] == "a.parquet")
    assert gone == sorted([*range(0, 21, 4), 21]), "by their rows in the archive"
    held = state(out)
    assert run(archive, out, popularity).run is None
    assert partition(str(out)).compacted_parts == 0
    assert state(out) == held


def test_forgetting_before(output: tuple[Path, Path]) -> None:
    archive, out = output
    forget(str(out), {"user-0", "user-2"})
    expected = by_day(rows(out), days_of(archive))
    partition(str(out))
    assert rows(out) == expected
    assert verify_output(str(out), str(archive)).problems == []


def test_forgetting_where_the_archive_lost_the_part(output: tuple[Path, Path], tmp_path: Path) -> None:
    """Posts are found by their ids in a copy; which rows they were cannot be told."""
    archive, out = output
    partition(str(out))
    shutil.copytree(archive, other := tmp_path / "other", copy_function=shutil.copyfile)
    shutil.rmtree(archive)
    with pytest.raises(NotFoundError):
        forget(str(out), {"user-1"})
    found = forget(str(out), {"user-1"}, str(other))
    assert (found.tagged, found.remaining, found.unknown) == (5 + 1, 0, 0)
    assert verify_output(str(out)).problems == []
    assert forget(str(out), {"user-2"}, str(other)).remaining == 0
    assert verify_output(str(out)).problems == []


def test_a_time_that_is_none_is_no_date(
    inline: None, popularity: Path, tmp_path: Path, make_posts: Callable, write_part: Callable
) -> None:
    """`created_at` as text, or in the year 290,000: tagging does not look at it, and the posts have no day."""
    archive, out = tmp_path / "archive", tmp_path / "out"
    posts = make_posts(5)
    texts = pa.schema([pa.field("created_at", pa.string()) if field.name == "created_at" else field for field in POST])
    write_part(archive / "a.parquet", [{**post, "created_at": "2020-01-01"} for post in posts], texts)
    far = [{**post, "post_id": f"far-{n}", "created_at": 2**63 - 1 if n else 0} for n, post in enumerate(posts)]
    write_part(archive / "b.parquet", far)
    run(archive, out, popularity)
    assert partition(str(out)).left_parts == 0
    found = {folder.partition("version=")[2].partition("/")[2]: len(held) for folder, held in rows(out).items()}
    assert found == {f"a.parquet/day={NONE}": 5, f"b.parquet/day={NONE}": 4, "b.parquet/day=1970-01-01": 1}
    assert verify_output(str(out), str(archive)).problems == []


def test_verify_tells_a_post_in_the_folder_of_another_day(output: tuple[Path, Path]) -> None:
    archive, out = output
    partition(str(out))
    (manifest,) = out.glob("_state/model=*/version=*/manifests/a.parquet/*.json")
    text = manifest.read_text()
    file = next(out.glob("model=*/version=*/a.parquet/day=2020-02-28/part-*"))

    def placed(folder: str) -> list[str]:
        target = file.parent.with_name(folder) / file.name
        target.parent.mkdir(exist_ok=True)
        shutil.move(file, target)
        manifest.write_text(text.replace("day=2020-02-28", folder))
        try:
            return verify_output(str(out), str(archive)).problems
        finally:
            shutil.move(target, file)

    assert ["holds posts of day=2020-02-28" in problem for problem in placed("day=2020-02-27")] == [True]
    assert any("the folder of its part, or that of a day in it" in problem for problem in placed("day=28.2."))
    manifest.write_text(text)
    assert verify_output(str(out), str(archive)).problems == []


def test_an_archive_by_day_stays_as_it_is(
    inline: None, popularity: Path, tmp_path: Path, make_posts: Callable, write_part: Callable
) -> None:
    archive, out = tmp_path / "archive", tmp_path / "out"
    write_part(archive / "day=2020-01-01" / "a.parquet", make_posts(5))
    run(archive, out, popularity)
    held = state(out)
    with pytest.raises(ConfigError, match=r"in folders 'day=' already, as day=2020-01-01/a\.parquet"):
        partition(str(out))
    assert state(out) == held


def test_a_file_of_other_posts_is_left_alone(output: tuple[Path, Path]) -> None:
    """Its manifest is brought in line: nothing but the archive shows that its rows are not those of the part."""
    _, out = output
    (path,) = out.glob("_state/model=*/version=*/manifests/nested/*/*.json")
    manifest = json.loads(path.read_text())
    file = out / manifest["files"][0]["path"]
    table = pq.read_table(file, partitioning=None)
    pq.write_table(table.take([1, 0, *range(2, table.num_rows)]), file)
    manifest["files"][0]["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    path.write_text(json.dumps(manifest))
    with pytest.raises(IntegrityError, match="its posts are not the archive's rows"):
        partition(str(out))
    assert len(list(out.glob("model=*/version=*/nested/*/part-*"))) == 1


def test_the_command(output: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    archive, out = output
    held = state(out)
    assert main(["--compact", "--by-day", "--out", str(out), "--dry-run"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert (told["parts"], told["compacted_parts"], told["left_parts"]) == (4, 3, 0)
    assert state(out) == held
    assert main(["--by-day", "--out", str(out)]) == 2
    assert main(["--compact", "--by-day", "--out", str(out), "--archive", str(tmp_path / "none")]) == 2
    assert state(out) == held
    (archive / "a.parquet").touch()
    capfd.readouterr()
    assert main(["--compact", "--by-day", "--out", str(out), "--target-mb", "1"]) == 1
    told = json.loads(capfd.readouterr().out)
    assert (told["compacted_parts"], told["left_parts"], told["files_after"]) == (2, 1, 6 + 1)


def test_on_s3(
    inline: None, popularity: Path, tmp_path: Path, make_posts: Callable, write_part: Callable, s3_bucket: str
) -> None:
    archive, out = f"{s3_bucket}/archive", f"{s3_bucket}/out"
    posts = [{**post, "created_at": at(DAYS[n % 3])} for n, post in enumerate(make_posts(6))]
    write_part(tmp_path / "a é.parquet", posts)
    storage.write_bytes(f"{archive}/a é.parquet", (tmp_path / "a é.parquet").read_bytes())
    tag(plan_tagging(RECIPE, archive, out, resolve_model(str(popularity))))
    assert partition(out).files_after == 3
    assert partition(out).compacted_parts == 0
    checked = verify_output(out, archive)
    assert (checked.problems, checked.tagged) == ([], 6)
    names = [info.path for info in storage.list_files(out, ".parquet")]
    assert [name.split("/")[3] for name in names] == ["day=2020-02-28", "day=2020-02-29", f"day={NONE}"]
