"""Whole runs without Ray: every trouble, reruns, what is refused, what fails."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow.parquet as pq
import pytest

from hashtag_core import storage
from hashtag_core.config import Recipe
from hashtag_core.distributed.tag import tag
from hashtag_core.errors import ArchiveError, ConfigError, HashtagError, IntegrityError, StorageError
from hashtag_core.output.fenced_table import Table
from hashtag_core.output.lease import Lease, LeaseHeldError
from hashtag_core.recommend.recommender import Recommender
from hashtag_core.schema import TABLE
from hashtag_core.tagging.run_state import TagSummary
from hashtag_core.tagging.tag_chunks import ChunkTagger
from tests.distributed.in_process import tag_in_process
from tests.tagging.outputs import GLOB, RECIPE, output_of, plan_for, rejected, rows_by_glob, rows_by_table, run


@pytest.fixture(scope="module")
def tagged(troubled: Path, linear: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TagSummary]:
    """The troubled archive, tagged; not to be changed."""
    out = tmp_path_factory.mktemp("tagged")
    with pytest.MonkeyPatch.context() as patch:
        tag_in_process(patch)
        return out, run(troubled, out, linear)


def state(out: Path) -> dict[str, tuple[str, int]]:
    """Every file with its hash and time."""
    return {
        str(path.relative_to(out)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


def test_every_post_is_tagged_once_whatever_is_wrong(tagged: tuple[Path, TagSummary], linear: Path) -> None:
    out, summary = tagged
    version = json.loads((linear / "model.json").read_text())["version"]
    rows = rows_by_glob(out)
    ids = [row["post_id"] for row in rows]
    assert len(ids) == len(set(ids)) == 40
    assert ids == [row["post_id"] for row in rows_by_table(out)]
    counts = (summary.posts, summary.tagged, summary.kept, summary.rejected, summary.parts, summary.skipped_parts)
    assert counts == (46, 40, 0, 6, 6, 0)
    assert summary.model_version == version
    by_id = {row["post_id"]: row for row in rows}
    statuses = {post_id: row["status"] for post_id, row in by_id.items() if row["status"] != "ok"}
    assert statuses == {
        "post-0-00003": "image_unreadable",
        "post-0-00004": "image_missing",
        "post-0-00005": "caption_missing",
        "post-0-00006": "empty",
        "post-1-00004": "image_missing",
        "bare": "empty",
    }
    assert by_id["post-1-00003"]["status"] == "ok"
    assert "leads out of the archive" in by_id["post-1-00004"]["detail"]
    for row in rows:
        assert len(row["hashtags"]) == len(row["scores"]) == 10
        assert row["scores"] == sorted(row["scores"], reverse=True)
        assert (row["model_name"], row["model_version"], row["model"]) == ("toy", version, "toy")
    assert (by_id["post-0-00007"]["part"], by_id["post-0-00007"]["part_row"]) == ("nested/b é #1.parquet", 0)
    assert (by_id["post-0-00008"]["part"], by_id["post-0-00008"]["part_row"]) == ("a.parquet", 8)
    assert [(item["part"], item["row"], item["post_id"], item["rows"]) for item in rejected(out)] == [
        ("a.parquet", 7, "post-0-00007", 1),
        ("c bare.parquet", 1, None, 1),
        ("html.parquet", None, None, 1),
        ("nested/b é #1.parquet", 1, "post-0-00008", 1),
        ("nested/b é #1.parquet", 2, None, 1),
        ("noid.parquet", None, None, 1),
    ]


def test_tags_are_those_of_the_recommender(tagged: tuple[Path, TagSummary], troubled: Path, linear: Path) -> None:
    posts = pq.read_table(troubled / "a.parquet")
    expected = {row["post_id"]: row for row in Recommender.load(str(linear), "cpu").recommend(posts).to_pylist()}
    for row in rows_by_table(tagged[0]):
        if row["part"] == "a.parquet":
            assert row["scores"] == pytest.approx(expected[row["post_id"]]["scores"], abs=5e-3)
            assert row["status"] == expected[row["post_id"]]["status"]


def test_records_and_files(tagged: tuple[Path, TagSummary], troubled: Path, linear: Path) -> None:
    out, _ = tagged
    (output,) = output_of(out)
    parts = output.records.parts
    footers = {}
    for path in troubled.rglob("*.parquet"):
        name = str(path.relative_to(troubled))
        footers[name] = 0 if name in ("html.parquet", "noid.parquet") else pq.read_metadata(path).num_rows
    assert {path: part.rows for path, part in parts.items()} == footers
    assert all(
        part.tagged + part.rejected == max(1, part.rows) for path, part in parts.items() if path != "empty.parquet"
    )
    assert output.records.settings is not None
    assert output.records.settings.top_k == 10
    files = output.tables()[0].files(output.layout.values)
    assert {str(path.relative_to(out)) for path in out.glob(GLOB)} == {file.path for file in files}
    assert all(pq.read_schema(out / file.path).equals(TABLE) for file in files)
    assert all((out / file.path).stat().st_size == file.size for file in files)
    assert not storage.exists(output.layout.chunks) or not list(Path(output.layout.chunks).rglob("*.parquet"))
    (record,) = [json.loads(path.read_text()) for path in Path(output.layout.runs).iterdir()]
    assert record["status"] == "done"
    assert sum(record["statuses"].values()) == record["tagged"] == 40


def test_duckdb_and_polars_read_the_glob_and_the_table(tagged: tuple[Path, TagSummary]) -> None:
    glob = f"{tagged[0]}/{GLOB}"
    counted = duckdb.sql(
        f"SELECT count(*), count(DISTINCT post_id), min(len(hashtags)), min(model) FROM read_parquet('{glob}')"
    )
    assert counted.fetchall() == [(40, 40, 10, "toy")]
    for frame in (pl.scan_parquet(glob).collect(), pl.scan_delta(str(tagged[0])).collect()):
        assert frame.height == frame["post_id"].n_unique() == 40
        assert frame.schema["scores"] == pl.List(pl.Float32)
        assert frame.schema["hashtags"] == pl.List(pl.String)


def test_a_rerun_changes_no_file(tagged: tuple[Path, TagSummary], troubled: Path, linear: Path) -> None:
    out, first = tagged
    before = state(out)
    plan = plan_for(troubled, out, linear)
    assert plan.is_done
    summary = tag(plan)
    assert (summary.posts, summary.tagged, summary.parts, summary.skipped_parts) == (0, 0, 0, 6)
    assert first.seconds > 0
    assert state(out) == before


def test_new_and_changed_parts_alone_are_tagged(
    inline: None, popularity: Path, tmp_path: Path, make_posts: Callable, write_part: Callable
) -> None:
    archive, out = tmp_path / "archive", tmp_path / "out"
    for n in range(3):
        write_part(archive / f"{n}.parquet", make_posts(10, seed=n))
    assert run(archive, out, popularity).parts == 3
    before = state(out)
    write_part(archive / "3.parquet", make_posts(10, seed=3))
    write_part(archive / "1.parquet", make_posts(12, seed=11))
    summary = run(archive, out, popularity)
    assert (summary.posts, summary.tagged, summary.parts, summary.skipped_parts) == (22, 22, 2, 2)
    ids = [row["post_id"] for row in rows_by_glob(out)]
    expected = [
        post["post_id"] for seed, n in ((0, 10), (2, 10), (3, 10), (11, 12)) for post in make_posts(n, seed=seed)
    ]
    assert sorted(ids) == sorted(expected)
    files = [name for name in before if name.startswith("model=")]
    after = state(out)
    assert sum(after.get(name) == before[name] for name in files) == len(files) - 1
    assert run(archive, out, popularity).parts == 0


def test_planning_opens_new_parts_alone(
    inline: None,
    popularity: Path,
    tmp_path: Path,
    make_posts: Callable,
    write_part: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    archive, out = tmp_path / "archive", tmp_path / "out"
    for n in range(30):
        write_part(archive / f"{n:02d}.parquet", make_posts(3, seed=n))
    run(archive, out, popularity)
    write_part(archive / "30.parquet", make_posts(3, seed=30))
    opened: list[str] = []
    open_input = storage.open_input

    def noted(uri: str) -> Any:
        opened.append(uri)
        return open_input(uri)

    monkeypatch.setattr(storage, "open_input", noted)
    run(archive, out, popularity)
    assert {uri for uri in opened if uri.startswith(str(archive))} == {str(archive / "30.parquet")}
    opened.clear()
    assert plan_for(archive, out, popularity).is_done
    assert len(opened) <= 24, "the records alone"


def test_other_settings_are_refused_and_other_models_have_their_own_folder(
    inline: None,
    popularity: Path,
    tmp_path: Path,
    make_posts: Callable,
    write_archive: Callable,
    make_model_folder: Callable,
) -> None:
    archive, out = write_archive(tmp_path / "archive", make_posts(10)), tmp_path / "out"
    run(archive, out, popularity)
    with pytest.raises(ConfigError, match="top_k was 10, now 3"):
        plan_for(
            archive,
            out,
            popularity,
            RECIPE.model_copy(update={"tagging": RECIPE.tagging.model_copy(update={"top_k": 3})}),
        )
    other = write_archive(tmp_path / "other", make_posts(10, seed=1))
    with pytest.raises(ConfigError, match=r"archive was '.*/archive', now '.*/other'"):
        plan_for(other, out, popularity)
    second = make_model_folder(tmp_path / "second", family="popularity", seed=1)
    assert run(archive, out, second).tagged == 10
    rows = rows_by_glob(out)
    assert len(rows) == 20
    assert len({(row["post_id"], row["model_version"]) for row in rows}) == 20


@pytest.mark.parametrize("name", ["with space", "a/b", "100%", "ünï #1", "it's", "a=b", 'quo"te', "日本"])
def test_names_of_models_are_one_folder_and_one_value(
    inline: None, tmp_path: Path, popularity: Path, make_posts: Callable, write_archive: Callable, name: str
) -> None:
    archive, out = write_archive(tmp_path / "archive", make_posts(5)), tmp_path / "out"
    plan = plan_for(archive, out, popularity)
    import dataclasses

    model = dataclasses.replace(plan.request.model, name=name)
    from hashtag_core.tagging.plan import plan_tagging

    for posts in (5, 0):
        assert tag(plan_tagging(dataclasses.replace(plan.request, model=model))).tagged == posts
    assert {row["model"] for row in rows_by_glob(out)} == {name}
    assert set(pl.scan_delta(str(out)).collect()["model"]) == {name}
    assert len(rows_by_table(out)) == 5


def test_a_part_that_changes_meanwhile_is_not_committed(
    inline: None,
    popularity: Path,
    tmp_path: Path,
    make_posts: Callable,
    write_archive: Callable,
    write_part: Callable,
) -> None:
    archive, out = write_archive(tmp_path / "archive", make_posts(20)), tmp_path / "out"
    plan = plan_for(archive, out, popularity)
    write_part(archive / "posts-0000.parquet", make_posts(10, seed=3))
    with pytest.raises(
        HashtagError, match=r"1 part\(s\) could not be tagged whole.*posts-0000\.parquet changed"
    ) as caught:
        tag(plan)
    assert caught.value.summary["parts"] == 1  # type: ignore[attr-defined]
    assert len(rows_by_glob(out)) == 10
    run(archive, out, popularity)
    assert len(rows_by_glob(out)) == 20


def test_a_part_that_cannot_be_written_does_not_hold_up_the_others(
    inline: None,
    popularity: Path,
    tmp_path: Path,
    make_posts: Callable,
    write_part: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    archive, out = tmp_path / "archive", tmp_path / "out"
    for n in range(3):
        write_part(archive / f"{n}.parquet", [*make_posts(5, seed=n), {"post_id": ""}])
    with monkeypatch.context() as patch:
        write = Table.write

        def fail(table: Table, path: str, rows: Any, partition: Any) -> Any:
            if "part-" in path and rows["part"][0].as_py() == "0.parquet":
                raise StorageError("no room")
            return write(table, path, rows, partition)

        patch.setattr(Table, "write", fail)
        with pytest.raises(HashtagError, match="no room"):
            run(archive, out, popularity)
    assert len(rows_by_glob(out)) == 10
    assert run(archive, out, popularity).parts == 1
    assert [row["part"] for row in rejected(out)] == ["0.parquet", "1.parquet", "2.parquet"]
    assert len(rows_by_glob(out)) == 15


def test_a_broken_model_is_refused_before_anything_is_written(
    inline: None, tmp_path: Path, make_posts: Callable, write_archive: Callable, make_model_folder: Callable
) -> None:
    broken = make_model_folder(tmp_path / "broken", family="popularity")
    archive, out = write_archive(tmp_path / "archive", make_posts(4)), tmp_path / "out"
    plan = plan_for(archive, out, broken)
    (broken / "weights.safetensors").write_bytes(b"")
    with pytest.raises(IntegrityError, match=r"weights\.safetensors"):
        tag(plan)
    assert not out.exists()


def test_a_run_in_which_nothing_succeeds_stops(
    inline: None,
    popularity: Path,
    tmp_path: Path,
    make_posts: Callable,
    write_archive: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*arguments: Any) -> None:
        raise StorageError("no store")

    monkeypatch.setattr(ChunkTagger, "_tag", fail)
    archive, out = write_archive(tmp_path / "archive", make_posts(40)), tmp_path / "out"
    with pytest.raises(HashtagError, match=r"no chunk could be tagged; .*StorageError: no store"):
        run(archive, out, popularity, Recipe.model_validate({"tagging": {"chunk_rows": 1}}))
    assert rows_by_glob(out) == []
    (record,) = (json.loads(path.read_text()) for path in (out / "_state" / "runs").iterdir())
    assert record["status"] == "failed"


def test_an_archive_that_is_none_is_told_before_anything_is_written(popularity: Path, tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "x.parquet").write_bytes(b"no")
    with pytest.raises(ArchiveError, match="no part holds posts"):
        plan_for(tmp_path / "archive", tmp_path / "out", popularity)
    assert not (tmp_path / "out").exists()


def test_a_second_run_at_once_stops_and_changes_nothing(
    inline: None, troubled: Path, popularity: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = plan_for(troubled, out, popularity)
    with Lease(first.layout.lease, "the first run"):
        before = state(out)
        with pytest.raises(LeaseHeldError, match="the first run"):
            tag(plan_for(troubled, out, popularity))
        assert state(out) == before
    assert tag(first).parts > 0
    late = tag(first)
    assert (late.parts, late.tagged) == (0, 0), "a plan made before another run ended does not tag again"
    assert not storage.exists(first.layout.lease)


def test_files_in_folders_by_day(
    inline: None, popularity: Path, tmp_path: Path, make_posts: Callable, write_part: Callable
) -> None:
    archive, out = tmp_path / "archive", tmp_path / "out"
    day = 86_400_000_000
    posts = [post | {"created_at": None if n == 0 else n * day} for n, post in enumerate(make_posts(6))]
    write_part(archive / "a.parquet", posts)
    run(archive, out, popularity, by_day=True)
    folders = {path.parent.name for path in out.glob(GLOB)}
    assert folders == {"day=__HIVE_DEFAULT_PARTITION__", *(f"day=1970-01-{1 + n:02d}" for n in range(1, 6))}
    frame = pl.scan_delta(str(out)).filter(pl.col("day") == "1970-01-03").collect()
    assert frame["post_id"].to_list() == [posts[2]["post_id"]]
    posts[2]["caption"] = "changed"
    write_part(archive / "a.parquet", posts)
    again = run(archive, out, popularity, by_day=True)
    assert (again.tagged, again.kept) == (1, 5)
    assert len(rows_by_table(out)) == 6
    assert len(list(out.glob(GLOB))) == 6


def test_an_output_inside_the_archive_and_keys_without_a_name_are_refused(popularity: Path, tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    for out in (tmp_path / "archive", tmp_path / "archive" / "out"):
        with pytest.raises(ConfigError, match="is inside --archive"):
            plan_for(tmp_path / "archive", out, popularity)
    with pytest.raises(ConfigError, match="cannot hold a Delta table"):
        plan_for(tmp_path / "archive", "s3://bucket/a//b", popularity)
