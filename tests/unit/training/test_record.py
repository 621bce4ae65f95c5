"""The record of a run: found by its name and its MLflow id, and refused where something else would be learned."""

from pathlib import Path

import pytest

from hashtag_core.config import Recipe
from hashtag_core.errors import ConfigError, IntegrityError, NotFoundError
from hashtag_core.training.record import RunRecord, TrainSummary, check_storage, new_run_name

SUMMARY = TrainSummary("id", "linear-1", "models:/m/1", {"f1_at_1": 0.5}, 1.5, parameters=7)


def record(root: Path, recipe: Recipe | None = None, summary: TrainSummary | None = None) -> RunRecord:
    return RunRecord(
        "linear-1", str(root), "id", "dataset", "hash", (recipe or Recipe()).model_dump(mode="json"), summary
    )


@pytest.mark.parametrize("summary", [None, SUMMARY])
def test_it_is_found_by_name_and_by_id_as_it_was_saved(summary: TrainSummary | None, tmp_path: Path) -> None:
    saved = record(tmp_path, summary=summary)
    saved.save()
    assert RunRecord.find(str(tmp_path), "linear-1") == RunRecord.find(str(tmp_path), "id") == saved
    for name in ("other", "../linear-1"):
        with pytest.raises(NotFoundError, match="no run"):
            RunRecord.find(str(tmp_path), name)


def test_another_file_of_that_name_is_no_record(tmp_path: Path) -> None:
    (tmp_path / "linear-1").mkdir()
    (tmp_path / "linear-1" / "run.json").write_text('{"name": "linear-1"}')
    with pytest.raises(IntegrityError, match=r"run\.json"):
        RunRecord.find(str(tmp_path), "linear-1")


def test_what_is_learned_may_not_change_and_where_may() -> None:
    mine = record(Path("/runs"))
    free = Recipe.model_validate({"training": {"workers": 3, "max_failures": 9}})
    mine.check_same(free, "dataset", "hash")
    with pytest.raises(ConfigError, match=r"training\.epochs was \d+, is 99"):
        mine.check_same(Recipe.model_validate({"training": {"epochs": 99}}), "dataset", "hash")
    with pytest.raises(ConfigError, match="of other content"):
        mine.check_same(Recipe(), "dataset", "another")


def test_no_two_runs_share_a_name() -> None:
    names = {new_run_name("linear") for _ in range(20)}
    assert len(names) == 20
    assert all(name.startswith("linear-") for name in names)


def test_checkpoints_that_a_node_does_not_see(tmp_path: Path) -> None:
    record = tmp_path / "run" / "run.json"
    with pytest.raises(ConfigError, match=r"which node .* does not see: .*training\.storage"):
        check_storage(str(record), "id")
    record.parent.mkdir()
    record.write_text('{"run_id": "another"}')
    with pytest.raises(ConfigError, match="another folder on node"):
        check_storage(str(record), "id")
    record.write_text('{"run_id": "id"}')
    check_storage(str(record), "id")
    assert [path.name for path in record.parent.iterdir()] == ["run.json"]
    check_storage("s3://bucket/run/run.json", "id")
