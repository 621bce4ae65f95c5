"""What is told of a tagging run: counts, quantiles, drift, and a run in MLflow; MLflow away."""

import json
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashtag_core.output.layout import Layout
from hashtag_core.output.records import TagSettings
from hashtag_core.schema import TAGGED
from hashtag_core.tagging.report import SCORE_BINS, TagFigures, close_lost_runs, drift, quantiles
from hashtag_core.tracking.runs import connect
from jobs.tag import main


def settings_for(archive: str, model_name: str = "toy", model_version: str = "1") -> TagSettings:
    named = {"archive": archive, "model_name": model_name, "model_version": model_version}
    return TagSettings(**named, model_hash="h", top_k=10, chunk_rows=8, batch_size=64, backend="auto", precision="auto")


def rows_of(*posts: tuple[str, dict[str, float]]) -> pa.Table:
    rows = [
        {
            "post_id": str(n),
            "hashtags": list(tags),
            "scores": list(tags.values()),
            "status": status,
            "model_name": "m",
            "model_version": "1",
        }
        for n, (status, tags) in enumerate(posts)
    ]
    return pa.Table.from_pylist(rows, schema=TAGGED)


def test_figures_by_hand() -> None:
    figures = TagFigures.of(rows_of(("ok", {"a": 0.5, "b": 0.25}), ("ok", {"a": 1.0}), ("empty", {})))
    figures.add(TagFigures.of(rows_of(("image_missing", {"b": 0.5, "c": 0.0}))))
    figures.add(TagFigures.of(TAGGED.empty_table()))
    told = figures.as_record()
    assert told["statuses"] == {"ok": 2, "empty": 1, "image_missing": 1}
    assert list(told["tags"].items()) == [("a", 2), ("b", 2), ("c", 1)]
    assert told["first_scores"]["p50"] == 0.5001
    assert told["first_scores"]["p99"] == 1.0
    assert (told["scores"]["p01"], told["scores"]["p25"], told["scores"]["p95"]) == (0.0001, 0.2501, 1.0)
    assert figures.scores.sum() == 5


def test_images_that_were_not_fetched_are_not_those_that_nobody_named() -> None:
    told = [
        None,
        "no image",
        "image_uri not fetched: a",
        "no image; no caption",
        "image_uri not fetched: b; no caption",
    ]
    rows = rows_of(*(("", {}) for _ in told))
    rows = rows.set_column(rows.schema.get_field_index("detail"), "detail", pa.array(told))
    figures = TagFigures.of(rows)
    figures.add(TagFigures.of(rows.slice(2, 1)))
    figures.add(TagFigures.of(TAGGED.empty_table()))
    assert figures.as_record()["images_not_fetched"] == 3


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=60))
def test_quantiles_are_those_of_the_scores(scores: list[float]) -> None:
    histogram = TagFigures.of(rows_of(*(("ok", {"a": score}) for score in scores))).scores
    found = quantiles(histogram)
    for name, value in found.items():
        exact = float(np.quantile(np.array(scores), int(name[1:]) / 100, method="inverted_cdf"))
        assert exact - 1e-6 <= value <= exact + 1 / SCORE_BINS + 1e-6


def test_drift_is_against_the_last_finished_run_of_the_model_on_the_archive(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    layout, settings = Layout(str(tmp_path), "toy", "2"), settings_for("archive", model_version="2")
    runs = tmp_path / "_state" / "runs"
    runs.mkdir(parents=True)

    def record(run: str, status: str = "done", tags: dict[str, int] | None = None, **held: Any) -> None:
        other = {**settings.model_dump(), "model_version": "1", **held}
        value = {
            "run": run,
            "status": status,
            "settings": other,
            "tags": {"a": 100, "b": 100} if tags is None else tags,
        }
        (runs / f"{run}.json").write_text(json.dumps(value))

    tags = {"a": 100, "b": 100}
    assert drift(layout, settings, tags, 0.25) is None
    record("20260101T000000Z-a", tags={"a": 1000})
    record("20260102T000000Z-b")
    record("20260103T000000Z-c", "failed", {"x": 5})
    record("20260104T000000Z-d", tags={})
    record("20260105T000000Z-e", model_name="other", tags={"x": 5})
    record("20260106T000000Z-f", archive="elsewhere", tags={"x": 5})
    (runs / "20260107T000000Z-g.json").write_text('{"run": "a --forget"}')
    assert drift(layout, settings, tags, 0.25) == {"psi": 0.0, "run": "20260102T000000Z-b", "model_version": "1"}
    assert drift(layout, settings, {}, 0.25) is None
    with caplog.at_level(logging.INFO):
        assert not [item for item in caplog.records if item.levelno > logging.INFO]
        found = drift(layout, settings, {"a": 300, "b": 20}, 0.25)
    assert found is not None
    assert found["psi"] > 0.25
    assert "a 50.0 -> 93.8 %" in caplog.text
    assert "large" in caplog.text
    (runs / "20260108T000000Z-h.json").write_text("{")
    assert drift(layout, settings, tags, 0.25) is None
    assert "are not compared" in caplog.text


def test_records_left_open_are_closed_by_the_next_run_of_the_version(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_for("/archive")
    other = {"model_name": settings.model_name, "model_version": "another"}
    own = {"model_name": settings.model_name, "model_version": settings.model_version}
    runs = tmp_path / "_state" / "runs"
    runs.mkdir(parents=True)
    left = [(own, "running"), (own, "done"), (own, "running"), (other, "running"), (own, "running")]
    for number, (held, status) in enumerate(left):
        (runs / f"{number}.json").write_text(json.dumps({"run": str(number), "settings": held, "status": status}))
    layout = Layout(str(tmp_path), settings.model_name, settings.model_version)
    close_lost_runs(layout, settings)
    # What is before a run that ended was that run's to close.
    assert [json.loads(path.read_text())["status"] for path in sorted(runs.iterdir())] == [
        *("running", "done", "lost", "running", "lost")
    ]
    assert [item.getMessage().split(" ended")[0] for item in caplog.records] == ["run 4", "run 2"]
    (runs / "4.json").write_text("no record")
    close_lost_runs(layout, settings)
    assert "are not closed" in caplog.records[-1].getMessage()


def test_a_run_is_in_its_record_and_in_mlflow(
    inline: None,
    mlflow_store: Path,
    popularity: Path,
    tmp_path: Path,
    make_posts: Callable,
    write_archive: Callable,
    write_part: Callable,
    capfd: pytest.CaptureFixture[str],
) -> None:
    archive, out = write_archive(tmp_path / "archive", make_posts(10)), tmp_path / "out"
    flags = ["--archive", str(archive), "--out", str(out), "--model", str(popularity), "--chunk-rows", "4"]
    flags += ["--set", "tracking.experiment=nightly"]
    assert main(flags) == 0
    (told,) = (out / "_state" / "runs").glob("*.json")
    record = json.loads(told.read_text())
    assert (record["status"], record["statuses"], record["drift"]) == ("done", {"ok": 10}, None)
    assert (sum(record["tags"].values()), len(record["tags"])) == (100, 10)
    assert (record["images_not_fetched"], "could not be had" in capfd.readouterr().err) == (0, False)
    new = make_posts(5, seed=1)
    new[0] |= {"image": None, "image_uri": "gone.jpg"}
    new[1] |= {"image": None, "image_uri": "gone.jpg", "caption": None}
    new[2] |= {"image": None}
    write_part(archive / "new.parquet", new)
    assert main(flags) == 0
    assert "2 image(s) named by image_uri could not be had" in capfd.readouterr().err
    first, second = sorted((path.stem for path in told.parent.glob("*.json")), key=lambda name: name != told.stem)
    assert main(flags) == 0, "nothing to do, and nothing told"
    client = connect()
    experiment = client.get_experiment_by_name("nightly")
    runs = {run.data.tags["tagging_run"]: run for run in client.search_runs([experiment.experiment_id])}
    assert runs.keys() == {first, second}
    metrics = runs[second].data.metrics
    assert (metrics["tagged"], metrics["rejected"], metrics["drift_psi"]) == (5, 0, 0)
    assert (metrics["status_ok"], metrics["status_image_missing"], metrics["status_empty"]) == (2, 2, 1)
    assert (
        metrics["images_not_fetched"]
        == json.loads((told.parent / f"{second}.json").read_text())["images_not_fetched"]
        == 2
    )
    assert "drift_psi" not in runs[first].data.metrics
    assert metrics["distinct_tags"] == 10
    assert 0 < metrics["first_score_p50"] <= 1
    assert runs[second].data.params["chunk_rows"] == "4"
    assert runs[second].info.status == "FINISHED"
    tags = json.loads(Path(client.download_artifacts(runs[first].info.run_id, "tags.json")).read_text())
    assert Counter(tags["tags"]) == Counter(record["tags"])
    read = [runs[run].inputs.dataset_inputs for run in (first, second)]
    assert [[item.dataset.name for item in each] for each in read] == [["archive"], ["archive"]]
    ((one,), (other,)) = read
    assert json.loads(one.dataset.source) == {"uri": str(archive)}
    assert json.loads(one.dataset.profile) == {"num_rows": 10, "parts": 2}
    assert [tag.value for tag in one.tags] == ["tagging"]
    assert one.dataset.digest == record["archive_digest"][:36] != other.dataset.digest


def test_mlflow_away_is_a_warning(
    inline: None,
    popularity: Path,
    tmp_path: Path,
    make_posts: Callable,
    write_archive: Callable,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    archive, out = write_archive(tmp_path / "archive", make_posts(4)), tmp_path / "out"
    assert main(["--archive", str(archive), "--out", str(out), "--model", str(popularity)]) == 0
    told = capfd.readouterr()
    assert json.loads(told.out)["tagged"] == 4
    assert "the output is whole, but MLflow does not know of run" in told.err
