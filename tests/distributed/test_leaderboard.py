"""A leaderboard over a tiny archive: what is done is kept, what fails is told, nothing of a post is in the report."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from hashtag_core.config import Recipe, read_recipe
from hashtag_core.data.dataset import Dataset
from hashtag_core.distributed.leaderboard import run_leaderboard
from hashtag_core.errors import ConfigError, HashtagError, NotFoundError
from hashtag_core.evaluation.metrics import Judged, judge
from hashtag_core.leaderboard.compare import Comparison, with_control
from hashtag_core.leaderboard.plan import LeaderboardPlan, family_recipes, plan_leaderboard
from hashtag_core.tracking.registry import champion
from hashtag_core.tracking.runs import connect
from jobs import leaderboard as job

OVERRIDES = [
    "evaluation.ks=[1,2,5]",
    "evaluation.bootstrap_samples=40",
    "vocabulary.min_count=3",
    "split.validation=0.2",
    "split.test=0.3",
]
RECIPES = {
    "popularity": '[model]\nfamily = "popularity"\n',
    "linear": '[model]\nfamily = "linear"\n',
    "tiny": '[model]\nfamily = "lstm_cnn"\ninputs = ["caption"]\nembedding = 8\nhidden = 8\nprojection = 8\nmin_word_count = 1\n'
    "[training]\nepochs = 2\nlearning_rate = 0.01\n",
    "broken": '[model]\nfamily = "linear"\n[encoders]\ntext = "hf:/no/such/encoder"\n',
    "nic": '[model]\nfamily = "nic"\n',
}
PAIRS = """
[[pairs]]
claim = "words help"
first = "linear"
second = "popularity"

[[pairs]]
claim = "more so where there is a history"
first = "linear"
second = "broken"
slice = "history of 5+ posts"
"""


def write_recipes(folder: Path, **texts: str) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.toml").write_text(text)
    return [folder / f"{name}.toml" for name in texts]


@pytest.fixture
def archive(
    tmp_path: Path, make_posts: Callable[..., list[dict[str, Any]]], write_archive: Callable[..., Path]
) -> Path:
    """90 posts of 15 users, captions alone."""
    return write_archive(tmp_path / "archive", [{**post, "image": None} for post in make_posts(90, users=15)], parts=1)


@pytest.fixture
def make_plan(archive: Path, tmp_path: Path) -> Callable[..., LeaderboardPlan]:
    def make(publish: str | None = None, **texts: str) -> LeaderboardPlan:
        (tmp_path / "pairs.toml").write_text(PAIRS)
        recipes = write_recipes(tmp_path / "recipes", **(texts or RECIPES))
        recipe = read_recipe(None, OVERRIDES)
        pairs = str(tmp_path / "pairs.toml")
        return plan_leaderboard("toy", str(archive), str(tmp_path / "out"), recipe, recipes, OVERRIDES, pairs, publish)

    return make


def states_of(folder: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in folder.glob("out/systems/*/state.json")}


@pytest.mark.slow
def test_systems_side_by_side_and_again(
    ray_session: None,
    mlflow_store: Path,
    make_plan: Callable[..., LeaderboardPlan],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    plan = with_control(make_plan(str(tmp_path / "docs")), "linear")
    with pytest.raises(ConfigError, match=r"control: no system 'lineal' on this board; there are .*linear"):
        with_control(plan, "lineal")
    summary = run_leaderboard(plan)
    assert summary["systems"] == {
        "linear": "done", "tiny": "done", "popularity": "done", "broken": "failed", "nic": "not_applicable",
    } or summary["systems"] == {
        "tiny": "done", "linear": "done", "popularity": "done", "broken": "failed", "nic": "not_applicable",
    }  # fmt: skip
    assert summary["trained"] == 3
    assert "was prepared with" not in caplog.text  # every recipe has the dataset's own sections
    folder = tmp_path / "out" / "report"
    assert {path.name for path in folder.iterdir()} == {
        "report.md", "report.html", "report.json", "systems.svg", "curves.svg", "slices.svg", "learning.svg",
        "cost.svg",
    }  # fmt: skip
    assert {path.name for path in (tmp_path / "docs").iterdir()} == {path.name for path in folder.iterdir()} - {
        "report.html"
    }

    report = json.loads((folder / "report.json").read_text())
    entries = {entry["name"]: entry for entry in report["entries"]}
    assert entries["nic"]["reason"] == "reads image alone, which no post here has"
    assert "/no/such/encoder" in entries["broken"]["reason"]
    assert entries["tiny"]["epochs"] == 2
    assert [len(values) for values in entries["tiny"]["history"].values()] == [2, 2, 2]
    assert entries["linear"]["parameters"] > entries["popularity"]["parameters"] > 0
    gain = entries["linear"]["differences"]["popularity"]
    figures = [entries[name]["metrics"]["headline"]["f1_at_5"] for name in ("linear", "popularity")]
    assert gain["value"] == pytest.approx(figures[0] - figures[1], abs=2e-5)
    assert gain["low"] <= gain["value"] <= gain["high"]
    first, second = report["pairs"]
    assert first["difference"] == gain
    assert first["posts"] == entries["linear"]["metrics"]["headline"]["posts"]
    assert second["missing"] == "broken not done"

    pairs = {(row["first"], row["second"]): row for row in report["comparisons"] if row["k"] == 5}
    assert len(pairs) == 3
    together = pairs.get(("linear", "popularity")) or pairs["popularity", "linear"]
    assert abs(together["value"]) == pytest.approx(abs(gain["value"]), abs=2e-5)
    assert together["p_holm"] >= together["p_holm_control"] >= together["p_value"]
    assert report["control"] == "linear"
    assert [pair for pair, row in pairs.items() if "p_holm_control" not in row] == [
        pair for pair in pairs if "linear" not in pair
    ]
    most = report["ceiling"]["recall_at_5"]
    assert all(most >= entry["metrics"]["headline"]["recall_at_5"] for entry in report["entries"][:3])
    assert all(entry["posts_per_second"] > 0 < entry["megabytes"] for entry in report["entries"][:3])

    # no post, no user, no hashtag, no place
    ranked = pq.read_table(tmp_path / "out" / "systems" / "linear" / "ranked.parquet").to_pylist()
    told = {
        value for row in ranked for value in (row["post_id"], row["user_id"], *row["hashtags"], *row["true_hashtags"])
    }
    assert len(told) > 10
    for path in folder.iterdir():
        text = path.read_text()
        assert path.name == "report.html" or not [value for value in told if value in text], path
        assert str(tmp_path) not in text.replace("/no/such/encoder", "")

    # but on the page that is not published
    page = (folder / "report.html").read_text()
    shown = json.loads(page.partition('id="gallery-data">')[2].partition("</script>")[0])
    assert shown["models"] == [entry["name"] for entry in report["entries"] if entry["status"] == "done"]
    assert [post["i"] for post in shown["posts"]] == [row["post_id"] for row in ranked]
    place = shown["models"].index("linear")
    lists = [[shown["tags"][tag] for tag in post["r"][place]] for post in shown["posts"]]
    assert lists == [row["hashtags"][:10] for row in ranked]

    assert not list((tmp_path / "out" / "runs").rglob("*.safetensors"))  # the models are in MLflow

    # a registered name of its own, without an alias
    assert [model.name for model in connect().search_registered_models()] == ["leaderboard-toy"]
    assert champion("leaderboard-toy") is None

    # again: nothing is trained, the failed one is tried
    before = states_of(tmp_path)
    again = run_leaderboard(make_plan())
    assert again["trained"] == 0
    assert {**states_of(tmp_path), "broken": b""} == {**before, "broken": b""}
    assert json.loads((folder / "report.json").read_text())["entries"][:3] == report["entries"][:3]

    # taken up where it was trained and not judged; another recipe is another system
    state = json.loads(before["linear"])
    del state["row"], state["judge_seconds"]
    (tmp_path / "out" / "systems" / "linear" / "state.json").write_text(json.dumps({**state, "status": "trained"}))
    changed = {**RECIPES, "popularity": '[model]\nfamily = "popularity"\n[training]\nseed = 1\n'}
    del changed["broken"]
    third = run_leaderboard(make_plan(**changed))
    assert third["trained"] == 1
    assert third["systems"]["linear"] == third["systems"]["popularity"] == "done"
    assert json.loads(states_of(tmp_path)["linear"])["model"] == state["model"]
    assert json.loads(states_of(tmp_path)["popularity"])["key"] != json.loads(before["popularity"])["key"]
    assert states_of(tmp_path)["tiny"] == before["tiny"]

    with pytest.raises(HashtagError, match="not one system is done: broken: "):
        run_leaderboard(make_plan(broken=RECIPES["broken"]))


@pytest.mark.slow
def test_trials_in_folds(ray_session: None, mlflow_store: Path, archive: Path, tmp_path: Path) -> None:
    """Every user is tested once, by models that were taught and chosen without; figures are over all posts. Again nothing is done."""
    habit = '[model]\nfamily = "user_frequency"\n'  # needs no encoder: the test is of the board
    searched = (
        habit + '[search]\n"model.prior_posts" = ["null", 0.5, 30.0]\n"model.history_posts" = {low = 5, high = 50}\n'
    )
    recipes = write_recipes(tmp_path / "recipes", user_frequency=searched, popularity=RECIPES["popularity"])

    def plan() -> LeaderboardPlan:
        common = ("toy", str(archive), str(tmp_path / "out"), read_recipe(None, OVERRIDES[:3]), recipes)
        return plan_leaderboard(*common, trials=2, folds=2)

    summary = run_leaderboard(plan())
    assert summary["systems"] == {"user_frequency": "done", "popularity": "done"}
    assert summary["trained"] == 4
    report = json.loads((tmp_path / "out" / "report" / "report.json").read_text())
    assert report["data"]["folds"] == 2
    assert report["data"]["users"] == 15
    rows = []
    for fold in range(2):
        held = Dataset.open(str(tmp_path / "out" / f"dataset-fold{fold}"))
        users = [
            {user for table in held.read(split, ["user_id"]) for user in table["user_id"].to_pylist()}
            for split in ("train", "validation", "test")
        ]
        assert sum(map(len, users)) == len(set.union(*users)) == 15
        lists = pq.read_table(
            tmp_path / "out" / f"fold{fold}" / "systems" / "user_frequency" / "ranked.parquet"
        ).to_pylist()
        assert {row["user_id"] for row in lists} == users[2]
        rows += lists
    assert len(rows) == len({row["post_id"] for row in rows}) == report["data"]["posts"]["test"] == 90
    counted = [row for row in rows if row["true_hashtags"]]
    hits = np.array([len({*row["hashtags"][:5]} & {*row["true_hashtags"]}) for row in counted])
    precision, recall = (hits / 5).mean(), (hits / [len({*row["true_hashtags"]}) for row in counted]).mean()
    entries = {entry["name"]: entry for entry in report["entries"]}
    figures = entries["user_frequency"]["metrics"]["headline"]
    assert figures["posts"] == len(counted)
    assert figures["f1_at_5"] == pytest.approx(2 * precision * recall / (precision + recall), abs=1e-5)
    pair = next(row for row in report["comparisons"] if row["k"] == 5)
    own = [entries[pair[side]]["metrics"]["headline"]["f1_at_5"] for side in ("first", "second")]
    assert [pair["first_value"], pair["second_value"]] == pytest.approx(own, abs=1e-5)
    assert pair["value"] == pytest.approx(own[0] - own[1], abs=2e-5)
    assert entries["user_frequency"]["trials"]["number"] == 2
    assert entries["popularity"]["trials"] == {}
    assert 0 <= entries["user_frequency"]["calibration"]["all"] < 1

    tried = tmp_path / "out" / "fold1" / "systems" / "user_frequency" / "trials.json"
    before = json.loads(tried.read_text())["trials"]
    assert before[0]["settings"]["model.history_posts"] == 50
    assert len(before) == 2
    assert all(0 <= trial["figure"] <= 1 for trial in before)
    assert run_leaderboard(plan())["trained"] == 0
    registered = {model.name for model in connect().search_registered_models()}
    assert registered == {"leaderboard-toy", "leaderboard-toy-trials"}


def test_what_is_done_stays_done_by_a_later_version(make_plan: Callable[..., LeaderboardPlan]) -> None:
    """What a system's key is made of: a setting that is new here undoes every board, unless it is in LATER_SETTINGS."""
    plan = make_plan(popularity=RECIPES["popularity"])
    counted = plan._settings(plan.entries[0])
    assert {section: " ".join(sorted(values)) for section, values in counted.items()} == {
        "encoders": "augment backend batch_size cache checkpoint_gradients finetune finetune_of grid_side image "
        "image_second layer_decay max_tokens precision regions text",
        "evaluation": "batch_rows bootstrap_samples gallery_posts ks seed split",
        "history": "order",
        "model": "family",
        "training": "accumulate batch_size early_stopping_epochs encoder_learning_rate epochs gradient_clip_norm "
        "label_order learning_rate max_tags modality_dropout optimizer output_bias_start precision "
        "restart_epochs schedule seed select_metric select_protocol train_share warmup weight_average "
        "weight_decay weight_decay_of",
    }


def test_trials_are_part_of_what_a_system_is(archive: Path, tmp_path: Path) -> None:
    """Their number counts for what is searched alone; seeds and curves take the system's own; nothing changes without them."""
    searched = RECIPES["linear"] + '[search]\n"model.folds" = {low = 2, high = 4}\n'
    recipes = write_recipes(tmp_path / "recipes", linear=searched, popularity=RECIPES["popularity"])
    common = ("toy", str(archive), str(tmp_path / "out"), read_recipe(None), recipes)

    def keys(**asked: Any) -> dict[str, str]:
        plan = plan_leaderboard(*common, seeds=2, curves=["linear"], **asked)
        return {entry.name: plan.key(entry, "x") for entry in plan.entries}

    none, two, three = keys(), keys(trials=2), keys(trials=3)
    assert none["popularity"] == two["popularity"] == three["popularity"]
    for name in ("linear", "linear-seed1", "linear-25"):
        assert len({none[name], two[name], three[name]}) == 3
    plain = write_recipes(tmp_path / "plain", linear=RECIPES["linear"])
    without = plan_leaderboard(*common[:4], plain)
    assert without.key(without.entries[0], "x") == none["linear"]
    plan = plan_leaderboard(*common, seeds=2, trials=2)
    by_name = {entry.name: entry for entry in plan.entries}
    assert plan.searched(by_name["linear-seed1"]) == plan.searched(by_name["linear"]) == by_name["linear"]
    assert plan.searched(by_name["popularity"]) is None
    with pytest.raises(ConfigError, match="trials: expected 0 or more, found -1"):
        plan_leaderboard(*common, trials=-1)
    wrong = write_recipes(tmp_path / "wrong", linear=RECIPES["linear"] + '[search]\n"model.fold" = [2, 3]\n')
    with pytest.raises(ConfigError, match=r"linear\.toml: search: there is no setting 'model.fold'"):
        plan_leaderboard(*common[:4], wrong, trials=1)
    with pytest.raises(ConfigError, match="take --split by_user"):
        plan_leaderboard(*common[:3], read_recipe(None, ["split.kind=by_time"]), recipes, folds=5)


def test_seeds_and_one_length_of_history(archive: Path, tmp_path: Path) -> None:
    """Families that read the history read as much of it; each seed is a system of its own that counts as that one."""
    recipes = write_recipes(tmp_path / "recipes", linear=RECIPES["linear"], tagnet='[model]\nfamily = "tagnet"\n')
    common = ("toy", str(archive), str(tmp_path / "out"), read_recipe(None), recipes)
    plan = plan_leaderboard(*common, curves=["linear"], seeds=3, history_posts=40)
    names = [entry.name for entry in plan.entries if not entry.curve_of]
    assert names == ["linear", "tagnet", "linear-seed1", "linear-seed2", "tagnet-seed1", "tagnet-seed2"]
    assert [entry.name for entry in plan.entries if entry.curve_of] == ["linear-25", "linear-50"]
    by_name = {entry.name: entry for entry in plan.entries}
    assert [by_name[name].recipe.training.seed for name in names] == [0, 0, 1, 2, 1, 2]
    assert by_name["tagnet-seed2"].seed_of == "tagnet"
    assert {getattr(by_name[name].options, "history_posts", None) for name in names} == {40, None}
    assert len({plan.key(entry, "x") for entry in plan.entries}) == 8
    as_written = plan_leaderboard(*common).entries
    assert [getattr(entry.options, "history_posts", None) for entry in as_written] == [None, 5]
    with pytest.raises(ConfigError, match="seeds: expected at least 1, found 0"):
        plan_leaderboard(*common, seeds=0)


def test_the_ceiling_by_hand() -> None:
    """Posts of 2 and 1 true tags in the vocabulary of 4 and 1: P@2 = (2/2 + 1/2) / 2, R@2 = (2/4 + 1/1) / 2."""
    judged = judge([[5, 5], [5, 5]], [[0, 1, 7, 8], [2]], 5)

    class Known(Comparison):
        def __init__(self) -> None: ...

        def judged(self, name: str) -> Judged:
            return judged

    most = Known().ceiling("any", [2])
    assert most["precision_at_2"] == pytest.approx(0.75)
    assert most["recall_at_2"] == pytest.approx(0.75)
    assert Known().ceiling("any", [2], "papers")["recall_at_2"] == pytest.approx(1.0)


def test_who_borrows_comes_after_who_lends(make_plan: Callable[..., LeaderboardPlan]) -> None:
    svm = '[model]\nfamily = "svm"\nfeatures = "amnn"\n'
    amnn = '[model]\nfamily = "amnn"\n'
    plan = make_plan(svm_on_amnn=svm, popularity=RECIPES["popularity"], amnn=amnn)
    assert [entry.name for entry in plan.entries] == ["popularity", "amnn", "svm_on_amnn"]
    lender = plan.lender(plan.entries[2])
    assert lender is not None
    assert lender.name == "amnn"
    other = make_plan(svm_on_amnn=svm, amnn=amnn + "[training]\nepochs = 3\n")
    assert plan.key(plan.entries[2], "x") != other.key(other.entries[1], "x")
    same = make_plan(svm_on_amnn=svm, amnn=amnn + "[training]\nworkers = 2\n")  # where it trains, not what
    assert plan.key(plan.entries[2], "x") == same.key(same.entries[1], "x")
    assert plan.key(plan.entries[0], "x") != plan.key(plan.entries[0], "y")
    with pytest.raises(ConfigError, match="needs the family amnn among the systems"):
        make_plan(svm_on_amnn=svm)
    given = make_plan(svm=svm + 'amnn_model = "models:/m/1"\n')
    assert given.entries[0].borrows is None


def test_points_of_a_learning_curve(archive: Path, tmp_path: Path) -> None:
    recipes = write_recipes(tmp_path, popularity=RECIPES["popularity"])
    arguments = ("toy", str(archive), str(tmp_path / "out"), Recipe(), recipes)
    plan = plan_leaderboard(*arguments, curves=["popularity"])
    assert [(entry.name, entry.curve_of, entry.recipe.training.train_share) for entry in plan.entries] == [
        ("popularity", None, 1.0), ("popularity-25", "popularity", 0.25), ("popularity-50", "popularity", 0.5),
    ]  # fmt: skip
    assert len({plan.key(entry, "x") for entry in plan.entries}) == 3
    with pytest.raises(ConfigError, match="did you mean 'popularity'"):
        plan_leaderboard(*arguments, curves=["popularty"])


def test_what_is_common_comes_from_one_recipe(make_plan: Callable[..., LeaderboardPlan]) -> None:
    plan = make_plan(popularity=RECIPES["popularity"] + "[vocabulary]\nmin_count = 9\n[training]\nseed = 7\n")
    (entry,) = plan.entries
    assert entry.recipe.vocabulary.min_count == 3
    assert entry.recipe.evaluation.ks == [1, 2, 5]
    assert entry.recipe.training.seed == 7
    assert entry.recipe.tracking.model_name == "leaderboard-toy"
    assert entry.recipe.history.order == plan.recipe.history.order == "other"  # not split by time
    assert entry.recipe.training.storage == f"{plan.out}/runs"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[pairs]]\nclaim = "x"\nfirst = "a"\nsecond = "b"\nslice = "history of 5 posts"', "did you mean 'history of"),
        ('[[pairs]]\nclaim = "x"\nfirst = "a"\nsecond = "b"\nmetric = "f1_at_99"', "metric: there is no 'f1_at_99'"),
        ('[[pairs]]\nclaim = "x"\nfirst = "a"\nsekond = "b"', "did you mean 'second'"),
        ('[[pair]]\nclaim = "x"', "expected tables"),
        ("[[pairs]", "not a readable TOML"),
    ],
)
def test_wrong_pairs(tmp_path: Path, archive: Path, text: str, message: str) -> None:
    (tmp_path / "pairs.toml").write_text(text)
    recipes = write_recipes(tmp_path, popularity=RECIPES["popularity"])
    with pytest.raises(ConfigError, match=message):
        plan_leaderboard(
            "toy", str(archive), str(tmp_path / "out"), Recipe(), recipes, pairs=str(tmp_path / "pairs.toml")
        )


def test_the_job(
    archive: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert job.main(["--archive", str(archive), "--split", "by_time", "--dry-run"]) == 0
    summary = json.loads(capfd.readouterr().out)
    assert summary["name"] == "archive"
    assert summary["out"] == str(tmp_path / "leaderboard" / "archive")
    assert set(summary["systems"].values()) == {"to do"}
    assert {"linear", "popularity", "amnn", "lxmert4hashtag"} <= set(summary["systems"])
    assert job.main(["--families", "linear,nothing"]) == 2
    assert "no family 'nothing'" in capfd.readouterr().err
    assert job.main(["--families", "linear", "--name", "a/b"]) == 2
    assert job.main(["--families", "linear", "--recipes", "none.toml"]) == 2
    assert job.main(["--families", ""]) == 2
    with pytest.raises(NotFoundError, match="has no recipe in"):
        family_recipes(tmp_path, ["linear"])
    assert not (tmp_path / "leaderboard").exists()
