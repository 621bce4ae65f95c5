"""A challenger beside the champion on posts of the sample archive, in a real MLflow."""

from pathlib import Path

import pytest

from hashtag_core.config import read_recipe
from hashtag_core.errors import ConfigError, NotFoundError
from hashtag_core.promotion.shadow import shadow
from hashtag_core.tracking.registry import champion, move_champion, register_model_folder
from hashtag_core.tracking.runs import connect, start_run
from jobs import promote

NAME = "hashtag-recommender"


def test_a_challenger_in_the_shadow(
    mlflow_store: Path,
    linear: Path,
    popularity: Path,
    repository: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with start_run("e", "r") as run:
        ours, theirs = (register_model_folder(run, folder, NAME) for folder in (linear, popularity))
    archive, recipe = str(repository / "jobs" / "sample"), read_recipe(None, ["tagging.top_k=5"])
    with pytest.raises(NotFoundError, match="no champion to be in the shadow of"):
        shadow(archive, ours, recipe)
    move_champion(NAME, theirs.rpartition("/")[2], {})
    with pytest.raises(ConfigError, match="is the champion"):
        shadow(archive, theirs, recipe)
    told = shadow(archive, ours, recipe, posts=24, report=str(tmp_path / "report"))
    assert (told["challenger"], told["champion"], told["figures"]["posts"], told["parts"]) == (ours, theirs, 24.0, 4)
    assert 0 <= told["figures"]["overlap_at_5"] < 1
    page = (tmp_path / "report" / "shadow.html").read_text()
    assert "data:image/png;base64," in page
    assert "Posts that differ the most" in page
    kept = connect().get_run(told["run_id"])
    assert kept.data.metrics["overlap_at_5"] == told["figures"]["overlap_at_5"]
    assert kept.data.tags["mlflow.parentRunId"] == run.run_id
    assert champion(NAME) == "2"
    code = promote.main(["--shadow", "--challenger", ours, "--archive", archive, "--since", "2999-01-01"])
    assert (code, "no part was modified since" in capfd.readouterr().err) == (2, True)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--shadow"], "needs --challenger and --archive"),
        (["--shadow", "--challenger", "m", "--archive", "a", "--rollback"], "moves nothing"),
        (["--shadow", "--challenger", "m", "--archive", "a", "--posts", "0"], "expected at least 1"),
        (["--shadow", "--challenger", "m", "--archive", "a", "--since", "soon"], "expected a date"),
        (["--archive", "a", "--rollback"], "only with --shadow"),
        (["--explain", "m", "--rollback"], "changes nothing"),
        (["--challenger", "m", "--dataset", "d", "--force", " "], "say why"),
    ],
)
def test_wrong_flags(flags: list[str], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert promote.main(flags) == 2
    assert message in capfd.readouterr().err
