"""What the tests of tagging ask of an output: run into it, read it as the world does."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from deltalake import DeltaTable

from hashtag_core import storage
from hashtag_core.config import Recipe
from hashtag_core.distributed.tag import tag
from hashtag_core.output.claimed_output import Output
from hashtag_core.output.layout import Layout
from hashtag_core.tagging.plan import plan_tagging
from hashtag_core.tagging.planned_work import TagPlan, TagRequest
from hashtag_core.tagging.run_state import TagSummary
from hashtag_core.tracking.registry import resolve_model

RECIPE = Recipe.model_validate({"tagging": {"chunk_rows": 8, "chunks_per_task": 2, "actors": 1}})
GLOB = "model=*/version=*/**/part-*.parquet"


def plan_for(archive: Path | str, out: Path | str, model: Path | str, recipe: Recipe = RECIPE, **asked: Any) -> TagPlan:
    return plan_tagging(TagRequest(recipe, str(archive), str(out), resolve_model(str(model)), **asked))


def run(archive: Path | str, out: Path | str, model: Path | str, recipe: Recipe = RECIPE, **asked: Any) -> TagSummary:
    return tag(plan_for(archive, out, model, recipe, **asked))


def rows_by_glob(out: Path) -> list[dict[str, Any]]:
    """Every tagged row as a reader finds it who knows nothing of the table."""
    if not list(out.glob("model=*/version=*/**/part-*.parquet")):
        return []
    return (
        duckdb.sql(f"SELECT * FROM read_parquet('{out}/{GLOB}', union_by_name=true) ORDER BY post_id, model_name")
        .to_arrow_table()
        .to_pylist()
    )


def output_of(out: Path | str) -> list[Output]:
    """The output, as each model and version in it sees it."""
    table = DeltaTable(str(out), storage_options=storage.object_store_options(str(out)))
    names = {
        (file["partition.model"], file["partition.version"])
        for file in pa.table(table.get_add_actions(flatten=True)).to_pylist()
    }
    return [Output.open(Layout(str(out), model, version)) for model, version in sorted(names)]


def rows_by_table(out: Path | str) -> list[dict[str, Any]]:
    """Every tagged row of the newest snapshot."""
    rows = [row for output in output_of(out) for row in _rows(output, "tagged")]
    return sorted(rows, key=lambda row: (row["post_id"], row["model_name"]))


def rejected(out: Path | str) -> list[dict[str, Any]]:
    """Every line of the table of rejected rows."""
    lines = (
        DeltaTable(f"{out}/_rejected", storage_options=storage.object_store_options(str(out)))
        .to_pyarrow_table()
        .to_pylist()
    )
    return sorted(lines, key=lambda line: (line["part"], -1 if line["row"] is None else line["row"]))


def content(
    out: Path | str, columns: Sequence[str] = ("post_id", "part", "part_row", "hashtags", "scores", "status")
) -> list[tuple]:
    """What must be equal between an output and that of an undisturbed run."""
    return [tuple(str(row[name]) for name in columns) for row in rows_by_table(out)]


def _rows(output: Output, name: str) -> list[dict[str, Any]]:
    table = getattr(output, name)
    return [row for file in table.files(output.layout.values) for row in table.read(file).to_pylist()]
