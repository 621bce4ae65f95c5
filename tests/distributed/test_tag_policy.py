"""The policy of a tagging run: in the rows, and pinned with the output."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hashtag_core.output.verify import verify_output

from hashtag_core.config import Recipe
from hashtag_core.distributed.tag import tag
from hashtag_core.errors import ConfigError
from hashtag_core.tagging.plan import TagPlan, TagRequest
from hashtag_core.tagging.planning import plan_tagging
from hashtag_core.tracking.registry import resolve_model

POLICY = ("min_score", "deny", "thresholds")


def job_for(archive: Path, out: Path, model: Path, **tagging: Any) -> TagPlan:
    recipe = Recipe.model_validate({"tagging": {"top_k": 3, **tagging}})
    return plan_tagging(TagRequest(recipe, str(archive), str(out), resolve_model(str(model))))


@pytest.fixture
def archive(tmp_path: Path, make_posts: Callable, write_archive: Callable) -> Path:
    return write_archive(tmp_path / "archive", make_posts(6), parts=2)


def rows(out: Path) -> list[dict[str, Any]]:
    return [
        row
        for path in out.glob("model=*/version=*/*/part-*.parquet")
        for row in pq.ParquetFile(path).read().to_pylist()
    ]


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


def test_an_output_of_before_is_taken_up(inline: None, archive: Path, popularity: Path, tmp_path: Path) -> None:
    """Settings that were pinned without the keys of the policy are those of no policy, and ids do not change by them."""
    out = tmp_path / "out"
    tag(job_for(archive, out, popularity))
    (path,) = out.rglob("settings.json")
    before = {key: value for key, value in json.loads(path.read_text()).items() if key not in POLICY}
    path.write_text(json.dumps(before))
    job = job_for(archive, out, popularity)
    assert job.is_done
    part = job.plan.parts[0]
    depends_on = [before, part.path, part.etag, part.groups, part.readable, []]
    assert part.id == hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:16]
