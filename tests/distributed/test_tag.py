"""Tagging archives on a real Ray: every trouble, reruns, kills, S3."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hashtag_core import storage
from hashtag_core.config import Recipe
from hashtag_core.data.posts import Rejected
from hashtag_core.distributed import tag_chunks, tag_task
from hashtag_core.distributed.lease import Lease, LeaseHeldError
from hashtag_core.distributed.tag import tag
from hashtag_core.distributed.tag_chunks import ChunkTagger
from hashtag_core.distributed.tag_job import TagJob, TagSummary, plan_tagging
from hashtag_core.distributed.tag_plan import Chunk
from hashtag_core.distributed.tag_task import Task, Work
from hashtag_core.errors import ArchiveError, ConfigError, HashtagError, IntegrityError, NotFoundError, StorageError
from hashtag_core.recommend.posts import OpenedPosts
from hashtag_core.recommend.recommender import Recommender
from hashtag_core.schema import TAGGED
from hashtag_core.tracking.registry import resolve_model
from jobs.tag import main

RECIPE = Recipe.model_validate({"tagging": {"chunk_rows": 8, "chunks_per_task": 2, "actors": 1}})


@pytest.fixture(scope="module")
def troubled(
    tmp_path_factory: pytest.TempPathFactory, make_posts: Callable, make_jpeg: Callable, write_part: Callable
) -> Path:
    """An archive with every trouble: 39 posts that can be tagged, 4 rows and 2 parts that cannot."""
    folder = tmp_path_factory.mktemp("troubled")
    posts = make_posts(30)
    posts[3] |= {"image": make_jpeg(3, width=300, height=300)[:2000]}
    posts[4] |= {"image": None}
    posts[5] |= {"caption": None}
    posts[6] |= {"image": None, "caption": " #only #tags "}
    write_part(folder / "a.parquet", posts, row_group_size=11)
    others = make_posts(12, seed=1)
    others[0] |= {"post_id": posts[7]["post_id"], "created_at": 1_700_000_000_000_000}
    others[1] |= {"post_id": posts[8]["post_id"], "created_at": 1_000_000_000_000_000}
    others[2] |= {"post_id": ""}
    others[3] |= {"image": None, "image_uri": "pictures/one.jpg"}
    others[4] |= {"image": None, "image_uri": "/etc/passwd"}
    write_part(folder / "nested" / "b é #1.parquet", others)
    (folder / "pictures").mkdir()
    (folder / "pictures" / "one.jpg").write_bytes(make_jpeg(99))
    pq.write_table(pa.table({"post_id": pa.array(["bare", None])}), folder / "c bare.parquet")
    write_part(folder / "empty.parquet", [])
    (folder / "html.parquet").write_text("<html>not found</html>")
    pq.write_table(pa.table({"id": ["x"]}), folder / "noid.parquet")
    return folder


@pytest.fixture(scope="module")
def tagged(
    ray_session: None, troubled: Path, linear: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, TagSummary]:
    """The troubled archive, tagged on Ray; not to be changed."""
    out = tmp_path_factory.mktemp("tagged")
    return out, run(troubled, out, linear)


def job_for(archive: Path | str, out: Path | str, model: Path | str, recipe: Recipe = RECIPE) -> TagJob:
    return plan_tagging(recipe, str(archive), str(out), resolve_model(str(model)))


def run(archive: Path | str, out: Path | str, model: Path | str, recipe: Recipe = RECIPE) -> TagSummary:
    return tag(job_for(archive, out, model, recipe))


def content(out: Path | str) -> list[dict[str, Any]]:
    """Every tagged row, with the part it came from."""
    rows = []
    for info in storage.list_files(str(out), ".parquet"):
        with storage.open_input(info.uri) as source:
            table = pq.read_table(source)
        assert table.schema.equals(TAGGED)
        rows += [{"part": info.path.rpartition("/")[0], **row} for row in table.to_pylist()]
    return sorted(rows, key=lambda row: row["post_id"])


def rejected(out: Path | str) -> list[dict[str, Any]]:
    try:
        files = storage.list_files(storage.join(str(out), "_rejected"))
    except NotFoundError:
        return []
    rows = [json.loads(line) for info in files for line in storage.read_bytes(info.uri).decode().splitlines()]
    return sorted(rows, key=lambda row: (row["part"], row["row"] or 0))


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
    rows = content(out)
    ids = [row["post_id"] for row in rows]
    assert len(ids) == len(set(ids)) == 40
    assert (summary.posts, summary.tagged, summary.rejected, summary.parts, summary.skipped_parts) == (44, 40, 6, 6, 0)
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
        assert (row["model_name"], row["model_version"]) == ("toy", version)
    root = f"model=toy/version={version}"
    assert by_id["post-0-00007"]["part"] == f"{root}/nested/b é #1.parquet"
    assert by_id["post-0-00008"]["part"] == f"{root}/a.parquet"
    assert [(item["part"], item["row"], item["post_id"]) for item in rejected(out)] == [
        ("a.parquet", 7, "post-0-00007"),
        ("c bare.parquet", 1, None),
        ("html.parquet", None, None),
        ("nested/b é #1.parquet", 1, "post-0-00008"),
        ("nested/b é #1.parquet", 2, None),
        ("noid.parquet", None, None),
    ]


def test_tags_are_those_of_the_recommender(tagged: tuple[Path, TagSummary], troubled: Path, linear: Path) -> None:
    posts = pq.read_table(troubled / "a.parquet")
    expected = {row["post_id"]: row for row in Recommender.load(str(linear), "cpu").recommend(posts).to_pylist()}
    for row in content(tagged[0]):
        if row["part"].endswith("a.parquet"):
            assert row["scores"] == pytest.approx(expected[row["post_id"]]["scores"], abs=5e-3)
            assert row["status"] == expected[row["post_id"]]["status"]


def test_layout_and_records(tagged: tuple[Path, TagSummary], troubled: Path, linear: Path) -> None:
    tmp_path, _ = tagged
    version = json.loads((linear / "model.json").read_text())["version"]
    partition = f"model=toy/version={version}"
    state_folder = tmp_path / "_state" / partition
    plan = job_for(troubled, tmp_path, linear).plan
    for part in plan.parts:
        manifest = json.loads((state_folder / "manifests" / part.path / f"{part.id}.json").read_text())
        assert (manifest["etag"], manifest["model_version"]) == (part.etag, version)
        assert manifest["rows"] == part.rows
        files = [tmp_path / file["path"] for file in manifest["files"]]
        assert [pq.read_metadata(file).num_rows for file in files] == [file["rows"] for file in manifest["files"]]
        assert all(file.parent == tmp_path / partition / part.path for file in files)
        assert [file.name for file in files] == [f"part-{part.id}-{n:05d}.parquet" for n in range(len(files))]
    assert json.loads((state_folder / "_SUCCESS").read_text())["plan"] == plan.id
    assert not (state_folder / "chunks").exists() or not any((state_folder / "chunks").rglob("*"))
    (record,) = [json.loads(path.read_text()) for path in (tmp_path / "_state" / "runs").iterdir()]
    assert record["status"] == "done"
    assert sum(record["statuses"].values()) == record["tagged"] == 40
    outside = [path for path in tmp_path.rglob("part-*.parquet") if "_state" in path.parts]
    assert outside == []


def test_duckdb_and_polars_read_the_glob(tagged: tuple[Path, TagSummary]) -> None:
    glob = f"{tagged[0]}/model=*/version=*/**/part-*.parquet"
    counted = duckdb.sql(
        f"SELECT count(*), count(DISTINCT post_id), min(len(hashtags)), min(model) FROM read_parquet('{glob}')"
    )
    assert counted.fetchall() == [(40, 40, 10, "toy")]
    frame = pl.scan_parquet(glob).collect()
    assert frame.height == frame["post_id"].n_unique() == 40
    assert frame.schema["scores"] == pl.List(pl.Float32)
    assert frame.schema["hashtags"] == pl.List(pl.String)


def test_a_rerun_changes_no_file(
    tagged: tuple[Path, TagSummary], troubled: Path, linear: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, first = tagged
    before = state(out)
    job = job_for(troubled, out, linear)
    assert job.is_done
    summary = tag(job)
    assert (summary.posts, summary.tagged, summary.parts, summary.skipped_parts) == (0, 0, 0, 6)
    flags = ["--archive", str(troubled), "--out", str(out), "--model", str(linear), "--chunk-rows", "8"]
    assert main(flags) == 0
    told = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert set(told) == {
        *("posts", "tagged", "rejected", "parts", "skipped_parts", "model_version", "seconds", "posts_per_second")
    }
    assert first.seconds > 0
    assert main([*flags, "--dry-run"]) == 0
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
    ids = [row["post_id"] for row in content(out)]
    expected = [
        post["post_id"] for seed, n in ((0, 10), (2, 10), (3, 10), (11, 12)) for post in make_posts(n, seed=seed)
    ]
    assert sorted(ids) == sorted(expected)
    after = state(out)
    kept = [name for name in before if "/0.parquet/" in name or "/2.parquet/" in name]
    assert kept
    assert all(after[name] == before[name] for name in kept)
    assert run(archive, out, popularity).parts == 0


def test_a_newer_post_elsewhere_takes_the_older_one_out(
    inline: None, popularity: Path, tmp_path: Path, make_posts: Callable, write_part: Callable
) -> None:
    archive, out = tmp_path / "archive", tmp_path / "out"
    posts = make_posts(10)
    write_part(archive / "0.parquet", posts[:5])
    write_part(archive / "1.parquet", posts[5:])
    run(archive, out, popularity)
    write_part(archive / "2.parquet", [posts[2] | {"created_at": 1_800_000_000_000_000}])
    summary = run(archive, out, popularity)
    assert (summary.parts, summary.skipped_parts, summary.tagged, summary.rejected) == (2, 1, 5, 1)
    rows = content(out)
    assert [row["post_id"] for row in rows] == [post["post_id"] for post in posts]
    assert rows[2]["part"].endswith("/2.parquet")


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
        job_for(
            archive,
            out,
            popularity,
            RECIPE.model_copy(update={"tagging": RECIPE.tagging.model_copy(update={"top_k": 3})}),
        )
    other = write_archive(tmp_path / "other", make_posts(10, seed=1))
    with pytest.raises(ConfigError, match=r"archive was '.*/archive', now '.*/other'"):
        job_for(other, out, popularity)
    second = make_model_folder(tmp_path / "second", family="popularity", seed=1)
    assert run(archive, out, second).tagged == 10
    rows = content(out)
    assert len(rows) == 20
    assert len({(row["post_id"], row["model_version"]) for row in rows}) == 20


def test_on_s3(
    ray_session: None, s3_bucket: str, linear: Path, troubled: Path, tagged: tuple[Path, TagSummary]
) -> None:
    archive, out, model = (storage.join(s3_bucket, name) for name in ("posts", "tagged", "model"))
    storage.upload_folder(troubled, archive)
    storage.upload_folder(linear, model)
    summary = run(archive, out, model)
    assert (summary.tagged, summary.rejected, summary.parts) == (40, 6, 6)
    rows, local = content(out), content(tagged[0])
    elsewhere = {"post-1-00004"}  # "/etc/passwd" below a bucket is a key that is not there
    for row, expected in zip(rows, local, strict=True):
        same = expected if row["post_id"] not in elsewhere else {**expected, "detail": row["detail"]}
        assert {**row, "part": ""} == {**same, "part": ""}
    before = [(info.uri, info.etag, info.modified) for info in storage.list_files(s3_bucket, hidden=True)]
    assert job_for(archive, out, model).is_done
    run(archive, out, model)
    assert [(info.uri, info.etag, info.modified) for info in storage.list_files(s3_bucket, hidden=True)] == before


def test_every_step_of_publishing_can_be_repeated(
    inline: None, troubled: Path, popularity: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped before each write, move or removal in turn, the rerun makes the undisturbed output, rejected rows once."""
    run(troubled, tmp_path / "undisturbed", popularity)
    out = tmp_path / "out"
    stops = 0
    while not (out.exists() and job_for(troubled, out, popularity).is_done):
        with monkeypatch.context() as patch:
            stop_after(patch, 1 + 2 * (stops % 7))
            try:
                run(troubled, out, popularity)
            except KeyboardInterrupt:
                stops += 1
        assert stops < 60
    assert stops > 5
    assert content(out) == content(tmp_path / "undisturbed")
    assert rejected(out) == rejected(tmp_path / "undisturbed")


def stop_after(patch: pytest.MonkeyPatch, calls: int) -> None:
    """After so many writes, moves and removals the next one does not happen: KeyboardInterrupt in its place."""
    left = [calls]

    def stopping(function: Callable) -> Callable:
        def called(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return function(*arguments, **options)

        return called

    for name in ("write_json", "write_bytes", "move", "remove", "remove_tree"):
        patch.setattr(storage, name, stopping(getattr(storage, name)))


def test_chunks_of_a_part_that_changed_are_not_read(
    inline: None,
    popularity: Path,
    tmp_path: Path,
    make_posts: Callable,
    write_part: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A run is stopped half way through publishing a part, then the part changes."""
    archive, out = tmp_path / "archive", tmp_path / "out"
    write_part(archive / "0.parquet", [*make_posts(20), {"post_id": ""}])
    with monkeypatch.context() as patch:
        write_json = storage.write_json

        def stop(uri: str, value: Any) -> None:
            if "/manifests/" in uri:
                raise KeyboardInterrupt
            write_json(uri, value)

        patch.setattr(storage, "write_json", stop)
        with pytest.raises(KeyboardInterrupt):
            run(archive, out, popularity)
    assert len(content(out)) == 20
    write_part(archive / "0.parquet", make_posts(9, seed=5))
    run(archive, out, popularity)
    assert [row["post_id"] for row in content(out)] == [post["post_id"] for post in make_posts(9, seed=5)]
    assert rejected(out) == []


def test_a_part_that_changes_meanwhile_is_not_published(
    inline: None,
    popularity: Path,
    tmp_path: Path,
    make_posts: Callable,
    write_archive: Callable,
    write_part: Callable,
) -> None:
    archive, out = write_archive(tmp_path / "archive", make_posts(20)), tmp_path / "out"
    job = job_for(archive, out, popularity)
    write_part(archive / "posts-0000.parquet", make_posts(10, seed=3))
    with pytest.raises(
        HashtagError, match=r"1 part\(s\) could not be tagged whole.*posts-0000\.parquet changed"
    ) as caught:
        tag(job)
    assert caught.value.summary["parts"] == 1  # type: ignore[attr-defined]
    assert len(content(out)) == 10
    assert not list(out.rglob("_SUCCESS"))
    run(archive, out, popularity)
    assert len(content(out)) == 20


def test_parts_that_fail_to_publish_keep_their_rejected_rows(
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
        write_json = storage.write_json

        def fail(uri: str, value: Any) -> None:
            if "/manifests/0.parquet/" in uri:
                raise StorageError("no room")
            write_json(uri, value)

        patch.setattr(storage, "write_json", fail)
        with pytest.raises(HashtagError, match="no room"):
            run(archive, out, popularity)
    assert run(archive, out, popularity).parts == 1
    assert [row["part"] for row in rejected(out)] == ["0.parquet", "1.parquet", "2.parquet"]
    assert len(content(out)) == 15


def test_a_run_in_which_nothing_succeeds_stops(
    inline: None,
    popularity: Path,
    tmp_path: Path,
    make_posts: Callable,
    write_archive: Callable,
    make_model_folder: Callable,
) -> None:
    broken = make_model_folder(tmp_path / "broken", family="popularity")
    archive, out = write_archive(tmp_path / "archive", make_posts(40)), tmp_path / "out"
    job = job_for(archive, out, broken, Recipe.model_validate({"tagging": {"chunk_rows": 1}}))
    (broken / "weights.safetensors").write_bytes(b"")
    with pytest.raises(HashtagError, match=r"no chunk could be tagged; .*IntegrityError: .*weights\.safetensors"):
        tag(job)
    assert not list(out.rglob("*.parquet"))
    (record,) = (json.loads(path.read_text()) for path in (out / "_state" / "runs").iterdir())
    assert record["status"] == "failed"


# One chunk tagger alone, without Ray


class Poisoned:
    """The recommender, but for posts whose caption names a fault."""

    def __init__(self, recommender: Recommender) -> None:
        self._recommender = recommender
        self.tagged: list[int] = []

    def open_posts(self, posts: pa.Table, archive: str | None = None) -> OpenedPosts:
        if any("cannot be opened" in (caption or "") for caption in posts["caption"].to_pylist()):
            raise KeyError("opened")
        return self._recommender.open_posts(posts, archive=archive)

    def tag(self, posts: OpenedPosts, top_k: int) -> pa.Table:
        self.tagged.append(len(posts))
        captions = " ".join(caption or "" for caption in posts.captions)
        for told, error in {
            "cannot be scored": ValueError,
            "disk": StorageError,
            "broken model": IntegrityError,
        }.items():
            if told in captions:
                raise error(told)
        return self._recommender.tag(posts, top_k)


@pytest.fixture
def tagger(popularity: Path, tmp_path: Path) -> ChunkTagger:
    version = json.loads((popularity / "model.json").read_text())["version"]
    work = Work(
        archive=str(tmp_path / "archive"),
        staging=str(tmp_path / "chunks"),
        encoders=str(tmp_path / "encoders.json"),
        model_folder=str(popularity),
        model_name="toy",
        model_version="1",
        model_hash=version,
        top_k=5,
        threads=1,
        device="cpu",
        encoding={"backend": "auto", "precision": "auto", "batch_size": 64},
    )
    tagger = ChunkTagger(work)
    tagger._recommender = Poisoned(tagger.recommender)  # type: ignore[assignment]
    return tagger


TASK = Task("id", "a.parquet", [Chunk(0, 0, 0, 0, 5), Chunk(1, 0, 5, 5, 5)], [])


def chunk_rows(tagger: ChunkTagger, number: int) -> tuple[list[str], list[dict[str, Any]]]:
    file = pq.ParquetFile(f"{tagger.work.staging}/id/{number:05d}.parquet")
    assert file.schema_arrow.equals(TAGGED)
    return file.read()["post_id"].to_pylist(), json.loads(file.metadata.metadata[tag_chunks.REJECTED_KEY])


def test_a_post_that_always_fails_is_rejected_alone(
    tagger: ChunkTagger, tmp_path: Path, make_posts: Callable, write_part: Callable
) -> None:
    posts = make_posts(10)
    posts[1]["caption"] = "cannot be scored"
    posts[7]["caption"] = "cannot be opened"
    write_part(tmp_path / "archive" / "a.parquet", posts)
    outcomes = list(tagger.run(TASK))
    assert [(o["chunk"], o["tagged"], o["error"]) for o in outcomes] == [(0, 4, None), (1, 4, None)]
    ids, told = chunk_rows(tagger, 0)
    assert ids == [posts[n]["post_id"] for n in (0, 2, 3, 4)]
    assert told == [vars(Rejected("a.parquet", 1, posts[1]["post_id"], "ValueError: cannot be scored"))]
    ids, told = chunk_rows(tagger, 1)
    assert ids == [posts[n]["post_id"] for n in (5, 6, 8, 9)]
    assert [(item["row"], item["reason"]) for item in told] == [(7, "KeyError: 'opened'")]
    assert tagger.recommender.tagged[:3] == [5, 5, 1]  # type: ignore[attr-defined]


@pytest.mark.parametrize("fault", ["disk", "broken model"])
def test_what_is_no_fault_of_a_post_rejects_none(
    tagger: ChunkTagger, tmp_path: Path, make_posts: Callable, write_part: Callable, fault: str
) -> None:
    posts = make_posts(10)
    posts[1]["caption"] = fault
    write_part(tmp_path / "archive" / "a.parquet", posts)
    first, second = tagger.run(TASK)
    assert fault in first["error"]
    assert second["tagged"] == 5
    assert not storage.exists(f"{tagger.work.staging}/id/00000.parquet")
    posts[1]["caption"] = "fine now"
    write_part(tmp_path / "archive" / "a.parquet", posts)
    again, held = tagger.run(TASK)
    assert (again["chunk"], again["tagged"], again["error"]) == (0, 5, None)
    assert held == {**second, "seconds": 0.0}, "a repeated task must report every chunk, at its own position"


def test_a_part_broken_in_the_middle(
    tagger: ChunkTagger, tmp_path: Path, make_posts: Callable, write_part: Callable
) -> None:
    path = write_part(tmp_path / "archive" / "a.parquet", make_posts(10), compression="none", use_dictionary=False)
    content = bytearray(path.read_bytes())
    column = pq.ParquetFile(path).metadata.row_group(0).column(5)
    assert column.path_in_schema == "image"
    content[column.data_page_offset : column.data_page_offset + 30] = b"\xff" * 30
    path.write_bytes(content)
    outcomes = list(tagger.run(Task("id", "a.parquet", TASK.chunks, [3])))
    assert [(o["tagged"], o["error"]) for o in outcomes] == [(0, None), (0, None)]
    told = chunk_rows(tagger, 0)[1] + chunk_rows(tagger, 1)[1]
    assert [item["row"] for item in told] == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert all("expected a Parquet file" in item["reason"] for item in told)


def test_wrong_types_are_rejected_row_by_row(tagger: ChunkTagger, tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    pq.write_table(
        pa.table({"post_id": list("abcdefghij"), "caption": [1, None] * 5}), tmp_path / "archive" / "a.parquet"
    )
    assert [outcome["tagged"] for outcome in tagger.run(TASK)] == [2, 3]
    ids, told = chunk_rows(tagger, 0)
    assert ids == ["b", "d"]
    assert [(item["row"], item["reason"]) for item in told] == [
        (row, "caption: expected string, found int64") for row in (0, 2, 4)
    ]


def test_a_storage_that_fails_is_told_for_every_chunk(tagger: ChunkTagger) -> None:
    outcomes = list(tagger.run(TASK))
    assert [outcome["chunk"] for outcome in outcomes] == [0, 1]
    assert all("NotFoundError" in outcome["error"] for outcome in outcomes)


def test_another_model_or_backend_than_planned_is_refused(popularity: Path, linear: Path, tagger: ChunkTagger) -> None:
    import dataclasses

    wrong = ChunkTagger(dataclasses.replace(tagger.work, model_hash="0" * 12))
    assert "IntegrityError" in next(wrong.run(TASK))["error"]
    storage.write_json(tagger.work.encoders, {"text": "torch-float64"})
    version = json.loads((linear / "model.json").read_text())["version"]
    other = ChunkTagger(dataclasses.replace(tagger.work, model_folder=str(linear), model_hash=version))
    assert "the output was begun with {'text': 'torch-float64'}" in next(other.run(TASK))["error"]


def test_the_model_is_copied_to_a_node_that_lacks_it(
    popularity: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tag_task.tempfile, "gettempdir", lambda: str(tmp_path))
    version = json.loads((popularity / "model.json").read_text())["version"]
    files = {path.name: path.read_bytes() for path in popularity.iterdir()}
    assert tag_task.local_model(str(popularity), version, files) == popularity
    copy = tag_task.local_model("/nowhere", version, files)
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == files
    assert tag_task.local_model("/nowhere", version, {}) == copy
    assert [path.name for path in copy.parent.iterdir()] == [version]


# The command


def fails(flags: list[str], capfd: pytest.CaptureFixture[str], code: int = 2) -> str:
    assert main(flags) == code
    captured = capfd.readouterr()
    assert captured.out == ""
    (line,) = [line for line in captured.err.splitlines() if line.startswith("tag: ")]
    assert "Traceback" not in captured.err
    return line


def test_wrong_commands_end_with_2_and_one_line(
    capfd: pytest.CaptureFixture[str],
    popularity: Path,
    tmp_path: Path,
    make_posts: Callable,
    write_archive: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    archive = str(write_archive(tmp_path / "archive", make_posts(4)))
    out, model = str(tmp_path / "out"), str(popularity)
    good = ["--archive", archive, "--out", out, "--model", model]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/none/mlflow.db")
    monkeypatch.chdir(tmp_path)
    assert "nowhere" in fails(["--archive", f"{tmp_path}/nowhere", *good[2:]], capfd)
    (tmp_path / "bare").mkdir()
    assert "without a part" in fails(["--archive", f"{tmp_path}/bare", *good[2:]], capfd)
    (tmp_path / "noid").mkdir()
    pq.write_table(pa.table({"id": ["x"]}), tmp_path / "noid" / "a.parquet")
    assert "post_id: column missing, found id" in fails(["--archive", f"{tmp_path}/noid", *good[2:]], capfd)
    assert "no/such" in fails([*good[:4], "--model", "no/such"], capfd)
    assert "is inside --archive" in fails(["--archive", archive, "--out", f"{archive}/x", "--model", model], capfd)
    assert "--out" in fails(["--archive", archive], capfd)
    assert "did you mean '--top-k'" in fails([*good, "--topk", "3"], capfd)
    assert "top_k" in fails([*good, "--top-k", "0"], capfd)
    assert "top_k" in fails([*good, "--top-k", "many"], capfd)
    assert "did you mean 'chunk_rows'" in fails([*good, "--set", "tagging.chunk_row=3"], capfd)
    assert "gs://" in fails(["--archive", "gs://x/y", *good[2:]], capfd)
    told = fails([], capfd)
    assert "no champion yet: run" in told
    assert not Path(out).exists()
    assert not (tmp_path / "demo").exists()


def test_dry_run_touches_nothing(
    capfd: pytest.CaptureFixture[str], popularity: Path, tmp_path: Path, troubled: Path
) -> None:
    out = tmp_path / "out"
    assert main(["--archive", str(troubled), "--out", str(out), "--model", str(popularity), "--dry-run"]) == 0
    summary = json.loads(capfd.readouterr().out)
    assert (summary["posts"], summary["parts"], summary["skipped_parts"], summary["tagged"]) == (44, 6, 0, 0)
    assert not out.exists()


def test_an_archive_that_is_none_is_told_before_anything_is_written(popularity: Path, tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "x.parquet").write_bytes(b"no")
    with pytest.raises(ArchiveError, match="no part holds posts"):
        job_for(tmp_path / "archive", tmp_path / "out", popularity)
    assert not (tmp_path / "out").exists()


def test_a_second_run_at_once_stops_and_changes_nothing(
    inline: None, troubled: Path, popularity: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = job_for(troubled, out, popularity)
    with Lease(first.layout.lease, "the first run"):
        before = state(out)
        with pytest.raises(LeaseHeldError, match="the first run"):
            tag(job_for(troubled, out, popularity))
        assert state(out) == before
    assert tag(first).parts > 0
    late = tag(first)
    assert (late.parts, late.tagged) == (0, 0), "a plan made before another run ended does not tag again"
    assert not storage.exists(first.layout.lease)
