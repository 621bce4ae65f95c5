"""Users and posts are forgotten: in the tables and their history, in what is not committed, in what is tagged later; killed
at any step."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hashtag_core import storage
from hashtag_core.distributed.tag import tag
from hashtag_core.errors import IntegrityError
from hashtag_core.output.forget_users.delete import forget
from hashtag_core.output.lease import Lease, LeaseHeldError
from hashtag_core.output.verify import verify_output
from tests.tagging.forgetting import THEIRS, holds, ids_of, tagged
from tests.tagging.outputs import output_of, plan_for, rows_by_table, run
from tests.tagging.stopping import stop_after


@pytest.fixture
def archive(tmp_path: Path, make_posts: Callable, write_part: Callable) -> Path:
    """Two parts of 10 posts of four users, one row that is none, and an id of user-1 that is repeated by a later row."""
    folder = tmp_path / "archive"
    first, second = make_posts(10), make_posts(10, seed=1)
    older = {**second[5], "caption": "an older version", "created_at": 1}
    write_part(folder / "a.parquet", [*first, {"post_id": ""}, older])
    write_part(folder / "nested" / "b.parquet", second)
    return folder


@pytest.fixture
def output(inline: None, archive: Path, popularity: Path, tmp_path: Path) -> Path:
    run(archive, tmp_path / "out", popularity)
    return tmp_path / "out"


def test_they_are_not_tagged_again(
    output: Path,
    archive: Path,
    popularity: Path,
    make_posts: Callable,
    write_part: Callable,
    make_model_folder: Callable,
) -> None:
    """A part that is new, a part that changed, another model: none brings them back."""
    forget(str(output), {THEIRS})
    write_part(archive / "new.parquet", make_posts(8, seed=2))
    write_part(archive / "a.parquet", make_posts(6, seed=3))
    summary = run(archive, output, popularity)
    assert (summary.parts, summary.tagged, summary.rejected) == (2, 8 + 6 - 4, 4)
    second = make_model_folder(archive.parent / "second", family="popularity", seed=1)
    summary = run(archive, output, second)
    assert (summary.parts, summary.tagged, summary.rejected) == (3, 17, 7)
    assert holds(output, ids_of(archive, THEIRS)) == []
    assert verify_output(str(output), str(archive)).problems == []


def test_posts_that_were_delivered_again_without_their_user(
    inline: None, archive: Path, popularity: Path, tmp_path: Path, make_posts: Callable, write_part: Callable
) -> None:
    """A later export leaves the user away: the winner is nobody's, and goes all the same; so do those of a night to come."""
    out = tmp_path / "out"
    run(archive, out, popularity)
    theirs = ids_of(archive, THEIRS)
    again = [{**post, "user_id": None, "created_at": 2**51} for post in make_posts(10) if post["post_id"] in theirs]
    assert len(again) == 3
    write_part(archive / "c.parquet", again[:2])
    run(archive, out, popularity)
    found = forget(str(out), {THEIRS})
    assert (found.tagged, found.remaining) == (6, 0)
    assert tagged(out) & theirs == set()
    write_part(archive / "d.parquet", again)
    assert run(archive, out, popularity).tagged == 0
    assert holds(out, theirs) == []
    assert verify_output(str(out), str(archive)).problems == []


def test_posts_by_their_ids(output: Path, archive: Path, popularity: Path) -> None:
    before = tagged(output)
    gone = set(sorted(before)[:3])
    found = forget(str(output), posts=gone | {"no such post"})
    assert (found.posts, found.tagged, found.remaining) == (4, 3, 0)
    assert tagged(output) == before - gone
    assert holds(output, gone) == []
    assert verify_output(str(output), str(archive)).problems == []
    assert (
        run(
            archive,
            output,
            popularity,
        ).parts
        == 0
    )


def test_an_id_of_two_users_is_deleted_from_the_one(
    inline: None, popularity: Path, tmp_path: Path, make_posts: Callable, write_part: Callable
) -> None:
    """user-2 has the id first, user-1 later: user-1's row goes, and user-2's is tagged by the next run."""
    archive, out = tmp_path / "archive", tmp_path / "out"
    post = make_posts(1)[0]
    write_part(archive / "a.parquet", [{**post, "user_id": "user-2", "created_at": 1}])
    write_part(archive / "b.parquet", [{**post, "user_id": "user-1"}])
    run(archive, out, popularity)
    assert [row["part"] for row in rows_by_table(out)] == ["b.parquet"]
    assert forget(str(out), {"user-1"}).tagged == 1
    assert rows_by_table(out) == []
    run(archive, out, popularity)
    assert [row["part"] for row in rows_by_table(out)] == ["a.parquet"]
    assert verify_output(str(out), str(archive)).problems == []


def test_stopped_at_any_step_the_same_command_finishes(
    output: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, whole = ids_of(archive, THEIRS), output.rename(output.with_name("whole"))
    steps, stopped = 0, True
    while stopped:
        shutil.copytree(whole, output)
        stopped = False
        with monkeypatch.context() as patch:
            stop_after(patch, steps)
            try:
                forget(str(output), {THEIRS})
            except KeyboardInterrupt:
                stopped = True
        rows = rows_by_table(output)
        assert len({row["post_id"] for row in rows}) == len(rows)
        found = forget(str(output), {THEIRS})
        assert (found.remaining, found.users_found) == (0, 1)
        assert holds(output, theirs) == []
        assert len(tagged(output)) == 14
        assert verify_output(str(output), str(archive)).problems == []
        shutil.rmtree(output)
        steps += 1
    assert steps > 12


def test_users_who_have_no_post_are_counted_aloud_and_not_named(output: Path, caplog: pytest.LogCaptureFixture) -> None:
    told = "user(s) have no post here"
    assert forget(str(output), {THEIRS}).users_found == 1
    assert told not in caplog.text
    found = forget(str(output), {THEIRS, "a-typing-error"})
    assert (found.users, found.users_found) == (2, 1)
    assert f"1 of 2 {told}" in caplog.text
    assert "a-typing-error" not in caplog.text


def test_what_older_snapshots_name_is_erased(
    output: Path, archive: Path, popularity: Path, make_posts: Callable, write_part: Callable
) -> None:
    theirs = ids_of(archive, THEIRS)
    write_part(archive / "a.parquet", make_posts(10)[:4])
    run(archive, output, popularity, keep_history_h=24.0)
    kept = sorted(output.glob("model=*/**/part-*.parquet"))
    found = forget(str(output), {THEIRS})
    assert found.erased_files >= 2
    assert len(list(output.glob("model=*/**/part-*.parquet"))) < len(kept)
    assert holds(output, theirs) == []


def test_the_proof_looks_where_the_deed_does_not(output: Path, archive: Path) -> None:
    """Files that no log, no record and no rule knows of: each form in which something of a user may lie around."""
    post = sorted(ids_of(archive, THEIRS))[0]
    strays = {
        "elsewhere/part-x.parquet": lambda path: pq.write_table(pa.table({"anything": [[post]]}), path),
        "_state/copy.parquet": lambda path: pq.write_table(
            pa.table({"x": [1]}).replace_schema_metadata({"note": json.dumps([post])}), path
        ),
        "_state/notes.json": lambda path: path.write_text(json.dumps({"a": [{"b": THEIRS}]})),
        "_rejected/old.jsonl": lambda path: path.write_text(
            json.dumps({"post_id": post}) + "\n" + json.dumps({"post_id": "x"}) + "\n"
        ),
        "_state/counts.jsonl": lambda path: path.write_text(json.dumps({"posts": [[3, post]]}) + "\n"),
        "counts.json": lambda path: path.write_text(json.dumps({"posts": {THEIRS: 3}})),
        "told.parquet": lambda path: pq.write_table(pa.table({"reason": [f"post {post!r}: no score"]}), path),
        "notes.txt": lambda path: path.write_text(f"see {post}"),
    }
    for name, write in strays.items():
        path = output / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path)
        with pytest.raises(IntegrityError, match=f"left in 1 file.*{Path(name).name}") as caught:
            forget(str(output), {THEIRS})
        assert caught.value.summary["remaining"] == 1  # type: ignore[attr-defined]
        path.unlink()
    assert forget(str(output), {THEIRS}).remaining == 0


def test_words_of_the_files_themselves_are_no_users(output: Path, archive: Path) -> None:
    """People may be called as anything is called in a log, a record, a column."""
    words = [
        "part",
        "model",
        "settings",
        "retag",
        "auto",
        "append",
        "Append",
        "forgotten",
        "ok",
        "done",
        "toy",
        "tag001",
        "path",
        "rows",
    ]
    assert forget(str(output), words, ["1", "0", "popularity", "a"]).remaining == 0
    assert len(tagged(output)) == 20


def test_run_records_name_no_post(output: Path, archive: Path) -> None:
    post = sorted(ids_of(archive, THEIRS))[0]
    (record,) = output.glob("_state/runs/*.json")
    record.write_text(
        json.dumps(json.loads(record.read_text()) | {"failures": [f"a.parquet: post {post!r}: no score"]})
    )
    forget(str(output), {THEIRS})
    assert json.loads(record.read_text())["failures"] == ["a.parquet: post a forgotten post: no score"]


def test_a_run_that_was_planned_before_does_not_bring_them_back(
    inline: None, archive: Path, popularity: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(archive, out, popularity)
    (archive / "c.parquet").write_bytes((archive / "a.parquet").read_bytes())
    plan = plan_for(archive, out, popularity)
    forget(str(out), {THEIRS})
    tag(plan)
    assert holds(out, ids_of(archive, THEIRS)) == []
    assert verify_output(str(out), str(archive)).problems == []


def test_while_a_run_tags_nothing_is_deleted(output: Path) -> None:
    before = tagged(output)
    with Lease(output_of(output)[0].layout.lease, "the run"), pytest.raises(LeaseHeldError, match="the run"):
        forget(str(output), {THEIRS})
    assert tagged(output) == before


def test_without_the_archive_the_table_knows_whose_posts_are_which(output: Path, archive: Path) -> None:
    theirs = ids_of(archive, THEIRS)
    archive.rename(archive.with_name("cold"))
    found = forget(str(output), {THEIRS})
    assert (found.tagged, found.users_found, found.remaining) == (6, 1, 0)
    assert holds(output, theirs) == []


def test_rejected_rows_whose_user_nobody_knows(
    inline: None, popularity: Path, tmp_path: Path, make_posts: Callable, write_part: Callable
) -> None:
    """A row that is no post is told with its id alone: as long as no archive has it, nothing is proven."""
    archive, out = tmp_path / "archive", tmp_path / "out"
    write_part(archive / "a.parquet", make_posts(4))
    bad = pa.table({"post_id": ["theirs"], "user_id": [THEIRS], "caption": pa.array([[1]], pa.list_(pa.int64()))})
    pq.write_table(bad, archive / "b.parquet")
    run(archive, out, popularity)
    archive.rename(tmp_path / "cold")
    with pytest.raises(IntegrityError, match=r"of 1 row\(s\) it cannot be told whose they are") as caught:
        forget(str(out), {THEIRS})
    assert caught.value.summary["unknown"] == 1  # type: ignore[attr-defined]
    found = forget(str(out), {THEIRS}, archive=str(tmp_path / "cold"))
    assert (found.rejected, found.remaining, found.unknown) == (1, 0, 0)
    assert holds(out, {"theirs"}) == []


def test_a_model_that_reads_histories(inline: None, archive: Path, tmp_path: Path, make_model_folder: Callable) -> None:
    """Columns, histories and hashes of histories: nothing of the user stays, and nothing but the user's posts is done again."""
    out, model = tmp_path / "out", make_model_folder(tmp_path / "frequency", family="user_frequency")
    run(archive, out, model)
    assert list(out.glob("_state/*/*/columns/*.npz"))
    found = forget(str(out), {THEIRS})
    assert (found.tagged, found.remaining) == (6, 0)
    assert found.histories > 0
    again = run(archive, out, model)
    assert (again.tagged, again.parts) == (0, 0)
    assert forget(str(out), {THEIRS}).remaining == 0, "the columns that the run read anew hold nothing of them"
    assert verify_output(str(out), str(archive)).problems == []


def test_on_s3(output: Path, archive: Path, s3_bucket: str) -> None:
    storage.upload_folder(output, f"{s3_bucket}/out")
    found = forget(f"{s3_bucket}/out", {THEIRS})
    assert (found.tagged, found.remaining, found.unknown) == (6, 0, 0)
    checked = verify_output(f"{s3_bucket}/out")
    assert (checked.problems, checked.tagged) == ([], 14)
