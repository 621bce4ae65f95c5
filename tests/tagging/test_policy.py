"""The policy of a tagging run: in the rows, and pinned with the output."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hashtag_core.config import Recipe
from hashtag_core.distributed.tag import tag
from hashtag_core.errors import ConfigError
from hashtag_core.output.verify import verify_output
from hashtag_core.tagging.planned_work import TagPlan
from tests.tagging.outputs import plan_for, rows_by_glob


def job_for(archive: Path, out: Path, model: Path, **tagging: Any) -> TagPlan:
    recipe = Recipe.model_validate({"tagging": {"top_k": 3, **tagging}})
    return plan_for(archive, out, model, recipe)


@pytest.fixture
def archive(tmp_path: Path, make_posts: Callable, write_archive: Callable) -> Path:
    return write_archive(tmp_path / "archive", make_posts(6), parts=2)


rows = rows_by_glob


def test_denied_tags_are_in_no_row(inline: None, archive: Path, popularity: Path, tmp_path: Path) -> None:
    tag(job_for(archive, tmp_path / "plain", popularity))
    first, second, third = rows(tmp_path / "plain")[0]["hashtags"]
    file = tmp_path / "deny.txt"
    file.write_text(f"#{first.upper()}\nnever_heard_of\n")
    out = tmp_path / "out"
    tag(job_for(archive, out, popularity, deny=[third], deny_file=str(file)))
    found = rows(out)
    assert len(found) == 6
    assert all(row["hashtags"][0] == second and len(row["hashtags"]) == 3 for row in found)
    assert not {first, third} & {name for row in found for name in row["hashtags"]}
    assert verify_output(str(out), str(archive)).problems == []


def test_a_post_may_have_no_tag_at_all(inline: None, archive: Path, popularity: Path, tmp_path: Path) -> None:
    assert tag(job_for(archive, tmp_path / "out", popularity, min_score=1.0)).tagged == 6
    assert [row["hashtags"] for row in rows(tmp_path / "out")] == [[]] * 6
    assert verify_output(str(tmp_path / "out"), str(archive)).problems == []


def test_the_policy_is_pinned_as_far_as_rows_depend_on_it(
    inline: None, archive: Path, popularity: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    tag(job_for(archive, out, popularity, deny=["tag007"]))
    assert job_for(archive, out, popularity, deny=["#Tag007", "not a tag of the model"]).is_done
    with pytest.raises(ConfigError, match=r"deny was '1 tag\(s\): tag007 \(\w+\)', now ''\)"):
        job_for(archive, out, popularity)
    with pytest.raises(ConfigError, match=r"min_score was 0\.0, now 0\.1"):
        job_for(archive, out, popularity, deny=["tag007"], min_score=0.1)
    with pytest.raises(ConfigError, match=r"tagging\.deny: '!!' is no hashtag"):
        job_for(archive, out, popularity, deny=["!!"])
    thresholds = popularity / "thresholds.json"
    try:
        thresholds.write_text(json.dumps({"tag001": 1.0}))
        with pytest.raises(ConfigError, match=r"thresholds was '', now '1 tag\(s\): tag001"):
            job_for(archive, out, popularity, deny=["tag007"])
        tag(job_for(archive, tmp_path / "other", popularity))
        assert "tag001" not in {name for row in rows(tmp_path / "other") for name in row["hashtags"]}
    finally:
        thresholds.unlink()
