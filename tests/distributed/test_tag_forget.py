"""Users are forgotten: in what is published, in what is not yet, in what is tagged later; killed at any step."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hashtag_core.distributed.forget_list import FORGOTTEN, ForgetList, read_users
from hashtag_core.distributed.lease import Lease, LeaseHeldError
from hashtag_core.distributed.tag_job import TagSummary, plan_tagging

from hashtag_core import storage
from hashtag_core.config import Recipe
from hashtag_core.distributed.tag import tag
from hashtag_core.distributed.tag_forget import forget
from hashtag_core.distributed.tag_verify import verify_output
from hashtag_core.errors import HashtagError, IntegrityError
from hashtag_core.tracking.registry import resolve_model
from jobs.tag import main
from tests.distributed.test_tag import stop_after

RECIPE = Recipe.model_validate({"tagging": {"chunk_rows": 4}})
THEIRS = "user-1"


def run(archive: Path, out: Path, model: Path) -> TagSummary:
    return tag(plan_tagging(RECIPE, str(archive), str(out), resolve_model(str(model))))


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


def ids_of(archive: Path, user: str) -> set[str]:
    tables = [
        pq.read_table(path, partitioning=None, columns=["post_id", "user_id"]) for path in archive.rglob("*.parquet")
    ]
    table = pa.concat_tables(tables)
    return set(table.filter(pc.equal(table["user_id"], user))["post_id"].to_pylist())


def tagged(out: Path) -> dict[str, list[str]]:
    """Every tagged post of every file by its part, as a reader finds it, in the order of the files."""
    rows: dict[str, list[str]] = {}
    for path in sorted(out.glob("model=*/version=*/**/part-*.parquet")):
        held = pq.read_table(path, partitioning=None)["post_id"].to_pylist()
        rows.setdefault(str(path.parent.relative_to(out)), []).extend(held)
    return rows


def holds(out: Path, words: set[str]) -> list[Path]:
    """Files in which one of the words stands, in plain or in a column."""
    found = []
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if path.suffix == ".parquet":
            table = pq.read_table(path, partitioning=None)
            content = str([table.to_pylist(), table.schema.metadata]).encode()
        if any(word.encode() in content for word in words):
            found.append(path)
    return found


def test_a_user_is_gone_from_everything(output: Path, archive: Path, popularity: Path) -> None:
    theirs, before = ids_of(archive, THEIRS), tagged(output)
    assert len(theirs) == 6
    assert holds(output, theirs)
    found = forget(str(output), {THEIRS, "nobody"})
    assert (found.users, found.users_found, found.tagged, found.remaining, found.unknown) == (2, 1, 6, 0, 0)
    assert found.rejected == 2, "the older version: in the plan and in the file of rejected rows"
    assert holds(output, theirs | {THEIRS}) == []
    assert tagged(output) == {part: [post for post in ids if post not in theirs] for part, ids in before.items()}
    checked = verify_output(str(output), str(archive))
    assert (checked.problems, checked.tagged, checked.rejected) == ([], 14, 8)
    lines = [json.loads(line) for path in output.glob("_rejected/*") for line in path.read_text().splitlines()]
    gone = [(line["part"], line["row"], line["post_id"]) for line in lines if line["reason"] == FORGOTTEN]
    assert sorted(gone) == [
        *(("a.parquet", row, None) for row in (1, 5, 9, 11)),
        *(("nested/b.parquet", row, None) for row in (1, 5, 9)),
    ]
    counts = [json.loads(path.read_text())["forgotten"] for path in output.glob("_state/*/*/manifests/**/*.json")]
    assert sum(counts) == len(gone)
    state = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    again = run(archive, output, popularity)
    assert (again.parts, again.skipped_parts, again.tagged) == (0, 2, 0)
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == state, "nothing to do"
    assert forget(str(output), {THEIRS}).tagged == 0


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


def test_the_list_names_nobody(tmp_path: Path) -> None:
    first = ForgetList.add(str(tmp_path), ["anna", "bert"])
    assert ForgetList.load(str(tmp_path)) == first == ForgetList.add(str(tmp_path), ["bert"])
    assert "anna" not in Path(ForgetList.place(str(tmp_path))).read_text()
    assert ForgetList.add(str(tmp_path), ["carl"]).users > first.users
    other = ForgetList.add(str(tmp_path / "other"), ["anna"])
    assert not other.users & first.users, "two outputs, two salts"


def test_killed_at_any_step_the_same_command_finishes(
    output: Path, archive: Path, popularity: Path, monkeypatch: pytest.MonkeyPatch
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
        count = sum(map(len, tagged(output).values()))
        assert verify_output(str(output)).problems or count in (14, 17, 20), "what is between is told"
        if steps % 5 == 0:
            run(archive, output, popularity)  # a tagging run takes up what was begun, and leaves the output whole
            assert verify_output(str(output), str(archive)).problems == []
        assert forget(str(output), {THEIRS}).remaining == 0
        assert holds(output, theirs) == []
        assert verify_output(str(output), str(archive)).problems == []
        assert sum(map(len, tagged(output).values())) == 14
        shutil.rmtree(output)
        steps += 3
    assert steps > 30


def test_chunks_that_are_not_published_yet(
    inline: None, archive: Path, popularity: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run is stopped before its first manifest; of its chunks those with a post of theirs go, the others are kept."""
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        write_json = storage.write_json

        def stop(uri: str, value: Any) -> None:
            if "/manifests/" in uri:
                raise KeyboardInterrupt
            write_json(uri, value)

        patch.setattr(storage, "write_json", stop)
        with pytest.raises(KeyboardInterrupt):
            run(archive, out, popularity)
    theirs = ids_of(archive, "user-3")
    for path in [*out.rglob("00001.parquet"), *out.glob("_rejected/*.jsonl"), *out.glob("_state/*/*/plans/*.json")]:
        path.with_name(f".{path.stem}.tmp").write_bytes(
            path.read_bytes()[:-1]
        )  # half written, by a process that was killed
    assert holds(out, theirs)
    found = forget(str(out), {"user-3"})
    assert found.staged > 0
    assert holds(out, theirs) == []
    assert not list(out.rglob("*.tmp"))
    assert len(list(out.rglob("*.parquet"))) > 0
    run(archive, out, popularity)
    assert holds(out, theirs) == []
    checked = verify_output(str(out), str(archive))
    assert (checked.problems, checked.tagged) == ([], 16)


def test_a_run_that_was_planned_before_does_not_bring_them_back(
    inline: None, archive: Path, popularity: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(archive, out, popularity)
    (archive / "c.parquet").write_bytes((archive / "a.parquet").read_bytes())
    job = plan_tagging(RECIPE, str(archive), str(out), resolve_model(str(popularity)))
    forget(str(out), {THEIRS})
    with pytest.raises(HashtagError, match="while this run was planned: run it again"):
        tag(job)
    assert holds(out, ids_of(archive, THEIRS)) == []


def test_while_a_run_tags_nothing_is_deleted(output: Path) -> None:
    (lease,) = (path.parent / "lease.json" for path in output.glob("_state/model=*/version=*/_SUCCESS"))
    before = tagged(output)
    with Lease(str(lease), "the run"), pytest.raises(LeaseHeldError, match="the run"):
        forget(str(output), {THEIRS})
    assert tagged(output) == before


def test_posts_that_the_archive_lost(
    output: Path, archive: Path, tmp_path: Path, make_posts: Callable, write_part: Callable
) -> None:
    """By id where a part was copied or changed; what no archive has is told, with exit code 1."""
    held = {path.name: path.read_bytes() for path in archive.rglob("*.parquet")}
    (tmp_path / "backup").mkdir()
    for name, content in held.items():
        (tmp_path / "backup" / name).write_bytes(content)
    (archive / "a.parquet").unlink()
    with pytest.raises(IntegrityError, match="it cannot be told whose they are") as caught:
        forget(str(output), {THEIRS})
    told = caught.value.summary  # type: ignore[attr-defined]
    assert (told["tagged"], told["remaining"]) == (3, 0)
    assert told["unknown"] >= 10
    found = forget(str(output), {THEIRS}, str(tmp_path / "backup"))
    assert (found.tagged, found.remaining, found.unknown) == (3, 0, 0)
    assert (
        holds(
            output,
            {post["post_id"] for seed in (0, 1) for post in make_posts(10, seed=seed) if post["user_id"] == THEIRS},
        )
        == []
    )
    assert verify_output(str(output)).problems == []


def test_an_id_of_two_users_is_deleted_from_the_one(
    inline: None, popularity: Path, tmp_path: Path, make_posts: Callable, write_part: Callable
) -> None:
    """user-1 had the id first; the row that is tagged is that of user-2, and stays."""
    archive, out = tmp_path / "archive", tmp_path / "out"
    post = make_posts(1)[0]
    write_part(archive / "a.parquet", [{**post, "user_id": "user-1", "created_at": 1}])
    write_part(archive / "b.parquet", [{**post, "user_id": "user-2"}])
    run(archive, out, popularity)
    assert forget(str(out), {"user-1"}).tagged == 0
    assert [ids for ids in tagged(out).values() if ids] == [[post["post_id"]]]
    assert verify_output(str(out), str(archive)).problems == []


def test_the_command(output: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    users = tmp_path / "users.txt"
    users.write_bytes(b"\xef\xbb\xbfuser-1\r\n\n user \xc3\xa9 \n")
    assert read_users(str(users)) == {"user-1", " user é "}
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    assert main(["--forget", str(users), "--out", str(output), "--dry-run"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert (told["tagged"], told["users"], told["users_found"]) == (6, 2, 1)
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before
    assert main(["--forget", str(users), "--out", str(output)]) == 0
    told = json.loads(capfd.readouterr().out)
    assert (told["tagged"], told["remaining"], told["unknown"]) == (6, 0, 0)
    users.write_text("\n\r\n")
    assert main(["--forget", str(users), "--out", str(output)]) == 2
    assert "found none" in capfd.readouterr().err
    users.write_bytes(b"a\n\xff\n")
    assert main(["--forget", str(users), "--out", str(output)]) == 2
    assert "byte 2 is none" in capfd.readouterr().err
    assert main(["--forget", str(tmp_path), "--out", str(output)]) == 2
    assert main(["--forget", str(tmp_path / "none"), "--out", str(output)]) == 2
    users.write_text("user-1")
    assert main(["--forget", str(users)]) == 2
    assert main(["--forget", str(users), "--out", str(tmp_path / "none")]) == 2
    assert main(["--forget", str(users), "--out", str(output), "--archive", str(tmp_path / "none")]) == 2


def test_on_s3(output: Path, archive: Path, s3_bucket: str) -> None:
    storage.upload_folder(output, f"{s3_bucket}/out")
    found = forget(f"{s3_bucket}/out", {THEIRS})
    assert (found.tagged, found.remaining, found.unknown) == (6, 0, 0)
    checked = verify_output(f"{s3_bucket}/out")
    assert (checked.problems, checked.tagged) == ([], 14)
