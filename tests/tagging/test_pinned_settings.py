"""What an output was tagged with, and what a later run may have otherwise."""

from pathlib import Path
from typing import Any

import duckdb
import polars
import pytest

from hashtag_core.config import Recipe
from hashtag_core.errors import ConfigError
from hashtag_core.output.records import FOR_NEW_PARTS, TagSettings
from hashtag_core.tagging.select_parts import Selection
from tests.tagging.outputs import RECIPE, output_of, plan_for, rows_by_table, run
from tests.tagging.test_nights import part

pytestmark = pytest.mark.usefixtures("inline")


def recipe(**tagging: Any) -> Recipe:
    return Recipe.model_validate({"tagging": {**RECIPE.tagging.model_dump(), **tagging}})


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    part(tmp_path / "archive" / "day-1.parquet", ["a", "b"], day=1)
    return tmp_path / "archive"


def lengths(out: Path) -> dict[str, int]:
    return {row["post_id"]: len(row["hashtags"]) for row in rows_by_table(out)}


def test_new_parts_alone_are_tagged_with_other_settings(archive: Path, linear: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(archive, out, linear)
    part(archive / "day-2.parquet", ["c"], day=2)
    with pytest.raises(ConfigError, match=r"top_k was 10, now 3.*--retag, or tag new and changed parts.*--keep-tagged"):
        plan_for(archive, out, linear, recipe(top_k=3))
    assert run(archive, out, linear, recipe(top_k=3, chunk_rows=4), keep_tagged=True).tagged == 1
    assert lengths(out) == {"a": 10, "b": 10, "c": 3}
    settings = output_of(out)[0].records.settings
    assert settings is not None
    assert (settings.top_k, settings.chunk_rows) == (3, 4)
    assert run(archive, out, linear, recipe(top_k=3, chunk_rows=4)).parts == 0  # they are the output's by now


def test_a_denied_tag_is_given_no_more_and_what_is_tagged_stays(archive: Path, linear: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(archive, out, linear)
    best = rows_by_table(out)[0]["hashtags"][0]
    part(archive / "day-2.parquet", ["c"], day=2)
    (archive / "day-1.parquet").rename(archive / "first.parquet")
    run(archive, out, linear, recipe(deny=[best]), keep_tagged=True)
    rows = {row["post_id"]: row["hashtags"] for row in rows_by_table(out)}
    assert best in rows["a"]  # the part has another name, and its posts keep their tags
    assert best not in rows["c"]


def test_parts_that_are_tagged_again_have_the_new_ones(archive: Path, linear: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    part(archive / "day-2.parquet", ["c"], day=2)
    run(archive, out, linear)
    again = Selection(globs=["day-1.parquet"], retag=True)
    run(archive, out, linear, recipe(top_k=3), keep_tagged=True, selection=again)
    assert lengths(out) == {"a": 3, "b": 3, "c": 10}


def test_other_settings_where_the_output_is_read(archive: Path, linear: Path, tmp_path: Path, repository: Path) -> None:
    """The two lines of the page of operations."""
    out = tmp_path / "out"
    run(archive, out, linear)
    rows = {row["post_id"]: row for row in rows_by_table(out)}
    page = (repository / "docs" / "operations.md").read_text(encoding="utf-8")
    shorter = next(line for line in page.splitlines() if line.startswith("polars.scan_delta(OUT).with_columns"))
    cut = eval(shorter.replace("OUT", repr(str(out))), {"polars": polars}).collect()
    assert cut["scores"].to_list() == [rows[post_id]["scores"][:5] for post_id in cut["post_id"]]
    query = page[page.index("SELECT post_id, list_filter") :].partition('"""')[0]
    denied = rows["a"]["hashtags"][0]
    query = query.replace("OUT/", f"{out}/").replace("'spam'", f"'{denied}'")
    found = {post_id: (tags, scores) for post_id, tags, scores in duckdb.sql(query).fetchall()}
    assert found["a"][0] == rows["a"]["hashtags"][1:]
    assert found["a"][1] == pytest.approx(rows["a"]["scores"][1:])


def test_what_scores_depend_on_is_never_mixed(archive: Path, linear: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(archive, out, linear)
    part(archive / "day-2.parquet", ["c"], day=2)
    other = Recipe.model_validate({**RECIPE.model_dump(), "encoders": {"precision": "bfloat16"}})
    with pytest.raises(ConfigError, match="precision was 'auto', now 'bfloat16'") as caught:
        plan_for(archive, out, linear, other, keep_tagged=True)
    assert "--keep-tagged" not in str(caught.value)


def test_every_setting_that_may_change_is_one() -> None:
    assert set(TagSettings.model_fields) >= FOR_NEW_PARTS
