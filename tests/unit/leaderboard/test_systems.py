"""Other seeds of a system are shown below its own run."""

import json
from pathlib import Path

from hashtag_core.config import Recipe
from hashtag_core.leaderboard.plan import Entry
from hashtag_core.leaderboard.systems import Systems
from hashtag_core.tracking.registry import register_model_folder
from hashtag_core.tracking.runs import start_run


def test_the_parent_of_another_seed_is_the_run_of_the_system(mlflow_store: Path, tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(json.dumps({"name": "linear", "version": "abc"}))
    with start_run("e", "first") as run:
        model = register_model_folder(run, tmp_path, "board")
    systems = Systems.__new__(Systems)
    systems.states = {"linear": {"model": model}, "gone": {"model": "models:/board/9"}, "failed": {}}
    assert systems._parent(Entry("linear-seed1", Recipe(), "linear.toml", seed_of="linear")) == run.run_id
    for name, seed_of in (("linear", None), ("x", "gone"), ("y", "failed"), ("z", "unknown")):
        assert systems._parent(Entry(name, Recipe(), "linear.toml", seed_of=seed_of)) is None
