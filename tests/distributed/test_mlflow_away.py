"""MLflow's server goes away in training, at the end of tagging, in promotion: nothing is lost, nothing is there twice.

`make soak` keeps it away for two minutes each time, in a training on Ray too (SOAK_AWAY_S=120).
"""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from hashtag_core.config import Recipe, read_recipe
from hashtag_core.distributed import evaluate as evaluation
from hashtag_core.distributed import promote as promotion
from hashtag_core.distributed import train as training
from hashtag_core.distributed.evaluate import evaluate
from hashtag_core.distributed.promote import plan_promote, promote
from hashtag_core.distributed.tag import tag
from hashtag_core.distributed.train import train
from hashtag_core.schema import POST
from hashtag_core.tagging import report as tagging_report
from hashtag_core.tagging.plan import plan_tagging
from hashtag_core.tagging.planned_work import TagRequest
from hashtag_core.tracking.registry import champion_moves, move_champion, resolve_model
from hashtag_core.tracking.runs import Run, connect
from tests.distributed.in_process import tag_in_process
from tests.tracking_server import TrackingServer, losing_answers

AWAY_S = float(os.environ.get("SOAK_AWAY_S", "4"))
LONG_S = 60.0
FAMILIES = ("popularity", "user_frequency")
NAME = "hashtag-recommender"


@pytest.fixture
def server(empty_mlflow: Path, tmp_path: Path) -> Iterator[TrackingServer]:
    database = tmp_path / "mlflow.db"
    shutil.copyfile(empty_mlflow, database)
    found = TrackingServer(tmp_path, f"sqlite:///{database}")
    found.start()
    yield found
    found.wait_until_back()
    found.stop()


@pytest.fixture(scope="module")
def archive(
    tmp_path_factory: pytest.TempPathFactory, make_posts: Callable[..., list[Any]], write_archive: Callable[..., Path]
) -> Path:
    posts = [{**post, "image": None} for post in make_posts(20)]
    posts[3]["post_id"] = None  # to be rejected
    return write_archive(
        tmp_path_factory.mktemp("away") / "archive",
        posts,
        schema=pa.schema([field.with_nullable(True) for field in POST]),
    )


@pytest.fixture(scope="module")
def whole_path(tmp_path_factory: pytest.TempPathFactory, users_dataset: Path, archive: Path) -> Callable[[str], None]:
    """`whole_path(uri)`: two trainings, a champion by hand, a promotion, an evaluation and a tagging, whose runs go to the server at
    the URI."""

    def run(uri: str) -> None:
        place = tmp_path_factory.mktemp("path")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_URI", uri)
            tag_in_process(patch)
            popular, better = (train(recipe_of(family, place), str(users_dataset)) for family in FAMILIES)
            move_champion(NAME, popular.model.rpartition("/")[2], {"reason": "the first"})
            promote(plan_promote(str(users_dataset), better.model, recipe_of("user_frequency", place)))
            evaluate(str(users_dataset), [better.model], str(place / "report"), recipe_of("user_frequency", place))
            model = resolve_model(f"models:/{NAME}@champion")
            done = tag(plan_tagging(TagRequest(Recipe(), str(archive), str(place / "tagged"), model)))
            assert (done.tagged, done.rejected) == (19, 1)
            assert (
                tagging_report.report(str(place / "tagged"), str(done.run), "hashtag-recommender", patient=True)
                is not None
            )

    return run


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path, whole_path: Callable[[str], None]
) -> dict[str, Any]:
    """What MLflow knows after the whole path where nothing went wrong."""
    database = tmp_path_factory.mktemp("undisturbed") / "mlflow.db"
    shutil.copyfile(empty_mlflow, database)
    whole_path(f"sqlite:///{database}")
    return told_by(f"sqlite:///{database}")


def recipe_of(family: str, place: Path) -> Recipe:
    small = ["evaluation.bootstrap_samples=20", "gates.speed_posts=8", "gates.min_speed_ratio=0.01"]
    return read_recipe(None, [f"model.family={family}", f"training.storage={place / 'runs'}", *small])


def told_by(uri: str) -> dict[str, Any]:
    """All that the server knows, less ids, times and what a machine measures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        client = connect()
        moves = champion_moves(NAME)
    experiments = {each.experiment_id: each.name for each in client.search_experiments()}
    runs = client.search_runs(list(experiments), max_results=1000)
    kinds = {run.info.run_id: _kind(run) for run in runs}
    state: dict[str, Any] = {"experiments": sorted(experiments.values())}
    state["runs"] = sorted(_run(client, run, kinds) for run in runs)
    versions = client.search_model_versions(f"name = '{NAME}'")
    # A number that a lost answer took is not given again: versions are told by their place.
    places = {number: place for place, number in enumerate(sorted(int(version.version) for version in versions))}
    state["models"] = {
        model.name: {alias: places[int(number)] for alias, number in model.aliases.items()}
        for model in client.search_registered_models()
    }
    state["versions"] = sorted(
        (kinds[version.run_id], version.tags["family"], sorted(version.tags), version.status) for version in versions
    )
    logged = client.search_logged_models(list(experiments))
    state["logged models"] = sorted((model.name, model.status.value, kinds[model.source_run_id]) for model in logged)
    state["moves"] = [
        (move.kind, places[int(move.to)], None if move.before is None else places[int(move.before)]) for move in moves
    ]
    return state


def _kind(run: Any) -> str:
    tags = run.data.tags
    return f"{tags.get('kind', tags.get('job'))} {tags.get('family', '')}"


def _run(client: Any, run: Any, kinds: dict[str, str]) -> tuple[Any, ...]:
    measured = {name for name in run.data.metrics if not name.startswith("system/")}
    steps = Counter({name: len(client.get_metric_history(run.info.run_id, name)) for name in measured})
    files = sorted(_files(client, run.info.run_id))
    return (
        kinds[run.info.run_id],
        kinds.get(run.data.tags.get("mlflow.parentRunId", ""), "no parent"),
        run.info.status,
        sorted(run.data.params),
        sorted(steps.items()),
        sorted(run.data.tags),
        files,
        sorted(each.dataset.name for each in run.inputs.dataset_inputs),
        len(run.outputs.model_outputs) if run.outputs else 0,
    )


def _files(client: Any, run_id: str, folder: str | None = None) -> Iterator[str]:
    for entry in client.list_artifacts(run_id, folder):
        if entry.is_dir:
            yield from _files(client, run_id, entry.path)
        else:
            yield entry.path


@pytest.mark.slow
def test_a_server_that_goes_away_in_training_promotion_and_tagging_costs_nothing(
    server: TrackingServer,
    undisturbed: dict[str, Any],
    whole_path: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    places = [(training, "register_model"), (tagging_report, "record_tagging")]
    if AWAY_S >= LONG_S:
        places += [
            (training, "log_split"),
            (promotion, "_write_down"),
            (promotion, "move_champion"),
            (evaluation, "log_evaluation"),
        ]
    for module, name in places:
        goes_away_once(monkeypatch, server, module, name)
    whole_path(server.uri)
    assert server.absences == len(places)
    assert told_by(server.uri) == undisturbed


def goes_away_once(patch: pytest.MonkeyPatch, server: TrackingServer, module: Any, name: str) -> None:
    """The server goes away just before the function is called for the first time."""
    function = getattr(module, name)

    def called(*arguments: Any, **named: Any) -> Any:
        patch.setattr(module, name, function)
        server.wait_until_back()
        server.away(AWAY_S)
        return function(*arguments, **named)

    patch.setattr(module, name, called)


@pytest.mark.slow
@pytest.mark.skipif(
    AWAY_S < LONG_S, reason="half a minute; tests/unit/tracking/test_make_once.py has the rule: make soak"
)
def test_answers_that_are_lost_make_nothing_twice(
    server: TrackingServer, undisturbed: dict[str, Any], whole_path: Callable[[str], None]
) -> None:
    with losing_answers(server.uri) as (uri, lost):
        whole_path(uri)
    calls = {call.rpartition("/2.0/mlflow/")[2] for call in lost}
    assert {"runs/create", "model-versions/create", "registered-models/create", "runs/log-batch"} <= calls
    assert told_by(server.uri) == undisturbed


@pytest.mark.slow
@pytest.mark.skipif(AWAY_S < LONG_S, reason="a minute and more: make soak")
@pytest.mark.usefixtures("ray_session")
def test_a_training_on_ray_goes_on_without_its_server(
    server: TrackingServer, users_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    log_metrics = Run.log_metrics

    def leaves_at_the_second_epoch(run: Run, values: Any, step: int | None = None, **when: Any) -> None:
        if step == 2 and not server.absences:
            server.away(AWAY_S)
        log_metrics(run, values, step, **when)

    monkeypatch.setattr(Run, "log_metrics", leaves_at_the_second_epoch)
    small = ["model.hidden=16", "training.epochs=5", "training.early_stopping_epochs=null"]
    summary = train(
        read_recipe(None, ["model.family=tagnet", f"training.storage={tmp_path}", *small]), str(users_dataset)
    )
    assert (server.absences, summary.model, summary.epochs) == (1, f"models:/{NAME}/1", 5)
    client = connect()
    found = client.get_metric_history(summary.run_id, "train_loss")
    assert [entry.step for entry in found] == [1, 2, 3, 4, 5]
    assert max(entry.timestamp for entry in found) < found[0].timestamp + 1000 * AWAY_S, (
        "when it was measured, not sent"
    )
    runs = client.search_runs([client.get_run(summary.run_id).info.experiment_id])
    assert [(run.info.run_id, run.info.status) for run in runs] == [(summary.run_id, "FINISHED")]
