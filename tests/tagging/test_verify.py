"""An output that is whole passes; broken in any one way, it is told what is broken and where."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from hashtag_core.config import ArchiveSection
from hashtag_core.errors import NotFoundError
from hashtag_core.output.claimed_output import Output
from hashtag_core.output.fenced_table import Change, DataFile
from hashtag_core.output.verify import verify_output
from jobs.tag import main
from tests.tagging.outputs import RECIPE, output_of, rows_by_table, run
from tests.unit.data.hostile import HTML

Tagged = tuple[Path, Path]


@pytest.fixture
def tagged(inline: None, popularity: Path, tmp_path: Path, make_posts: Callable, write_part: Callable) -> Tagged:
    """An archive of two parts of 10 rows, 9 of each posts, one of which is repeated, one part that is none, and its output."""
    archive, out = tmp_path / "archive", tmp_path / "out"
    first, second = make_posts(9), make_posts(8, seed=1)
    write_part(archive / "0.parquet", [*first, {"post_id": ""}])
    write_part(archive / "1.parquet", [*second, {**first[2], "created_at": 1}, {"post_id": ""}])
    (archive / "html.parquet").write_bytes(HTML)
    run(archive, out, popularity)
    return archive, out


def claimed(out: Path) -> Output:
    output = output_of(out)[0]
    output.claim()
    return output


def rewrite(out: Path, change: Callable[[pa.Table], pa.Table], table: str = "tagged") -> None:
    """Replace the rows of the first data file, log and all: nothing but the rows is wrong."""
    output = claimed(out)
    held = getattr(output, table)
    file = next(file for file in held.files(output.layout.values) if file.may_hold("0.parquet"))
    new = held.write(f"{output.layout.partition}/part-other.parquet", change(held.read(file)), file.partition)
    held.commit(Change([new], [file]))
    held.erase([file])


def column(name: str, values: Callable[[pa.ChunkedArray], Any]) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        at = table.schema.get_field_index(name)
        made = values(table[name])
        made = pa.array(made, table.schema.field(name).type) if isinstance(made, list) else made
        return table.set_column(at, table.schema.field(name), made)

    return change


def record(out: Path, path: str, **changes: Any) -> None:
    output = claimed(out)
    output.save("changed", parts=[output.records.parts[path].model_copy(update=changes)])


def files(out: Path) -> list[Path]:
    return sorted(out.glob("model=*/**/part-*.parquet"))


def test_a_whole_output_passes(tagged: Tagged, capfd: pytest.CaptureFixture[str]) -> None:
    archive, out = tagged
    for seen in (None, str(archive)):
        found = verify_output(str(out), seen)
        assert found.problems == []
        assert (found.models, found.parts, found.files, found.tagged, found.rejected) == (1, 3, 2, 17, 4)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for flags in (["verify", "--out", str(out), "--archive", str(archive)], ["--out", str(out), "--verify"]):
        assert main(flags) == 0
        told = json.loads(capfd.readouterr().out)
        assert told == {
            "verified": True,
            "models": 1,
            "parts": 3,
            "files": 2,
            "tagged": 17,
            "rejected": 4,
            "problems": 0,
        }
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_two_versions_are_checked_each(tagged: Tagged, make_model_folder: Callable, tmp_path: Path) -> None:
    archive, out = tagged
    run(archive, out, make_model_folder(tmp_path / "second", family="popularity", seed=1))
    found = verify_output(str(out), str(archive))
    assert (found.models, found.tagged, found.problems) == (2, 34, [])


def test_nothing_tagged_is_no_output(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        verify_output(str(tmp_path / "none"))
    assert main(["verify", "--out", str(tmp_path / "none")]) == 2


def drop_first(table: pa.Table) -> pa.Table:
    return table.slice(1)


def twice(table: pa.Table) -> pa.Table:
    return pa.concat_tables([table, table.slice(0, 1)])


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a data file is gone": (lambda out: files(out)[0].unlink(), "names it, and it is not there"),
    "a data file was cut": (lambda out: files(out)[0].write_bytes(files(out)[0].read_bytes()[:-9]), "bytes, the log says"),
    "a data file of another run": (lambda out: shutil.copy(files(out)[0], files(out)[0].with_name("part-x.parquet")), "a glob reads it"),
    "a score above 1": (lambda out: rewrite(out, column("scores", lambda scores: [[2.0] * len(row) for row in scores.to_pylist()])), "a score that is not in"),
    "scores that increase": (lambda out: rewrite(out, column("scores", lambda scores: [row[::-1] for row in scores.to_pylist()])), "scores that increase"),
    "fewer scores than tags": (lambda out: rewrite(out, column("scores", lambda scores: [row[1:] for row in scores.to_pylist()])), "of different lengths"),
    "an unknown status": (lambda out: rewrite(out, column("status", lambda states: ["fine"] * len(states))), "status 'fine', expected one of ok"),
    "another model's rows": (lambda out: rewrite(out, column("model_name", lambda names: ["x"] * len(names))), "model_name 'x', its folder says"),
    "another schema": (lambda out: rewrite(out, lambda table: table.drop_columns(["detail"])), "its schema is another one"),
    "a row is lost": (lambda out: rewrite(out, drop_first), "8 rows are tagged, its record says 9"),
    "a row twice": (lambda out: rewrite(out, twice), r"1 row\(s\) stand there twice"),
    "a post twice": (lambda out: rewrite(out, column("post_id", lambda ids: [ids[1].as_py(), *ids.to_pylist()[1:]])), "is tagged 2 times"),
    "a row of no part": (lambda out: rewrite(out, column("part", lambda parts: ["z.parquet"] * len(parts))), "z.parquet: rows of it are in the table"),
    "a row that the part has not": (lambda out: rewrite(out, column("part_row", lambda rows: pc.add(rows, 90))), "is none of its 10 rows"),
    "rows of another version": (lambda out: rewrite(out, column("part_version", lambda rows: ["x"] * len(rows))), "rows of its version x"),
    "a rejected line is lost": (lambda out: rewrite(out, drop_first, "rejected"), "0 rows are rejected, its record says 1"),
    "a record that counts otherwise": (lambda out: record(out, "0.parquet", tagged=8, rejected=2), "9 rows are tagged, its record says 8"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_told(tagged: Tagged, name: str) -> None:
    _, out = tagged
    break_it, expected = BROKEN[name]
    break_it(out)
    problems = verify_output(str(out)).problems
    assert any(re.search(expected, problem) for problem in problems), problems


def test_the_command_fails_and_says_what_was_found(tagged: Tagged, capfd: pytest.CaptureFixture[str]) -> None:
    _, out = tagged
    shutil.copy(files(out)[0], files(out)[0].with_name("part-x.parquet"))
    assert main(["verify", "--out", str(out)]) == 1
    printed = capfd.readouterr()
    told = json.loads(printed.out)
    assert (told["verified"], told["problems"], len(told["found"])) == (False, 1, 1)
    assert "part-x.parquet: no snapshot names it" in printed.err
    assert main(["verify", "--out", str(out), "--keep-history"]) == 0


def test_an_archive_that_changed_is_told(tagged: Tagged, make_posts: Callable, write_part: Callable) -> None:
    archive, out = tagged
    write_part(archive / "new.parquet", make_posts(2, seed=7))
    write_part(archive / "0.parquet", make_posts(9))
    assert sorted(verify_output(str(out), str(archive)).problems) == [
        "0.parquet: has changed in the archive since it was tagged",
        "new.parquet: is in the archive and not tagged",
    ]


def swap_winner(out: Path) -> None:
    """The post that two parts have is tagged from the older row: the output's own records agree with it."""
    output = claimed(out)
    tagged, rejected, _ = output.tables()
    rows = pa.concat_tables([tagged.read(file) for file in tagged.files(output.layout.values)])
    lines = pa.concat_tables([rejected.read(file) for file in rejected.files(output.layout.values)])
    (lost,) = (line for line in lines.to_pylist() if line["reason"].startswith("repeated"))
    kept = [
        {**row, "part": lost["part"], "part_row": lost["row"], "part_version": lost["part_version"]}
        if row["post_id"] == lost["post_id"]
        else row
        for row in rows.to_pylist()
    ]
    (won,) = (row for row in rows.to_pylist() if row["post_id"] == lost["post_id"])
    told = [
        {**line, "part": won["part"], "row": won["part_row"], "part_version": won["part_version"]}
        if line is lost or line["post_id"] == lost["post_id"]
        else line
        for line in lines.to_pylist()
    ]
    _replace(output, tagged, pa.Table.from_pylist(kept, schema=rows.schema), "part-swapped")
    _replace(output, rejected, pa.Table.from_pylist(told, schema=lines.schema), "rejected-swapped")
    parts = output.records.parts
    taken, given = parts[lost["part"]], parts[won["part"]]
    output.save("swap", parts=[
        taken.model_copy(update={"tagged": taken.tagged + 1, "rejected": taken.rejected - 1}),
        given.model_copy(update={"tagged": given.tagged - 1, "rejected": given.rejected + 1}),
    ])  # fmt: skip


def _replace(output: Output, table: Any, rows: pa.Table, name: str) -> None:
    before: list[DataFile] = table.files(output.layout.values)
    table.commit(Change([table.write(f"{output.layout.partition}/{name}.parquet", rows, output.layout.values)], before))
    table.erase(before)


def test_a_wrong_winner_is_found_from_the_archive_alone(tagged: Tagged) -> None:
    archive, out = tagged
    swap_winner(out)
    assert verify_output(str(out)).problems == [], "the output agrees with itself"
    assert verify_output(str(out), str(archive)).problems == [
        "0.parquet: 1 row(s) are not tagged, though no better row has their post, the first is 2",
        "1.parquet: 1 row(s) are tagged, though a better row has their post, the first is 8",
    ]


def test_tags_of_another_post_are_found_from_the_archive(tagged: Tagged) -> None:
    archive, out = tagged
    rewrite(out, column("post_id", lambda ids: ids.to_pylist()[::-1]))
    assert verify_output(str(out)).problems == []
    assert verify_output(str(out), str(archive)).problems == [
        "0.parquet: 8 row(s) are tagged with another post_id, the first is 0"
    ]


def test_days_that_do_not_match_their_folder(
    inline: None, popularity: Path, tmp_path: Path, make_posts: Callable, write_part: Callable
) -> None:
    archive, out = tmp_path / "archive", tmp_path / "out"
    write_part(archive / "0.parquet", make_posts(4))
    run(archive, out, popularity, by_day=True)
    assert verify_output(str(out), str(archive)).problems == []
    rewrite(out, column("created_at", lambda times: [0] * len(times)))
    assert any("holds posts of 1970-01-01, the log says" in problem for problem in verify_output(str(out)).problems)


def test_a_table_of_which_no_log_is_left(tagged: Tagged) -> None:
    _, out = tagged
    for folder in (out, out / "_rejected", out / "_state" / "records"):
        shutil.rmtree(folder / "_delta_log")
    with pytest.raises(NotFoundError):
        verify_output(str(out))


def test_an_archive_of_tables_is_looked_through_as_it_was_tagged(
    inline: None, popularity: Path, tmp_path: Path
) -> None:
    """The output knows how its archive is read. A date that is none leaves a post undated, and so later than no other."""
    archive, out = tmp_path / "archive", tmp_path / "out"
    archive.mkdir()
    lines = [
        "id;caption;created_at",
        "1;one;2026-01-01",
        "2;two;2026-01-02",
        ";nobody;2026-01-03",
        "1;one again;2026-02-01",
    ]
    (archive / "posts.csv").write_text("\n".join(lines) + "\n")
    recipe = RECIPE.model_copy(update={"archive": ArchiveSection(format="csv", map={"post_id": "id"})})
    run(archive, out, popularity, recipe)
    found = verify_output(str(out), str(archive))
    assert (found.problems, found.tagged, found.rejected) == ([], 2, 2)
    (archive / "more.csv").write_text("id;caption;created_at\n9;nine;2026-01-01\n")
    assert verify_output(str(out), str(archive)).problems == ["more.csv: is in the archive and not tagged"]


def test_posts_whose_date_is_none(inline: None, popularity: Path, tmp_path: Path) -> None:
    archive, out = tmp_path / "archive", tmp_path / "out"
    archive.mkdir()
    pq.write_table(
        pa.table({"post_id": ["1", "2"], "caption": ["a", "b"], "created_at": [["x"], ["y"]]}), archive / "a.parquet"
    )
    pq.write_table(
        pa.table({"post_id": ["2"], "caption": ["c"], "created_at": pa.array([5], pa.timestamp("us"))}),
        archive / "b.parquet",
    )
    run(archive, out, popularity)
    assert verify_output(str(out), str(archive)).problems == []
    assert {row["post_id"]: row["part"] for row in rows_by_table(out)} == {"1": "a.parquet", "2": "b.parquet"}
