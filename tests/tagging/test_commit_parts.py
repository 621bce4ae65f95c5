"""How tagged parts get into the table."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from hashtag_core.config import Recipe
from hashtag_core.distributed.tag import tag
from hashtag_core.errors import ConfigError
from hashtag_core.output import commit_parts
from hashtag_core.output.commit_parts import FinishedPart, Publisher
from hashtag_core.output.verify import verify_output
from hashtag_core.tagging.planned_work import TagPlan
from hashtag_core.tagging.select_parts import Selection
from tests.tagging.outputs import GLOB, plan_for, rows_by_glob


@pytest.fixture
def archive(tmp_path: Path, make_posts: Callable, write_archive: Callable) -> Path:
    return write_archive(tmp_path / "archive", make_posts(12), parts=3)


def job_for(archive: Path, out: Path, model: Path, selection: Selection | None = None, **tagging: Any) -> TagPlan:
    recipe = Recipe.model_validate({"tagging": {"top_k": 3, **tagging}})
    return plan_for(archive, out, model, recipe, selection=selection or Selection())


def published(out: Path) -> dict[str, Sequence[str]]:
    """Part -> ids of its rows."""
    found: dict[str, list[str]] = {}
    for row in rows_by_glob(out):
        found.setdefault(row["part"], []).append(row["post_id"])
    return found


def names(out: Path) -> set[str]:
    return {path.name for path in out.glob(GLOB)}


def test_chunks_that_wait_for_another_run_are_kept(
    inline: None, archive: Path, popularity: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(Publisher, "take", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            tag(job_for(archive, out, popularity, Selection(["*-0000*"])))
    (kept,) = out.rglob("chunks/*/*.parquet")
    tag(job_for(archive, out, popularity, Selection(["*-0001*"])))
    assert kept.exists()


def _interrupt(*arguments: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("repeat", [True, False])
def test_a_killed_run_that_tags_again_goes_on(
    inline: None, archive: Path, popularity: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repeat: bool
) -> None:
    """With and without --retag, what it had tagged again is not tagged a third time."""
    out = tmp_path / "out"
    tag(job_for(archive, out, popularity))
    before, rows = names(out), published(out)
    with monkeypatch.context() as patch:
        patch.setattr(commit_parts, "GROUP_PARTS", 1)
        patch.setattr(Publisher, "take", _until("posts-0001"))
        with pytest.raises(KeyboardInterrupt):
            tag(job_for(archive, out, popularity, Selection(retag=True), min_score=0.001))
    kept = names(out) - before
    summary = tag(job_for(archive, out, popularity, Selection(retag=repeat), min_score=0.001))
    assert summary.parts == 2
    assert kept <= names(out)
    assert not names(out) & before
    assert published(out) == rows
    assert verify_output(str(out), str(archive)).problems == []
    assert job_for(archive, out, popularity, min_score=0.001).is_done
    with pytest.raises(ConfigError, match="or tag all of it again with --retag"):
        job_for(archive, out, popularity)


def _until(name: str) -> Callable[[Publisher, FinishedPart], None]:
    take = Publisher.take

    def until(publisher: Publisher, part: FinishedPart) -> None:
        if name in part.record.path:
            raise KeyboardInterrupt
        take(publisher, part)

    return until
