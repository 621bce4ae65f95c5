"""Evaluation and promotion of real model folders on a prepared dataset, logged to a real MLflow."""

import json
import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from hashtag_core import storage
from hashtag_core.config import Recipe, read_recipe
from hashtag_core.data.dataset import Dataset
from hashtag_core.distributed import evaluate as module
from hashtag_core.distributed.evaluate import evaluate
from hashtag_core.distributed.prepare import prepare
from hashtag_core.errors import ConfigError, IntegrityError, NotFoundError
from hashtag_core.judging.check import check_evaluation
from hashtag_core.judging.predictions import TABLE
from hashtag_core.models import InputSpec, create_model, parse_options
from hashtag_core.models.folder import save_model_folder
from hashtag_core.preparation.plan import plan_prepare
from hashtag_core.recommend.recommender import Recommender
from hashtag_core.schema import RANKED
from hashtag_core.tracking.registry import champion, champion_moves, find_version, move_champion, register_model_folder
from hashtag_core.tracking.runs import connect, start_run
from jobs import evaluate as evaluate_job
from jobs import promote as promote_job

KS = [1, 2, 3]
RECIPE = read_recipe(None, ["evaluation.ks=[1,2,3]", "evaluation.bootstrap_samples=50", "evaluation.batch_rows=7"])
SET = ["--set", "evaluation.ks=[1,2,3]", "--set", "evaluation.bootstrap_samples=20", "--set", "gates.metric=f1_at_2"]
SET += ["--set", "gates.max_p_value=0.2"]  # few users: a difference is soon chance
GATES = [
    "folder",
    "dataset",
    "posts",
    "split",
    "golden",
    "signature",
    "gain",
    "slices",
    "calibration",
    "coverage",
    "novelty",
    "speed",
]


@pytest.fixture(scope="module")
def dataset(
    tmp_path_factory: pytest.TempPathFactory,
    ray_session: None,
    make_posts: Callable,
    write_archive: Callable[..., Path],
) -> Dataset:
    """120 posts of 30 users; some without tags, image or caption, some with a tag outside the vocabulary."""
    folder = tmp_path_factory.mktemp("evaluate")
    posts = make_posts(120, users=30)
    for n, post in enumerate(posts):
        post["hashtags"] = [] if n % 11 == 0 else [*post["hashtags"], "common", *([f"rare{n}"] if n % 3 == 0 else [])]
        post["image"] = None if n % 4 == 1 else post["image"]
        post["caption"] = None if n % 7 == 2 else post["caption"]
    archive = write_archive(folder / "archive", posts)
    recipe = read_recipe(None, ["vocabulary.min_count=3", "split.validation=0.2", "split.test=0.3"])
    prepare(plan_prepare(recipe, str(archive), str(folder / "dataset")))
    return Dataset.open(str(folder / "dataset"))


@pytest.fixture(scope="module")
def make_popularity(tmp_path_factory: pytest.TempPathFactory, dataset: Dataset) -> Callable[..., Path]:
    """`make_popularity("good")` ranks by train count, `"bad"` the other way round."""

    def make(name: str, content_hash: str | None = None) -> Path:
        vocabulary = dataset.vocabulary
        options = parse_options("popularity", {})
        model = create_model("popularity", InputSpec(len(vocabulary)), options)
        shares = torch.tensor(vocabulary.counts / vocabulary.posts, dtype=torch.float32)
        model.share_V.copy_(shares if name == "good" else 1 - shares)
        folder = tmp_path_factory.mktemp("model") / name
        recipe = Recipe()
        info = {
            "name": "hashtag-recommender",
            "recipe": recipe.model_dump(mode="json"),
            "encoders": {},
            "captions": recipe.captions.model_dump(mode="json"),
            "dataset": {"content_hash": content_hash or dataset.info.content_hash},
        }
        save_model_folder(folder, model, options, vocabulary, None, info)
        return folder

    return make


@pytest.fixture(scope="module")
def good(make_popularity: Callable[..., Path]) -> Path:
    return make_popularity("good")


@pytest.fixture(scope="module")
def bad(make_popularity: Callable[..., Path]) -> Path:
    return make_popularity("bad")


@pytest.fixture
def register(mlflow_store: Path) -> Callable[..., list[str]]:
    def make(*folders: Path) -> list[str]:
        with start_run("e", "r") as run:
            return [register_model_folder(run, folder, "hashtag-recommender") for folder in folders]

    return make


def posts_of(dataset: Dataset, split: Any = "test") -> list[dict[str, Any]]:
    return [row for table in dataset.read(split) for row in table.to_pylist()]


def by_hand(
    lists: Sequence[Sequence[str]], posts: list[dict[str, Any]], known: set[str], protocol: str, k: int
) -> dict[str, float]:
    """Precision, recall and F1 once more, with sets."""
    precisions, recalls = [], []
    for tags, post in zip(lists, posts, strict=True):
        true = set(post["hashtags"])
        if not (true if protocol == "headline" else true & known):
            continue
        target = true & known if protocol == "papers" else true
        hits = len(set(tags[:k]) & target)
        precisions.append(hits / k)
        recalls.append(hits / len(target))
    precision, recall = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    return {
        "posts": len(precisions),
        f"precision_at_{k}": precision,
        f"recall_at_{k}": recall,
        f"f1_at_{k}": 2 * precision * recall / (precision + recall),
    }


def test_two_models_by_hand_and_what_is_kept(
    dataset: Dataset, good: Path, bad: Path, register: Callable[..., list[str]], tmp_path: Path
) -> None:
    uris = register(good, bad)
    report = tmp_path / "report"
    summary = evaluate(dataset.uri, [*uris, uris[0]], str(report), RECIPE)
    assert summary["report"] == str(report)
    assert [row["model"] for row in summary["models"]] == uris
    posts, vocabulary = posts_of(dataset), dataset.vocabulary
    for row, order in zip(
        summary["models"],
        (vocabulary.tags, sorted(vocabulary.tags, key=lambda t: vocabulary.counts[vocabulary.index[t]])),
        strict=True,
    ):
        for protocol, name in (("headline", "metrics"), ("papers", "papers"), ("floor", "floor")):
            expected = by_hand([order] * len(posts), posts, set(vocabulary.tags), protocol, 2)
            assert {key: row[name][key] for key in expected} == pytest.approx(expected)

    # every post's list
    ranked = pq.read_table(report / "ranked" / "hashtag-recommender-1.parquet")
    assert ranked.schema.equals(RANKED)
    assert ranked["post_id"].to_pylist() == [post["post_id"] for post in posts]
    for line, post in zip(ranked.to_pylist(), posts, strict=True):
        assert line["true_hashtags"] == post["hashtags"]
        assert line["hashtags"] == vocabulary.tags[:3]
        assert line["hits"] == [tag in post["hashtags"] for tag in line["hashtags"]]
        assert line["scores"] == sorted(line["scores"], reverse=True)

    # the leaderboard
    board = json.loads((report / "leaderboard.json").read_text())
    assert board["dataset_hash"] == dataset.info.content_hash
    first = board["models"][0]
    assert {name: first[name] for name in ("metrics", "papers", "floor")} == {
        name: summary["models"][0][name] for name in ("metrics", "papers", "floor")
    }
    low, high = first["intervals"]["headline"]["f1_at_2"]
    assert low <= first["metrics"]["f1_at_2"] <= high
    assert 0 < first["thresholded"]["threshold"] < 1
    assert first["bleu"] == {}
    assert sum(first["statuses"].values()) == len(posts)
    slices = {name: figures["posts"] for name, figures in first["slices"].items()}
    tagged = [post for post in posts if post["hashtags"]]
    assert slices["without image"] == sum(post["image"] is None for post in tagged)
    assert slices.get("caption absent", 0) == sum(post["caption"] is None for post in tagged)
    assert slices["history of 0 posts"] == len({row["user_id"] for row in tagged})  # the first of each user
    assert sum(band["uses"] for band in first["tags"].values()) == sum(len(set(post["hashtags"])) for post in posts)
    (difference,) = board["differences"]
    assert difference["value"] == pytest.approx(
        abs(board["models"][0]["metrics"]["f1_at_3"] - board["models"][1]["metrics"]["f1_at_3"])
    )
    page = (report / "leaderboard.md").read_text()
    shown = json.loads(re.search(r'id="gallery-data">(.*?)</script>', (report / "report.html").read_text())[1])
    assert [post["i"] for post in shown["posts"]] == [post["post_id"] for post in posts_of(dataset, "test")]
    assert all(
        post["t"] >= 0 for post, told in zip(shown["posts"], posts_of(dataset, "test"), strict=True) if told["image"]
    )
    assert "protocol headline" in page.splitlines()[0]
    assert all(uri in page for uri in uris)

    # MLflow
    _, _, tags = find_version(uris[0])
    recorded = tags[f"evaluation.test.{dataset.info.content_hash[:12]}"]
    run = connect().get_run(recorded.split()[1].rstrip(":"))
    assert run.data.metrics["test_papers.f1_at_2"] == pytest.approx(first["papers"]["f1_at_2"])
    assert run.data.metrics["test_headline.f1_at_2"] == pytest.approx(first["metrics"]["f1_at_2"])
    assert run.data.tags["dataset_hash"] == dataset.info.content_hash
    assert run.data.tags["model"] == uris[0]
    assert run.info.status == "FINISHED"
    assert {file.path for file in connect().list_artifacts(run.info.run_id)} >= {
        "evaluation.json",
        "leaderboard.md",
        "report.html",
    }
    table = connect().load_table(run.info.experiment_id, TABLE, [run.info.run_id]).to_dict("list")
    kept = pq.read_table(tmp_path / "report" / "ranked" / "hashtag-recommender-1.parquet").to_pydict()
    assert table["post_id"] == kept["post_id"]
    assert table["true_hashtags"] == kept["true_hashtags"]
    assert table["hashtags"] == kept["hashtags"]
    assert table["scores"] == [pytest.approx(scores, abs=1e-6) for scores in kept["scores"]]
    assert table["status"] == kept["status"]


def test_the_path_is_that_of_tagging_with_cache_and_without(
    dataset: Dataset,
    make_model_folder: Callable[..., Path],
    mlflow_store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A model with a vocabulary of its own, which the dataset's shares nothing with, on real encoders."""
    folder = make_model_folder(tmp_path / "linear")
    direct = Recommender.load(str(folder)).recommend(pa.concat_tables(dataset.read("test")), top_k=3)
    for name, in_place in (("raw", 10_000), ("cached", 0)):
        monkeypatch.setattr(module, "ENCODED_IN_PLACE", in_place)
        with caplog.at_level(logging.WARNING):
            summary = evaluate(dataset.uri, [str(folder)], str(tmp_path / name), RECIPE)
        (path,) = (tmp_path / name / "ranked").iterdir()
        ranked = pq.read_table(path)
        assert ranked["status"].to_pylist() == direct["status"].to_pylist()
        same = sum(a == b for a, b in zip(ranked["hashtags"].to_pylist(), direct["hashtags"].to_pylist(), strict=True))
        assert same >= 0.9 * len(direct)  # another batch may turn a tie in the last digit
        assert summary["models"][0]["metrics"]["f1_at_3"] == 0.0
        assert summary["models"][0]["metrics"]["posts"] > 0
    assert "was trained on dataset unknown" in caplog.text
    assert "trained on another dataset" in (tmp_path / "raw" / "leaderboard.md").read_text()


def test_a_sequence_family_has_bleu(
    dataset: Dataset, make_model_folder: Callable[..., Path], mlflow_store: Path, tmp_path: Path
) -> None:
    folder = make_model_folder(tmp_path / "nic", family="nic")
    summary = evaluate(dataset.uri, [str(folder)], str(tmp_path / "report"), RECIPE)
    assert {"bleu_1", "bleu_4", "bleu_4_batch_mean"} <= set(summary["models"][0]["metrics"])
    assert json.loads((tmp_path / "report" / "leaderboard.json").read_text())["models"][0]["bleu"]["k"] == 5


def test_everything_on_s3(dataset: Dataset, good: Path, mlflow_store: Path, s3_bucket: str) -> None:
    storage.upload_folder(dataset.uri, f"{s3_bucket}/dataset")
    storage.upload_folder(good, f"{s3_bucket}/models/good")
    report = f"{s3_bucket}/report"
    summary = evaluate(f"{s3_bucket}/dataset", [f"{s3_bucket}/models/good"], report, RECIPE)
    assert summary["models"][0]["model"] == f"{s3_bucket}/models/good"
    board = storage.read_json(f"{report}/leaderboard.json")
    assert board["models"][0]["metrics"] == pytest.approx(summary["models"][0]["metrics"])
    assert [info.path.split("/")[0] for info in storage.list_files(report)] == [
        "leaderboard.json",
        "leaderboard.md",
        "ranked",
        "report.html",
    ]


def test_validation_has_no_threshold_of_its_own(
    dataset: Dataset, good: Path, mlflow_store: Path, tmp_path: Path
) -> None:
    recipe = read_recipe(None, ["evaluation.split=validation", "evaluation.ks=[10]", "evaluation.bootstrap_samples=0"])
    summary = evaluate(dataset.uri, [str(good)], str(tmp_path / "report"), recipe)
    assert summary["models"][0]["metrics"]["posts"] == sum(
        bool(post["hashtags"]) for post in posts_of(dataset, "validation")
    )
    (row,) = json.loads((tmp_path / "report" / "leaderboard.json").read_text())["models"]
    assert row["thresholded"] == {}
    assert all(intervals == {} for intervals in row["intervals"].values())
    assert len(dataset.vocabulary) < 10  # lists shorter than K: empty places are misses
    assert row["metrics"]["precision_at_10"] == pytest.approx(row["metrics"]["mean_hits_at_10"] / 10)


def test_what_cannot_be_evaluated(
    dataset: Dataset, good: Path, register: Callable[..., list[str]], tmp_path: Path
) -> None:
    register(good)
    for models, error, message in (
        (["models:/hashtag-recommender/9"], NotFoundError, "has no version 9"),
        (["models:/hashtag-recommendr/1"], NotFoundError, "did you mean 'hashtag-recommender'"),
        ([str(tmp_path)], NotFoundError, "no model at"),
        ([], ConfigError, "no model"),
    ):
        with pytest.raises(error, match=message):
            check_evaluation(dataset.uri, models, RECIPE)
    with pytest.raises(NotFoundError, match="no dataset"):
        check_evaluation(str(tmp_path), [str(good)], RECIPE)
    with pytest.raises(ConfigError, match=r"evaluation\.ks"):
        check_evaluation(dataset.uri, [str(good)], read_recipe(None, ["evaluation.ks=[]"]))


def test_a_broken_model_writes_no_leaderboard(
    dataset: Dataset, make_popularity: Callable[..., Path], mlflow_store: Path, tmp_path: Path
) -> None:
    broken = make_popularity("broken")
    (broken / "weights.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(IntegrityError, match=r"weights\.safetensors"):
        evaluate(dataset.uri, [str(broken)], str(tmp_path / "report"), RECIPE)
    assert not (tmp_path / "report" / "leaderboard.json").exists()


def run_job(job: Any, capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any] | None, str]:
    capfd.readouterr()
    code = job.main(list(arguments))
    out, err = capfd.readouterr()
    return code, json.loads(out) if out.strip() else None, err


def test_the_champions_way(
    dataset: Dataset,
    good: Path,
    bad: Path,
    register: Callable[..., list[str]],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    name = "hashtag-recommender"
    weak, strong = register(bad, good)
    challenge = ["--dataset", dataset.uri, "--challenger"]

    code, summary, _ = run_job(promote_job, capfd, *challenge, weak, "--dry-run", *SET)
    assert (code, summary["promoted"], champion(name)) == (0, False, None)

    # a champion that gives rare tags first is better on the tail, which the slices would not give away
    move_champion(name, "1", {"reason": "by hand"})
    code, summary, _ = run_job(promote_job, capfd, *challenge, strong, *SET, "--set", "gates.max_slice_loss=1.0")
    refused = [gate for gate in summary["gates"] if not gate["passed"]]
    assert (code, summary["champion"], summary["previous"]) == (0, strong, weak), refused
    assert [gate["name"] for gate in summary["gates"]] == GATES
    assert all(set(gate) == {"name", "passed", "detail"} and gate["passed"] for gate in summary["gates"])

    code, summary, err = run_job(promote_job, capfd, *challenge, weak, *SET)
    assert (code, summary["promoted"], summary["champion"], summary["previous"]) == (3, False, strong, weak)
    refused = {gate["name"] for gate in summary["gates"] if not gate["passed"]}
    assert "gain" in refused
    assert f"{weak} is not promoted" in err
    assert "Traceback" not in err
    tags = find_version(weak)[2]
    assert (tags["gates"], tags["gate.folder"][:6], tags["gate.gain"][:7]) == ("refused", "passed", "refused")
    assert find_version(f"models:/{name}@challenger")[1] == "1"

    code, summary, err = run_job(promote_job, capfd, *challenge, f"models:/{name}@champion", *SET)
    assert (code, summary["promoted"], summary["champion"], summary["gates"]) == (0, False, strong, [])
    assert "champion already" in err

    # gates of a file: less than before is asked for, and --set asks for more again
    gates = tmp_path / "gates.toml"
    gates.write_text(
        '[gates]\nmin_gain = -1.0\nmetric = "recall_at_3"\nprotocol = "papers"\nmax_slice_loss = 1.0\n'
        "max_calibration_loss = 1.0\nmin_coverage_ratio = 0.0\nmin_novelty_ratio = 0.0\n"
    )
    code, summary, _ = run_job(
        promote_job, capfd, *challenge, weak, "--gates", str(gates), *SET, "--set", "gates.min_gain=0.0"
    )
    assert (code, champion(name)) == (3, "2")
    code, summary, _ = run_job(promote_job, capfd, *challenge, weak, "--gates", str(gates), *SET)
    assert (code, summary["champion"], summary["previous"]) == (0, weak, strong)
    assert "f1_at_2 (papers)" in next(gate["detail"] for gate in summary["gates"] if gate["name"] == "gain")

    code, summary, _ = run_job(promote_job, capfd, "--rollback", "--dry-run")
    assert (code, summary["champion"], champion(name)) == (0, strong, "1")
    code, summary, _ = run_job(promote_job, capfd, "--rollback")
    assert (code, summary["champion"], summary["previous"]) == (0, strong, weak)
    assert (summary["promoted"], summary["rolled_back"], summary["taken_off"]) == (False, True, weak)
    code, summary, _ = run_job(promote_job, capfd, "--rollback")
    assert (code, summary["champion"], summary["previous"]) == (0, weak, None)
    code, summary, err = run_job(promote_job, capfd, "--rollback")
    assert (code, summary) == (2, None)
    assert "nothing to roll back to" in err

    moves = champion_moves(name)
    assert [(move.kind, move.to) for move in moves] == [
        ("promote", "1"), ("promote", "2"), ("promote", "1"), ("rollback", "2"), ("rollback", "1"),
    ]  # fmt: skip
    assert moves[1].why["figures"].keys() == {weak, strong}
    assert moves[1].why["dataset_hash"] == dataset.info.content_hash


def test_a_challenger_of_another_dataset_is_refused(
    dataset: Dataset,
    make_popularity: Callable[..., Path],
    register: Callable[..., list[str]],
    capfd: pytest.CaptureFixture[str],
) -> None:
    (uri,) = register(make_popularity("good", "f" * 64))
    code, summary, err = run_job(promote_job, capfd, "--dataset", dataset.uri, "--challenger", uri, *SET)
    assert (code, summary["promoted"], summary["champion"]) == (3, False, None)
    assert "trained on dataset ffffffffffff" in err


def test_promotions_that_are_wrong(
    dataset: Dataset, good: Path, register: Callable[..., list[str]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (uri,) = register(good)
    (tmp_path / "odd.toml").write_text("[gates]\nmetrik = 'x'\n")
    (tmp_path / "other.toml").write_text("[gate]\nmetric = 'x'\n")
    (tmp_path / "broken.toml").write_text("[gates\n")
    whole = ["--dataset", dataset.uri, "--challenger", uri]
    for arguments, message in (
        (["--dataset", dataset.uri], "give --dataset and --challenger, or --rollback"),
        ([], "or --rollback"),
        (["--rollback", *whole], "--rollback judges nothing"),
        (["--rollback"], "has no champion"),
        (["--dataset", dataset.uri, "--challenger", str(good)], "only a registered version can be champion"),
        (["--dataset", str(tmp_path), "--challenger", uri], "no dataset there"),
        ([*whole, "--gates", str(tmp_path / "none.toml")], "no gates file"),
        ([*whole, "--gates", str(tmp_path / "odd.toml")], "did you mean 'metric'"),
        ([*whole, "--gates", str(tmp_path / "other.toml")], "expected one table [gates], found gate"),
        ([*whole, "--gates", str(tmp_path / "broken.toml")], "not a readable TOML file"),
        ([*whole, "--set", "gates.metric=f1_at_50"], "no metric 'f1_at_50'"),
    ):
        code, summary, err = run_job(promote_job, capfd, *arguments)
        assert (code, summary) == (2, None), arguments
        assert message in err, err
        assert "Traceback" not in err
    assert champion("hashtag-recommender") is None


def test_the_evaluate_job(
    dataset: Dataset, good: Path, register: Callable[..., list[str]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (uri,) = register(good)
    report = tmp_path / "report"
    command = ["--dataset", dataset.uri, "--model", uri, "--model", str(good), "--report", str(report), *SET]
    code, summary, _ = run_job(evaluate_job, capfd, *command, "--dry-run")
    assert (code, [row["model"] for row in summary["models"]], report.exists()) == (0, [uri, str(good)], False)
    code, summary, err = run_job(evaluate_job, capfd, *command)
    assert code == 0
    assert [row["model"] for row in summary["models"]] == [uri, str(good)]
    assert summary["models"][0]["metrics"] == summary["models"][1]["metrics"]
    assert set(summary["models"][0]) == {"model", "metrics", "papers", "floor"}
    assert "protocol headline" in err
    assert len(list((report / "ranked").iterdir())) == 2
    code, summary, err = run_job(
        evaluate_job, capfd, "--dataset", dataset.uri, "--model", "models:/nothing@here", "--report", str(report)
    )
    assert (code, summary) == (2, None)
    assert (
        err.strip().splitlines()[-1].startswith("evaluate: models:/nothing@here: no registered model")
        or "no registered model 'nothing'" in err
    )
