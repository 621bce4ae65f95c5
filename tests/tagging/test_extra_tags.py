"""Tags by name alone in a tagging run: in the rows and in histories, pinned with the output, refused where they cannot be."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from hashtag_core.config import Recipe
from hashtag_core.distributed.tag import tag
from hashtag_core.errors import ConfigError
from hashtag_core.output.verify import verify_output
from hashtag_core.recommend.recommender import Recommender
from hashtag_core.tagging.planned_work import TagPlan
from hashtag_core.tagging.select_parts import Selection
from jobs import nightly
from jobs import tag as tag_job
from tests.tagging.outputs import plan_for, rows_by_glob

TAGS = 40
"""Of the model."""


@pytest.fixture(scope="module")
def kriging(tmp_path_factory: pytest.TempPathFactory, make_model_folder: Callable[..., Path]) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("models") / "kriging", family="regression_kriging")


@pytest.fixture
def posts(make_posts: Callable) -> list[dict[str, Any]]:
    """Posts of two users who tag with words that no model was taught."""
    found: list[dict[str, Any]] = make_posts(12, users=2)
    for post in found:
        post["hashtags"] = [
            *(post["hashtags"] or []),
            "#Regatta" if post["user_id"] == found[0]["user_id"] else "ledger",
        ]
    return found


@pytest.fixture
def archive(tmp_path: Path, posts: list[dict[str, Any]], write_archive: Callable) -> Path:
    made: Path = write_archive(tmp_path / "archive", posts, parts=2)
    return made


def job_for(archive: Path, out: Path, model: Path, asked: dict[str, Any] | None = None, **tagging: Any) -> TagPlan:
    recipe = Recipe.model_validate({"tagging": {"top_k": TAGS + 2, "chunk_rows": 4, **tagging}})
    return plan_for(archive, out, model, recipe, **(asked or {}))


def told(row: dict[str, Any]) -> dict[str, float]:
    return dict(zip(row["hashtags"], row["scores"], strict=True))


def test_rows_are_those_that_a_notebook_gets(
    inline: None, archive: Path, posts: list[dict[str, Any]], kriging: Path, tmp_path: Path
) -> None:
    """Tags of the list are found in histories too: scores are those of `Recommender.add_tags` over the whole archive."""
    file = tmp_path / "extra.txt"
    file.write_text("#Regatta\n\ntag001\nledger\n", encoding="utf-8")
    out = tmp_path / "out"
    assert tag(job_for(archive, out, kriging, extra_tags_file=str(file))).tagged == len(posts)
    recommender = Recommender.load(str(kriging), device="cpu")
    assert recommender.add_tags(["ledger", "regatta"]) == ["ledger", "regatta"]
    expected = {
        row["post_id"]: told(row) for row in recommender.recommend(with_dates(posts), top_k=TAGS + 2).to_pylist()
    }
    found = {row["post_id"]: told(row) for row in rows_by_glob(out)}
    assert found.keys() == expected.keys()
    for post_id, scores in found.items():
        assert scores.keys() == expected[post_id].keys() == set(recommender.tags)
        assert scores == pytest.approx(expected[post_id], abs=2e-3)
    tag(job_for(archive, tmp_path / "plain", kriging))
    assert all(len(row["hashtags"]) == TAGS for row in rows_by_glob(tmp_path / "plain"))
    assert verify_output(str(out), str(archive)).problems == []


def with_dates(posts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The archive's microseconds as dates, as a notebook says them."""
    return [{**post, "created_at": datetime.fromtimestamp(post["created_at"] / 1e6, UTC)} for post in posts]


def test_the_list_is_pinned_by_what_is_in_it(inline: None, archive: Path, kriging: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    tag(job_for(archive, out, kriging, extra_tags=["regatta", "ledger"]))
    assert job_for(archive, out, kriging, extra_tags=["#Ledger", "tag001", "REGATTA"]).is_done
    with pytest.raises(
        ConfigError,
        match=r"extra_tags was '2 tag\(s\): ledger, regatta \(\w+\)', now '1 tag\(s\): regatta \(\w+\)'\): use the same",
    ):
        job_for(archive, out, kriging, extra_tags=["regatta"])
    with pytest.raises(ConfigError, match=r"extra_tags was .*, now ''"):
        job_for(archive, out, kriging)
    with pytest.raises(ConfigError, match=r"tagging\.extra_tags: '!!' is no hashtag"):
        job_for(archive, out, kriging, extra_tags=["!!"])


def test_tagged_again_with_another_list_histories_mean_its_tags(
    inline: None, archive: Path, posts: list[dict[str, Any]], kriging: Path, tmp_path: Path
) -> None:
    """The place that one list's tag has is another tag's by the next list: what was kept of the archive's parts must not mix them."""
    out = tmp_path / "out"
    tag(job_for(archive, out, kriging, extra_tags=["aaa", "regatta"]))
    again = {"selection": Selection(retag=True)}
    tag(job_for(archive, out, kriging, again, extra_tags=["ledger", "zzz"]))
    tag(job_for(archive, tmp_path / "fresh", kriging, extra_tags=["ledger", "zzz"]))
    found, expected = rows_by_glob(out), rows_by_glob(tmp_path / "fresh")
    assert [told(row) for row in found] == [told(row) for row in expected]
    assert len(found) == len(posts)


def test_a_denied_extra_tag_is_not_given(inline: None, archive: Path, kriging: Path, tmp_path: Path) -> None:
    tag(job_for(archive, tmp_path / "out", kriging, extra_tags=["regatta", "ledger"], deny=["ledger"]))
    assert all(
        {"regatta"} == set(row["hashtags"]) - {f"tag{n:03d}" for n in range(TAGS)}
        for row in rows_by_glob(tmp_path / "out")
    )


def test_a_family_that_cannot_says_so_before_anything_is_written(
    archive: Path, linear: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "extra.txt"
    file.write_text("regatta\n", encoding="utf-8")
    out = tmp_path / "out"
    flags = ["run", "--archive", str(archive), "--out", str(out), "--model", str(linear), "--extra-tags", str(file)]
    assert tag_job.main(flags) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "this linear does not read what tags are called; regression_kriging with captions does" in told
    assert not out.exists()
    flags[-1] = str(tmp_path / "missing.txt")
    assert tag_job.main(flags) == 2
    assert "missing.txt" in capsys.readouterr().err


def test_a_night_gives_the_list_to_its_tagging_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    called = list[tuple[str, ...]]()

    def job(name: str, arguments: Any, *flags: str, **_: Any) -> dict[str, Any]:
        called.append((name, *flags))
        return {"parts": 0}

    for name, value in {
        "_job": job,
        "champion": lambda name: "1",
        "_training_is_due": lambda *_: False,
        "_judge": lambda *_: {},
    }.items():
        monkeypatch.setattr(nightly, name, value)
    flags = ["--archive", "a", "--dataset", "d", "--out", "o"]
    nightly._nightly(nightly.build_parser().parse_args([*flags, "--extra-tags", "list.txt"]))
    nightly._nightly(nightly.build_parser().parse_args(flags))
    tagging = ("tag", "--archive", "a", "--out", "o")
    assert called == [(*tagging, "--extra-tags", "list.txt"), tagging]
