"""The list of who is forgotten."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from hashtag_core.output.chunk_files import write_chunk
from hashtag_core.output.forget_users.delete import forget
from hashtag_core.output.forget_users.forget_list import FORGOTTEN, ForgetList, read_names
from hashtag_core.output.verify import verify_output
from hashtag_core.schema import TABLE
from jobs.tag import main
from tests.tagging.forgetting import THEIRS, holds, ids_of, tagged
from tests.tagging.outputs import output_of, rejected, rows_by_table, run


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


def test_a_user_is_gone_from_everything(output: Path, archive: Path, popularity: Path) -> None:
    theirs, before = ids_of(archive, THEIRS), tagged(output)
    assert len(theirs) == 6
    assert holds(output, theirs)
    found = forget(str(output), {THEIRS, "nobody"})
    assert (found.users, found.users_found, found.tagged, found.remaining, found.unknown) == (2, 1, 6, 0, 0)
    assert found.rejected == 1, "the older version"
    key = ForgetList.load(str(output)).user_key(THEIRS)  # type: ignore[union-attr]
    assert holds(output, theirs | {THEIRS, key}) == [output / "_state" / "forgotten.json"]
    assert key in (output / "_state" / "forgotten.json").read_text()
    assert tagged(output) == before - theirs
    checked = verify_output(str(output), str(archive))
    assert (checked.problems, checked.tagged, checked.rejected) == ([], 14, 8)
    gone = [
        (line["part"], line["row"], line["post_id"], line["user_key"])
        for line in rejected(output)
        if line["reason"] == FORGOTTEN
    ]
    assert gone == [
        *(("a.parquet", row, None, None) for row in (1, 5, 9, 11)),
        *(("nested/b.parquet", row, None, None) for row in (1, 5, 9)),
    ]
    again = run(archive, output, popularity)
    assert (again.parts, again.skipped_parts, again.tagged) == (0, 2, 0)
    assert forget(str(output), {THEIRS}).tagged == 0


def test_the_list_names_nobody(tmp_path: Path) -> None:
    first = ForgetList.add(str(tmp_path), ["anna", "bert"], ["p1"])
    assert ForgetList.load(str(tmp_path)) == first == ForgetList.add(str(tmp_path), ["bert"], [])
    assert "anna" not in Path(ForgetList.uri(str(tmp_path))).read_text()
    assert ForgetList.add(str(tmp_path), ["carl"], []).users > first.users
    other = ForgetList.add(str(tmp_path / "other"), ["anna"], [])
    assert not other.users & first.users, "two outputs, two salts"


def test_chunks_that_are_not_committed_yet(output: Path, archive: Path, popularity: Path) -> None:
    """Of the chunks of a killed run, those with a post of theirs go, the others are kept."""
    layout = output_of(output)[0].layout
    rows = pa.Table.from_pylist(
        [{name: row[name] for name in TABLE.names} for row in rows_by_table(output)], schema=TABLE
    )
    key = ForgetList.load(str(output)).user_key(THEIRS)  # type: ignore[union-attr]
    mine, others = rows.filter(pc.equal(rows["user_key"], key)), rows.filter(pc.not_equal(rows["user_key"], key))
    write_chunk(layout.chunk("key", 0), mine, [], [])
    write_chunk(layout.chunk("key", 1), others, [], [])
    write_chunk(layout.chunk("key", 2), TABLE.empty_table(), [], [(0, mine["post_id"][0].as_py())])
    line = {
        "part": "a",
        "row": 1,
        "post_id": mine["post_id"][1].as_py(),
        "reason": "x",
        "rows": 1,
        "part_version": "",
        "created_at": None,
        "user_key": None,
    }
    write_chunk(layout.chunk("key", 3), TABLE.empty_table(), [line], [])
    half = Path(layout.chunk("key", 0)).with_name(".0123456789abcdef.tmp")
    half.write_bytes(Path(layout.chunk("key", 0)).read_bytes()[:-1])
    assert forget(str(output), {THEIRS}).staged == 4
    assert [path.name for path in half.parent.iterdir()] == ["00001.parquet"]


def test_the_command(output: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    users = tmp_path / "users.txt"
    users.write_bytes(b"\xef\xbb\xbfuser-1\r\n\n user \xc3\xa9 \n")
    assert read_names(str(users), "ids of users") == {"user-1", " user é "}
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    assert main(["forget", "--users", str(users), "--out", str(output), "--dry-run"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert (told["tagged"], told["users"], told["users_found"]) == (6, 2, 1)
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before
    assert main(["--forget", str(users), "--out", str(output)]) == 0
    told = json.loads(capfd.readouterr().out)
    assert (told["tagged"], told["remaining"], told["unknown"]) == (6, 0, 0)
    for content, message in ((b"\n\r\n", "found none"), (b"a\n\xff\n", "byte 2 is none")):
        users.write_bytes(content)
        assert main(["forget", "--users", str(users), "--out", str(output)]) == 2
        assert message in capfd.readouterr().err
    assert main(["--forget", str(tmp_path), "--out", str(output)]) == 2
    assert main(["--forget", str(tmp_path / "none"), "--out", str(output)]) == 2
    users.write_text("user-1")
    assert main(["forget", "--users", str(users)]) == 2
    assert main(["forget", "--out", str(output)]) == 2
    assert main(["--forget", str(users), "--verify", "--out", str(output)]) == 2
    assert main(["--compact", "--out", str(output)]) == 2
    assert "merged as they are committed" in capfd.readouterr().err
    assert main(["--forget", str(users), "--out", str(tmp_path / "none")]) == 2
    assert main(["--forget", str(users), "--out", str(output), "--archive", str(tmp_path / "none")]) == 2
