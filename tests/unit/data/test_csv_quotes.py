"""Quotes and backslashes in the cells of tables: what a writer wrote is read back exactly, or refused in words."""

import csv
import io
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hashtag_core.config import ArchiveSection
from hashtag_core.data.formats import csv_table
from hashtag_core.data.open_archive import open_archive
from hashtag_core.data.values import NO_VALUES


def read_back(text: str, **section: Any) -> tuple[list[tuple[str | None, ...]], list[str]]:
    """(id, caption, user) of the posts, and reasons."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "a.csv").write_text(text, newline="")
        archive = open_archive(folder, ArchiveSection(format="csv", **section))
        posts, reasons = [], []
        for part in archive.parts:
            for batch in archive.read(part, 3):
                posts += [(post["post_id"], post["caption"], post["user_id"]) for post in batch.posts.to_pylist()]
                reasons += [item.reason for item in batch.rejected]
    return posts, reasons


def written(rows: list[tuple[str, str, str]], **options: Any) -> str:
    held = io.StringIO()
    csv.writer(held, **{"lineterminator": "\n", **options}).writerows([("id", "caption", "user"), *rows])
    return held.getvalue()


ESCAPED = {"doublequote": False, "escapechar": "\\"}
"""As pandas' `to_csv(escapechar="\\", doublequote=False)` and MySQL write."""

INCHES = ['TV 24"', "TV 32\\", '"', "\\", '\\"', '"\\', 'a\\\\"', 'last "line\\\n"', ',"', '",', "plain", 'C:\\tv\\24"']


@pytest.mark.parametrize("options", [{}, ESCAPED], ids=["doubled", "escaped"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_ALL, csv.QUOTE_MINIMAL], ids=["all", "minimal"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_cells_that_end_in_backslashes_and_quotes(delimiter: str, quoting: int, options: dict[str, Any]) -> None:
    rows = [(f"{n}", text, text) for n, text in enumerate(INCHES)]
    text = written(rows, delimiter=delimiter, quoting=quoting, **options)
    assert read_back(text) == (rows, [])


@pytest.mark.parametrize("many", [1, 2, 3, 12])
def test_a_quote_behind_a_backslash_at_the_end_of_a_cell_takes_no_neighbour(many: int) -> None:
    rows = [(f"{n}", f'TV {n}"', "anna") for n in range(many)]
    text = 'id,caption,user\n0,"TV 0\\"",anna\n' + "".join(f'{n},"TV {n}\\"",anna\n' for n in range(1, many))
    assert read_back(text) == (rows, [])


def test_a_table_as_spark_writes_it_keeps_its_backslashes() -> None:
    """Within quotes a backslash is doubled, elsewhere it is not."""
    text = 'id,caption,user\n1,C:\\birds\\new,anna\n2,"a \\"bird\\" in C:\\\\birds",bert\n3,"a\\\\",\\\n'
    assert read_back(text) == (
        [("1", "C:\\birds\\new", "anna"), ("2", 'a "bird" in C:\\birds', "bert"), ("3", "a\\", "\\")],
        [],
    )


def test_a_table_as_mysql_writes_it_keeps_its_words_for_none() -> None:
    text = 'id,caption,user\n1,"a \\"bird\\"",\\N\n2,"C:\\\\birds",anna\n3,\\N,"anna\\\\"\n\\N,"x",anna\n'
    posts, reasons = read_back(text)
    assert posts == [("1", 'a "bird"', None), ("2", "C:\\birds", "anna"), ("3", None, "anna\\")]
    assert reasons == ["post_id: expected a non-empty string, found null"]


def test_backslashes_that_stand_before_quotes_alone_are_kept_elsewhere() -> None:
    text = 'id,caption,user\n1,"C:\\birds",anna\n2,"a \\"bird\\"",bert\n3,"TV 24\\"","\\\\nas\\tv"\n'
    assert read_back(text) == (
        [("1", "C:\\birds", "anna"), ("2", 'a "bird"', "bert"), ("3", 'TV 24"', "\\\\nas\\tv")],
        [],
    )


def test_a_broken_row_among_doubled_quotes_does_not_turn_backslashes_into_escapes() -> None:
    text = 'id,caption,user\n1,"C:\\birds\\",anna\n2,"a \\" bird,bert\n3,"D:\\",anna\n'
    posts, reasons = read_back(text)
    assert [post for post in posts if post[0] in "13"] == [("1", "C:\\birds\\", "anna"), ("3", "D:\\", "anna")]
    assert len(posts) + len(reasons) == 3


def test_the_borders_of_parts_are_those_of_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_table, "PART_ROWS", 2)
    rows = [(f"{n}", text, "x\n\\") for n, text in enumerate(INCHES)]
    assert read_back(written(rows, **ESCAPED)) == (rows, [])


CELL = st.text(st.sampled_from('ab"\\,;\n '), max_size=6)


@pytest.mark.parametrize("options", [{}, ESCAPED], ids=["doubled", "escaped"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_ALL, csv.QUOTE_MINIMAL], ids=["all", "minimal"])
@settings(max_examples=150, deadline=None)
@given(cells=st.lists(st.tuples(CELL, CELL), min_size=1, max_size=5), ends=st.sampled_from(["\n", "\r\n"]))
@example(cells=[('TV 24"', "x"), ('TV 32"', "x")], ends="\n")
@example(cells=[('a",', 'b",')], ends="\n")
def test_any_cells_are_read_back_or_refused(
    quoting: int, options: dict[str, Any], cells: list[tuple[str, str]], ends: str
) -> None:
    rows = [(f"{n}", f"{first}.", f"{second}.") for n, (first, second) in enumerate(cells)]
    rows += [(f"{n + 9}", f".{first}", f".{second}") for n, (first, second) in enumerate(cells)]
    rows = [row for row in rows if not NO_VALUES & {cell.strip() for cell in row}]
    text = written(rows, quoting=quoting, lineterminator=ends, **options)
    posts, reasons = read_back(text, delimiter=",")
    if not options or any('"' in cell for row in rows for cell in row):  # else the file holds no quote to tell it by
        assert (posts, reasons) == (rows, [])
    else:
        assert [post[0] for post in posts] == [row[0] for row in rows]
