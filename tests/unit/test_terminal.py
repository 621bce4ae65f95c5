"""What a person reads on a terminal: hints, tables that fit, times that are true, and Ray's own words left out."""

import json
import logging
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from hashtag_core import progress_bar
from hashtag_core.distributed.quiet import pass_on, terminated_as_interrupted
from hashtag_core.errors import NotFoundError, UsageError
from hashtag_core.evaluation.report import leaderboard_table
from hashtag_core.progress_bar import ProgressBar
from jobs import train
from jobs.common import JobParser, add_common_arguments, recipe_file, run
from jobs.evaluate import _told as evaluation_told
from jobs.train import _small_one_named, _warn


def parser() -> JobParser:
    made = JobParser(prog="job")
    made.add_argument("--out")
    add_common_arguments(made)
    return made


@pytest.mark.parametrize(
    ("flag", "hint"),
    [
        ("--epochs", "--set training.epochs=..."),
        ("--lr", "--set training.learning_rate=..."),
        ("--batch-size", "--set training.batch_size=..."),
        ("--min-score=0.3", "--set tagging.min_score=..."),
        ("--min_count", "--set vocabulary.min_count=..."),
        ("--family", "--set model.family=..."),
        ("--output", "'--out'"),
        ("--config", "'--recipe'"),
        ("--dry-rnu", "'--dry-run'"),
    ],
)
def test_an_unknown_flag_is_answered_by_what_it_means(flag: str, hint: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"(did you mean {hint}?)")):
        parser().parse_args([flag, "3"])


def test_quiet_leaves_warnings_and_the_result(capfd: pytest.CaptureFixture[str]) -> None:
    def work(arguments: Any) -> dict[str, int]:
        logging.getLogger("hashtag_core.jobs").info("progress")
        logging.getLogger("hashtag_core.jobs").warning("beware")
        return {"done": 1}

    assert run(parser(), work, ["--quiet"]) == 0
    out, err = capfd.readouterr()
    assert out == '{"done": 1}\n'
    assert "progress" not in err
    assert "beware" in err


def test_an_interrupt_says_how_to_go_on(capfd: pytest.CaptureFixture[str]) -> None:
    def work(arguments: Any) -> dict[str, int]:
        raise KeyboardInterrupt("go on with `--resume x`")

    assert run(parser(), work, []) == 1
    assert capfd.readouterr().err == "job: interrupted: go on with `--resume x`\n"


def test_a_dataset_that_was_forgotten_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Loudly where other flags say that a person means their own posts; with none, the sample is what is asked for."""
    monkeypatch.setattr(train, "SAMPLE_DATASET", tmp_path / "none")
    monkeypatch.setattr(train, "_train_sample", lambda arguments, recipe: {})
    for flags in (["--recipe", "linear"], ["--set", "training.epochs=3"], ["--workers", "2"]):
        assert train.main(flags) == 0
        assert "WARNING no --dataset: the SAMPLE archive is trained on, not your posts" in capfd.readouterr().err
    assert train.main([]) == 0
    assert capfd.readouterr().err == ""


def test_sigterm_is_an_interrupt() -> None:
    import os
    import signal

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt, match="SIGTERM"), terminated_as_interrupted():  # noqa: PT012  the signal may come a step later
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
    assert signal.getsignal(signal.SIGTERM) is before


def report(name: str, interval: bool = True) -> dict[str, Any]:
    names = ("precision", "recall", "hit_rate", "ndcg", "f1")
    figures = {f"{metric}_at_5": 0.2751 for metric in names} | {"f1_at_5_user_macro": 0.3, "posts": 55.0}
    row = {"model": f"models:/{name}/12", "family": name, "version": "12", "metrics": figures}
    row |= {
        "papers": figures,
        "floor": figures,
        "intervals": {"headline": {"f1_at_5": [0.15, 0.456]}} if interval else {},
    }
    return {"split": "test", "dataset": "demo/dataset", "dataset_hash": "0" * 64, "ks": [5], "models": [row]}


@pytest.mark.parametrize("width", [80, 100, 150])
def test_the_leaderboard_fits_and_cuts_nothing(width: int) -> None:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(leaderboard_table(report("lxmert4hashtag"), width))
    text = console.export_text()
    assert max(cell_len(line) for line in text.splitlines()) <= width
    assert "…" not in text
    assert all(part in text for part in ("lxmert4hashtag", "12", "0.2751", "0.150–0.456"))


def test_the_last_line_of_a_pass_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress_bar.sys.stderr, "isatty", lambda: False, raising=False)
    with caplog.at_level(logging.INFO, logger="hashtag_core.progress_bar"):
        with ProgressBar(3, "encoding", every_s=0.0) as progress:
            progress.add(3)
        assert [message.split(",")[0] for message in caplog.messages] == ["encoding: 3 of 3 posts (100 %)"]
        with ProgressBar(3, "encoding", every_s=0.0) as progress:
            progress.add(2)
            progress.every_s = 60.0
            progress.add(1)
    assert [message.split(" of")[0] for message in caplog.messages] == ["encoding: 3", "encoding: 2", "encoding: 3"]


def test_workers_lines_pass_and_rays_own_do_not() -> None:
    seen: list[Any] = []
    noise = (
        "[2026-11-26 01:23:56,673 E 10333 10536] core_worker.cc:2465: Actor with class name: 'PreemptionWatcher' ...",
        "x.py:211: RayDeprecationWarning: `ray_remote_args` is deprecated",
    )
    pass_on(seen.append, {"lines": [*noise, "WARNING a picture is broken"], "pid": 7})
    pass_on(seen.append, {"lines": list(noise), "pid": 7})
    assert seen == [{"lines": ["WARNING a picture is broken"], "pid": 7}]


def test_a_recipe_goes_by_its_bare_name(repository: Any) -> None:
    assert recipe_file("linear") == str(repository / "jobs" / "recipes" / "linear.toml")
    assert recipe_file("some/where.toml") == "some/where.toml"
    assert recipe_file(None) is None
    with pytest.raises(NotFoundError, match=r"no recipe 'amnn_smal' \(did you mean 'amnn_small'\?\)"):
        recipe_file("amnn_smal")


def test_a_paper_recipe_without_its_weights_names_the_small_one() -> None:
    with (
        pytest.raises(NotFoundError, match=r"vgg16\.pth is missing\. The recipe vgg_object_scene_small needs no"),
        _small_one_named("jobs/recipes/vgg_object_scene.toml"),
    ):
        raise NotFoundError("vgg16.pth is missing")
    with pytest.raises(NotFoundError, match=r"^x$"), _small_one_named("jobs/recipes/linear.toml"):
        raise NotFoundError("x")


@pytest.mark.parametrize(
    ("workers", "vocabulary", "posts", "told"),
    [
        (1, 50, 500, []),
        (10_000, 50, 500, ["training.workers = 10000 on a machine of"]),
        (1, 1, 500, ["the vocabulary has 1 hashtag"]),
        (1, 50, 5, ["5 posts to learn from"]),
    ],
)
def test_a_word_on_what_is_hardly_meant(
    workers: int,
    vocabulary: int,
    posts: int,
    told: list[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    recipe = SimpleNamespace(training=SimpleNamespace(workers=workers))
    info = SimpleNamespace(vocabulary=vocabulary, posts={"train": posts})
    _warn(SimpleNamespace(recipe=recipe, fitted=False, dataset=SimpleNamespace(info=info)))  # type: ignore[arg-type]
    assert len(caplog.messages) == len(told)
    assert all(part in message for part, message in zip(told, caplog.messages, strict=True))


def test_evaluation_ends_in_figures_that_can_be_read() -> None:
    names = ("precision", "recall", "f1", "ndcg", "hit_rate", "f1_per_post", "mean_hits")
    figures = {f"{name}_at_{k}{over}": 0.5 for name in names for k in range(1, 11) for over in ("", "_user_macro")}
    row: Any = {"model": "models:/a/1", **dict.fromkeys(("metrics", "papers", "floor"), figures | {"bleu_4": 0.5})}
    told: Any = evaluation_told({"models": [row], "report": "report"}, list(range(1, 11)))
    assert len(json.dumps(told)) < 2500 < len(json.dumps(row))
    (model,) = told["models"]
    assert {"precision_at_1", "f1_at_5", "f1_at_5_user_macro", "ndcg_at_10", "bleu_4"} <= set(model["metrics"])
    assert "f1_at_4" not in model["metrics"]
    assert "f1_at_5" in model["papers"]
    assert "f1_at_5" in model["floor"]
