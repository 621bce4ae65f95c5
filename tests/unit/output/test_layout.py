"""Where everything of one output is."""

from pathlib import Path
from urllib.parse import unquote

import pytest

from hashtag_core.errors import ConfigError
from hashtag_core.output.layout import Layout, absolute_output, hive


@pytest.mark.parametrize(("value", "folder"), [
    (None, "__HIVE_DEFAULT_PARTITION__"), ("tags", "tags"), ("a/b", "a%2Fb"), ("50%", "50%25"), ("a=b", "a%3Db"),
    ("x:y", "x%3Ay"), ("two words", "two words"), ("é", "%C3%A9"),
])  # fmt: skip
def test_a_partition_value_is_one_folder_name(value: str | None, folder: str) -> None:
    assert hive(value) == folder
    assert value is None or unquote(folder) == value


def test_paths_of_a_model_and_version() -> None:
    layout = Layout("s3://bucket/out", "a/b", "7")
    assert layout.partition == "model=a%2Fb/version=7"
    assert layout.values == {"model": "a/b", "version": "7"}
    assert layout.chunk("key", 12) == "s3://bucket/out/_state/model=a%2Fb/version=7/chunks/key/00012.parquet"
    assert layout.run("r") == "s3://bucket/out/_state/runs/r.json"
    assert (layout.rejected, layout.records) == ("s3://bucket/out/_rejected", "s3://bucket/out/_state/records")


def test_an_output_is_absolute_and_no_key_has_an_empty_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_output("out") == str(tmp_path / "out")
    assert absolute_output("s3://bucket/a/b/") == "s3://bucket/a/b"
    with pytest.raises(ConfigError, match="'//'"):
        absolute_output("s3://bucket/a//b")
