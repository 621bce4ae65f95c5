"""The models and versions that an output holds anything of."""

from pathlib import Path

import pytest

from hashtag_core.errors import NotFoundError
from hashtag_core.output.versions import listed, versions_of


def test_state_of_a_model_is_a_version(tmp_path: Path) -> None:
    for name in ("model=b/version=2/lease.json", "model=a%2Fx/version=1/chunks/k/0.parquet", "runs/r.json"):
        file = tmp_path / "_state" / name
        file.parent.mkdir(parents=True)
        file.write_bytes(b"{}")
    found = versions_of(str(tmp_path))
    assert [(layout.model_name, layout.model_version) for layout in found] == [("a/x", "1"), ("b", "2")]
    assert {layout.out for layout in found} == {str(tmp_path)}


def test_no_output_is_none(tmp_path: Path) -> None:
    assert listed(str(tmp_path / "nothing")) == []
    with pytest.raises(NotFoundError, match="no tagged output"):
        versions_of(str(tmp_path))
