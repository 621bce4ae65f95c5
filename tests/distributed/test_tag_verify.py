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

from hashtag_core.config import Recipe
from hashtag_core.distributed.tag_verify import verify_output
from hashtag_core.errors import NotFoundError
from jobs.tag import main
from tests.distributed.test_tag import run
from tests.unit.data.hostile import HTML

RECIPE = Recipe.model_validate({"tagging": {"chunk_rows": 4}})


@pytest.fixture
def tagged(
    inline: None,
    popularity: Path,
    tmp_path: Path,
    make_posts: Callable,
    write_part: Callable,
) -> tuple[Path, Path]:
    """An archive of two parts of 10 rows, 9 of each tagged, one part that is none, and its output."""
    archive, out = tmp_path / "archive", tmp_path / "out"
    for n in range(2):
        write_part(archive / f"{n}.parquet", [*make_posts(9, seed=n), {"post_id": ""}])
    (archive / "html.parquet").write_bytes(HTML)
    run(archive, out, popularity, RECIPE)
    return archive, out


def files(out: Path) -> list[Path]:
    return sorted(out.glob("model=*/**/part-*.parquet"))


def state(out: Path, pattern: str) -> Path:
    return sorted(out.glob(f"_state/model=*/version=*/{pattern}"))[0]


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table], out: Path | None = None) -> None:
    """Change a file's rows; with `out`, its manifest is brought in line, so that nothing but the rows is wrong."""
    pq.write_table(change(pq.read_table(path, partitioning=None)), path)
    if out is not None:
        for manifest in out.glob("_state/model=*/version=*/manifests/**/*.json"):
            held = json.loads(manifest.read_text())
            for file in held["files"]:
                if path == out / file["path"]:
                    del file["sha256"]
            manifest.write_text(json.dumps(held))


def column(name: str, values: Callable[[pa.ChunkedArray], Any]) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        at = table.schema.get_field_index(name)
        made = values(table[name])
        made = pa.array(made, table.schema.field(name).type) if isinstance(made, list) else made
        return table.set_column(at, table.schema.field(name), made)

    return change


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_whole_output_passes(tagged: tuple[Path, Path], capfd: pytest.CaptureFixture[str]) -> None:
    archive, out = tagged
    for seen in (None, str(archive)):
        found = verify_output(str(out), seen)
        assert found.problems == []
        assert (found.models, found.parts, found.files, found.tagged, found.rejected) == (1, 3, 6, 18, 3)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert main(["--verify", "--out", str(out), "--archive", str(archive)]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told == {"verified": True, "models": 1, "parts": 3, "files": 6, "tagged": 18, "rejected": 3, "problems": 0}
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_two_versions_are_checked_each(
    tagged: tuple[Path, Path], make_model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    archive, out = tagged
    run(archive, out, make_model_folder(tmp_path / "second", family="popularity", seed=1), RECIPE)
    found = verify_output(str(out), str(archive))
    assert (found.models, found.tagged, found.problems) == (2, 36, [])


def test_nothing_tagged_is_no_output(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        verify_output(str(tmp_path / "none"))
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(NotFoundError, match="no tagged output"):
        verify_output(str(tmp_path))


def higher_last(scores: pa.ChunkedArray) -> list[list[float]]:
    return [[*row[:-1], row[0] + 0.01] for row in scores.to_pylist()]


BREAKS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a file removed": (lambda out: files(out)[0].unlink(), "not readable: .*not found"),
    "a file cut": (lambda out: files(out)[0].write_bytes(files(out)[0].read_bytes()[:99]), "is not what was published"),
    "a byte changed": (
        lambda out: files(out)[0].write_bytes(files(out)[0].read_bytes().replace(b"post-0", b"post-9", 1) + b""),
        "is not what was published",
    ),
    "a row lost": (
        lambda out: rewrite(files(out)[0], lambda table: table.slice(1), out),
        "3 rows, its manifest says 4",
    ),
    "a file copied": (
        lambda out: shutil.copy(files(out)[0], files(out)[0].with_name("part-x-0.parquet")),
        "part-x-0.parquet: no manifest names it",
    ),
    "a file elsewhere": (
        lambda out: shutil.copy(files(out)[0], out / "part-x-0.parquet"),
        "^part-x-0.parquet: no manifest names it",
    ),
    "a post of another file": (
        lambda out: rewrite(files(out)[0], column("post_id", lambda ids: ["post-1-00000", *ids.to_pylist()[1:]]), out),
        "post 'post-1-00000' is tagged 2 times",
    ),
    "a post twice in a file": (
        lambda out: rewrite(files(out)[0], column("post_id", lambda ids: [ids[0].as_py()] * len(ids)), out),
        "is tagged 4 times",
    ),
    "another version": (
        lambda out: rewrite(files(out)[0], column("model_version", lambda old: ["v2"] * len(old)), out),
        "model_version 'v2', its folder says",
    ),
    "another model": (
        lambda out: rewrite(files(out)[0], column("model_name", lambda old: ["other"] * len(old)), out),
        "model_name 'other', its folder says 'toy'",
    ),
    "a status of no kind": (
        lambda out: rewrite(files(out)[0], column("status", lambda old: ["fine"] * len(old)), out),
        "status 'fine', expected one of ok",
    ),
    "a detail of what is ok": (
        lambda out: rewrite(files(out)[0], column("detail", lambda old: ["why"] * len(old)), out),
        "a post that is ok has a detail",
    ),
    "scores that increase": (
        lambda out: rewrite(files(out)[0], column("scores", higher_last), out),
        "scores that increase within a post",
    ),
    "scores above 1": (
        lambda out: rewrite(files(out)[0], column("scores", lambda old: [[2.0] * 10] * len(old)), out),
        r"a score that is not in \[0, 1\]",
    ),
    "scores that are none": (
        lambda out: rewrite(files(out)[0], column("scores", lambda old: [[float("nan")] * 10] * len(old)), out),
        r"a score that is not in \[0, 1\]",
    ),
    "lists of two lengths": (
        lambda out: rewrite(files(out)[0], column("scores", lambda old: [[0.5]] * len(old)), out),
        "of different lengths",
    ),
    "another schema": (
        lambda out: rewrite(
            files(out)[0], lambda table: table.append_column("x", pc.list_value_length(table["scores"])), out
        ),
        "its schema is not TAGGED",
    ),
    "a manifest removed": (
        lambda out: state(out, "manifests/0.parquet/*").unlink(),
        "is in the plan of the last run and has no manifest",
    ),
    "a manifest that is none": (lambda out: state(out, "manifests/0.parquet/*").write_text("{"), "no manifest: "),
    "a manifest without files": (lambda out: state(out, "manifests/0.parquet/*").write_text("{}"), "no files in it"),
    "a manifest of another part": (
        lambda out: edit(state(out, "manifests/0.parquet/*"), part="2.parquet"),
        "is of part 2.parquet",
    ),
    "a manifest of two contents": (
        lambda out: shutil.copy(path := state(out, "manifests/0.parquet/*"), path.with_name("x.json")),
        "2 manifests: rows of two contents",
    ),
    "a count of rows": (lambda out: edit(state(out, "manifests/0.parquet/*"), rows=11), "do not make its 11 rows"),
    "a count of the tagged": (lambda out: edit(state(out, "manifests/0.parquet/*"), tagged=8), "says 8"),
    "a count of the rejected": (lambda out: edit(state(out, "manifests/0.parquet/*"), rejected=2), "says 2"),
    "the rejected removed": (
        lambda out: [path.unlink() for path in out.glob("_rejected/*")],
        "_rejected/.*: not readable",
    ),
    "the rejected of another part": (
        lambda out: [
            path.write_text(path.read_text().replace("1.parquet", "3.parquet")) for path in out.glob("_rejected/*")
        ],
        "holds a row of 3.parquet",
    ),
    "no marker": (lambda out: state(out, "_SUCCESS").unlink(), "_SUCCESS: missing"),
    "a marker of another plan": (lambda out: edit(state(out, "_SUCCESS"), plan="0"), "names no plan"),
    "a marker of other parts": (lambda out: edit(state(out, "_SUCCESS"), parts=9), "says 9 parts, its plan has 3"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_what_is_broken_is_found(tagged: tuple[Path, Path], name: str) -> None:
    _, out = tagged
    change, told = BREAKS[name]
    change(out)
    problems = verify_output(str(out)).problems
    assert any(re.search(told, problem) for problem in problems), problems


def test_the_archive_tells_more(tagged: tuple[Path, Path], make_posts: Callable, write_part: Callable) -> None:
    archive, out = tagged
    rewrite(files(out)[0], column("post_id", lambda ids: ["stranger", *ids.to_pylist()[1:]]), out)
    assert verify_output(str(out)).problems == []
    (problem,) = verify_output(str(out), str(archive)).problems
    assert problem == "0.parquet: 1 of its posts are neither tagged nor rejected, 1 tagged are none of its"
    write_part(archive / "1.parquet", make_posts(3, seed=7))
    write_part(archive / "new.parquet", make_posts(3, seed=8))
    assert verify_output(str(out), str(archive)).problems[1:] == [
        "1.parquet: has changed in the archive since it was tagged",
        "new.parquet: is in the archive and not tagged",
    ]


def test_the_command_ends_with_1_and_what_was_found(
    tagged: tuple[Path, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    _, out = tagged
    files(out)[0].unlink()
    assert main(["--verify", "--out", str(out)]) == 1
    captured = capfd.readouterr()
    told = json.loads(captured.out)
    assert told["verified"] is False
    assert told["problems"] == len(told["found"]) >= 1
    assert any("not found" in problem for problem in told["found"])
    assert "fault(s) in the output" in captured.err
    assert main(["--verify", "--out", str(out / "nothing")]) == 2


def test_on_s3(tagged: tuple[Path, Path], s3_bucket: str) -> None:
    from hashtag_core import storage

    _, out = tagged
    storage.upload_folder(out, f"{s3_bucket}/out")
    assert verify_output(f"{s3_bucket}/out").problems == []
    storage.remove(f"{s3_bucket}/out/{files(out)[0].relative_to(out)}")
    assert len(verify_output(f"{s3_bucket}/out/").problems) == 2
