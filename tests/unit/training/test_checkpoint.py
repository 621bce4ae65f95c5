"""What a checkpoint holds."""

import json

from hashtag_core.training.checkpoint import Progress

from .toy import MemoryTable, make_loop, settings


def test_state_is_json(tmp_path):
    loop = make_loop(settings(epochs=1), MemoryTable(20))
    loop.run()
    loop.save(tmp_path / "checkpoint")
    state = json.loads((tmp_path / "checkpoint" / "state.json").read_text())
    assert Progress(**state["progress"]) == loop.progress
    assert {path.suffix for path in (tmp_path / "checkpoint").iterdir()} == {".safetensors", ".json"}
