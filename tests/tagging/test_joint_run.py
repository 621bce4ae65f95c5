"""Several models in one run, without Ray: the outputs of runs of their own, whatever happens to one of them on the way."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from hashtag_core import storage
from hashtag_core.config import Recipe
from hashtag_core.data.vocabulary import Vocabulary
from hashtag_core.distributed import tag_actors
from hashtag_core.distributed.tag import tag_jointly
from hashtag_core.encoders import load_encoders
from hashtag_core.encoders.image import ImageEncoder
from hashtag_core.encoders.text import TextEncoder
from hashtag_core.errors import HashtagError
from hashtag_core.models import InputSpec, create_model, family, parse_options
from hashtag_core.models.folder import save_model_folder
from hashtag_core.output.lease import Lease, LeaseHeldError
from hashtag_core.output.verify import verify_output
from hashtag_core.recommend import read_posts
from hashtag_core.tagging import part_ids
from hashtag_core.tagging.actor_pool import ActorPool
from hashtag_core.tagging.chunk_posts import ChunkPosts
from hashtag_core.tagging.joint_run import ModelRun
from hashtag_core.tagging.joint_tasks import JointOutcome, JointTask
from hashtag_core.tagging.plan import plan_jointly
from hashtag_core.tagging.planned_work import TagRequest
from hashtag_core.tagging.select_parts import Selection
from hashtag_core.tagging.stop_signal import StoppedError
from hashtag_core.tagging.tag_chunks import ChunkTagger
from hashtag_core.tagging.tag_jointly import JointTagger
from hashtag_core.tagging.task import Work
from hashtag_core.tracking.registry import resolve_model
from jobs.tag import main
from tests.distributed.in_process import tag_in_process
from tests.tagging.outputs import RECIPE, output_of, plan_for, rejected, rows_by_table, run

pytestmark = pytest.mark.usefixtures("inline")


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`make_model(family, captions={}, **options)`: random weights."""

    def make(name: str, captions: dict[str, str] | None = None, **options: Any) -> Path:
        recipe, parsed = Recipe.model_validate({"captions": captions or {}}), parse_options(name, options)
        encoders = load_encoders(recipe.encoders, family(name).needs(parsed))
        torch.manual_seed(0)
        spec = InputSpec(40, image_dim=encoders.image_dim, text_dim=encoders.text_dim, regions=36)
        vocabulary = Vocabulary([f"tag{n:03d}" for n in range(40)], np.arange(40, 0, -1), posts=40)
        info = {
            "name": "toy",
            "recipe": recipe.model_dump(mode="json"),
            "encoders": encoders.identity,
            "captions": recipe.captions.model_dump(mode="json"),
        }
        model = create_model(name, spec, parsed)
        for value in model.buffers():
            if value.ndim > 1:
                value.copy_(torch.rand(value.shape) - 0.5)
        folder = tmp_path_factory.mktemp("models") / name
        save_model_folder(folder, model, parsed, vocabulary, None, info)
        return folder

    return make


@pytest.fixture(scope="session")
def amnn(make_model: Callable[..., Path]) -> Path:
    """Reads regions of the picture and the states of the tokens, which the linear model does not."""
    return make_model("amnn", text_input="encoder", attention="grid", decoder_hidden=16)


@pytest.fixture(scope="session")
def models(linear: Path, popularity: Path, amnn: Path) -> list[Path]:
    return [linear, popularity, amnn]


@pytest.fixture(scope="session")
def alone(
    troubled: Path, models: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Version -> what a run of that model alone leaves; not to be changed."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        tag_in_process(patch)
        for model in models:
            out = tmp_path_factory.mktemp("alone")
            run(troubled, out, model)
            found |= left(out)
    return found


def run_jointly(
    archive: Path, out: Path, models: Sequence[Path], recipe: Recipe = RECIPE, **asked: Any
) -> list[ModelRun]:
    requests = [TagRequest(recipe, str(archive), str(out), resolve_model(str(model)), **asked) for model in models]
    return tag_jointly(plan_jointly(requests))


def left(out: Path) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Version -> all that the output says of it, but for what differs between two outputs: salted hashes of users, names of runs."""
    found = {}
    for output in output_of(out):
        version = output.layout.model_version
        lines = [line for line in rejected(out) if line["version"] == version]
        found[version] = {
            "rows": [{**row, "user_key": None} for row in rows_by_table(out) if row["model_version"] == version],
            "rejected": [{**line, "user_key": None} for line in lines],
            "records": [
                {**record.model_dump(), "run": None, "number": None, "sequence": None}
                for _, record in sorted(output.records.parts.items())
            ],
        }
    return found


def version_of(model: Path) -> str:
    return str(json.loads((model / "model.json").read_text())["version"])


def data_files(out: Path, model: Path) -> set[str]:
    return {path.name for path in out.glob(f"model=*/version={version_of(model)}/**/part-*.parquet")}


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Images that were decoded, images and captions that were encoded, parts whose ids were read."""
    counts = {"decoded": 0, "images": 0, "captions": 0, "scanned": 0}

    def count(name: str, function: Callable, size: Callable[..., int]) -> Callable:
        def counting(*arguments: Any, **named: Any) -> Any:
            counts[name] += size(*arguments)
            return function(*arguments, **named)

        return counting

    monkeypatch.setattr(read_posts, "decode_image", count("decoded", read_posts.decode_image, lambda *_: 1))
    monkeypatch.setattr(part_ids, "scan_part", count("scanned", part_ids.scan_part, lambda *_: 1))
    for name, kind in (("images", ImageEncoder), ("captions", TextEncoder)):
        monkeypatch.setattr(kind, "encode", count(name, kind.encode, lambda _, values: len(values)))
    return counts


def test_each_model_leaves_what_it_leaves_alone_and_a_post_is_opened_and_encoded_once(
    troubled: Path,
    models: list[Path],
    alone: dict[str, Any],
    counted: dict[str, int],
    tmp_path: Path,
) -> None:
    runs = run_jointly(troubled, tmp_path / "out", models)
    assert [(one.error, one.summary.tagged, one.summary.rejected) for one in runs] == [(None, 40, 6)] * 3
    assert len({one.summary.run for one in runs}) == 3
    assert left(tmp_path / "out") == alone
    jointly = dict(counted)
    counted |= dict.fromkeys(counted, 0)
    run(troubled, tmp_path / "linear", models[0])
    assert jointly == counted
    assert jointly["images"] > 30
    assert verify_output(str(tmp_path / "out"), str(troubled)).problems == []
    for model in models:
        assert plan_for(troubled, tmp_path / "out", model).is_done
    again = run_jointly(troubled, tmp_path / "out", models)
    assert [(one.summary.run, one.summary.parts, one.summary.skipped_parts) for one in again] == [(None, 0, 6)] * 3


def test_models_that_clean_captions_in_other_ways_open_posts_for_themselves(
    make_model: Callable[..., Path],
    counted: dict[str, int],
    tmp_path: Path,
    make_posts: Callable,
    write_archive: Callable,
) -> None:
    rules = [{}, {"stop_words": "remove"}, {}]
    inputs = [["image", "caption"], ["caption"], ["caption"]]
    models = [
        make_model("linear", captions=captions, inputs=read) for captions, read in zip(rules, inputs, strict=True)
    ]
    archive = write_archive(tmp_path / "archive", make_posts(12), parts=1)
    runs = run_jointly(archive, tmp_path / "out", models)
    assert [one.error for one in runs] == [None] * 3
    assert counted == {"decoded": 24, "images": 12, "captions": 24, "scanned": 1}
    found = left(tmp_path / "out")
    for model in models:
        run(archive, tmp_path / f"alone {version_of(model)}", model)
        assert found[version_of(model)] == left(tmp_path / f"alone {version_of(model)}")[version_of(model)]


def test_models_that_read_histories(
    linear: Path, make_model: Callable[..., Path], tmp_path: Path, make_posts: Callable, write_archive: Callable
) -> None:
    """The posts of histories are encoded first, for both models that read some, and another model waits for that."""
    tiny = {"hidden": 16, "attention_units": 8, "inputs": ["caption", "history"]}
    models = [linear, *(make_model("macon", **tiny, history_posts=posts) for posts in (3, 1))]
    archive = write_archive(tmp_path / "archive", make_posts(36), parts=3)
    for night in range(2):
        for model in models:
            run(archive, tmp_path / f"alone {version_of(model)}", model)
        runs = run_jointly(archive, tmp_path / "out", models)
        assert [one.error for one in runs] == [None] * 3
        expected = [left(tmp_path / f"alone {version_of(model)}") for model in models]
        assert left(tmp_path / "out") == expected[0] | expected[1] | expected[2]
        if not night:
            assert [one.summary.parts for one in runs] == [3, 3, 3]
            write_archive(archive, make_posts(8, seed=1), parts=1)  # over the first part: histories change
    assert runs[0].summary.parts == 1


def test_what_one_model_has_done_already_is_done_for_the_others_alone(
    troubled: Path, models: list[Path], alone: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(troubled, out, models[1])
    some = Selection(["a.parquet", "noid.parquet"])
    for where in (out, tmp_path / "by itself"):
        run(troubled, where, models[0], selection=some)
    run(troubled, tmp_path / "by itself", models[0])
    before = data_files(out, models[1])
    runs = run_jointly(troubled, out, models)
    assert [(one.summary.parts, one.summary.skipped_parts) for one in runs] == [(4, 2), (0, 6), (6, 0)]
    assert data_files(out, models[1]) == before
    assert left(out) == alone | left(tmp_path / "by itself")


def stopping_at(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[Sequence[Work]], None]) -> None:
    """`act` is called once so many chunks were reported."""

    def run_joint_tasks(tasks: Sequence[JointTask], works: Sequence[Work], actors: ActorPool) -> Iterator[JointOutcome]:
        tagger, n = JointTagger(works), 0
        for task in tasks:
            for outcome in tagger.run(task):
                n += 1
                if n == number:
                    act(works)
                yield outcome

    monkeypatch.setattr(tag_actors, "run_joint_tasks", run_joint_tasks)


def told(works: Sequence[Work], by: signal.Signals = signal.SIGTERM) -> None:
    os.kill(os.getpid(), by)
    until = time.monotonic() + 10
    while not all(work.stop is not None and storage.exists(work.stop) for work in works):
        assert time.monotonic() < until
        time.sleep(0.005)


def test_a_signal_ends_all_and_a_rerun_goes_on(
    troubled: Path,
    models: list[Path],
    alone: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with monkeypatch.context() as patch:
        stopping_at(patch, 7, told)
        runs = run_jointly(troubled, out, models)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert all(isinstance(one.error, StoppedError) and "stopped for SIGTERM" in str(one.error) for one in runs)
    records = [json.loads(path.read_text()) for path in (out / "_state" / "runs").iterdir()]
    assert [record["status"] for record in records] == ["stopped"] * 3
    assert not [*out.rglob("lease.json"), *out.rglob("stop.json")]
    assert all(one.error is None for one in run_jointly(troubled, out, models))
    assert left(out) == alone


def test_a_second_ctrl_c_ends_all_at_once_and_a_rerun_goes_on(
    troubled: Path,
    models: list[Path],
    alone: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def act(works: Sequence[Work]) -> None:
        told(works, signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        stopping_at(patch, 5, act)
        with pytest.raises(KeyboardInterrupt):
            run_jointly(troubled, out, models)
    assert not [*out.rglob("lease.json"), *out.rglob("stop.json")]
    assert all(one.error is None for one in run_jointly(troubled, out, models))
    assert left(out) == alone


def failing(
    monkeypatch: pytest.MonkeyPatch, model: Path, method: str, error: Exception, posts: Sequence[str] = ()
) -> None:
    """The tagger of that model raises in a method, where one of those posts (without: any) is among its posts."""
    work_as_ever = getattr(ChunkTagger, method)

    def fails(tagger: ChunkTagger, found: ChunkPosts, *arguments: Any) -> pa.Table:
        positions = arguments[1] if len(arguments) > 1 else range(len(found.rows))
        of = {found.opened.post_ids[at] for at in positions}
        if tagger.work.model_version == version_of(model) and (not posts or of & set(posts)):
            raise error
        return work_as_ever(tagger, found, *arguments)

    monkeypatch.setattr(ChunkTagger, method, fails)


def test_a_post_that_one_model_cannot_score_is_rejected_for_that_model_alone(
    troubled: Path,
    models: list[Path],
    alone: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failing(monkeypatch, models[0], "_recommend", ValueError("cannot be scored"), ["post-0-00009"])
    runs = run_jointly(troubled, tmp_path / "out", models)
    assert [(one.error, one.summary.tagged) for one in runs] == [(None, 39), (None, 40), (None, 40)]
    found = left(tmp_path / "out")
    for model in models[1:]:
        assert found[version_of(model)] == alone[version_of(model)]
    version = version_of(models[0])
    assert [line["reason"] for line in found[version]["rejected"] if line["post_id"] == "post-0-00009"] == [
        "ValueError: cannot be scored"
    ]
    before = [row for row in alone[version]["rows"] if row["post_id"] != "post-0-00009"]
    assert [row["post_id"] for row in found[version]["rows"]] == [row["post_id"] for row in before]


def test_a_model_that_cannot_go_on_ends_no_other(
    troubled: Path,
    models: list[Path],
    alone: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    flags = ["--archive", str(troubled), "--out", str(out), "--chunk-rows", "8"]
    flags += [part for model in models for part in ("--model", str(model))]
    with monkeypatch.context() as patch:
        failing(patch, models[2], "_tag", OSError(28, "No space left on device"))
        assert main(flags) == 1
    captured = capfd.readouterr()
    summary = json.loads(captured.out)
    assert f"1 of 3 models did not come to the end: toy {version_of(models[2])}: " in captured.err
    assert [one["error"] is None for one in summary["models"]] == [True, True, False]
    assert "No space left on device" in summary["models"][2]["error"]
    assert (summary["tagged"], [one["tagged"] for one in summary["models"]]) == (80, [40, 40, 0])
    assert summary["model_version"] == ", ".join(version_of(model) for model in models)
    found = left(out)
    for model in models[:2]:
        assert found[version_of(model)] == alone[version_of(model)]
    assert main(flags) == 0
    summary = json.loads(capfd.readouterr().out)
    assert (summary["tagged"], [one["tagged"] for one in summary["models"]]) == (40, [0, 0, 40])
    assert left(out) == alone
    assert len(list((out / "_state" / "runs").glob("*.html"))) == 3


def test_chunks_whose_process_died_are_done_alone_by_each_model(
    troubled: Path,
    models: list[Path],
    alone: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passes: list[list[JointTask]] = []

    def run_joint_tasks(tasks: Sequence[JointTask], works: Sequence[Work], actors: ActorPool) -> Iterator[JointOutcome]:
        passes.append(list(tasks))
        tagger = JointTagger(works)
        for task in tasks:
            if task.path != "a.parquet" or task.reading.alone:  # else nothing comes of it
                yield from tagger.run(task)

    monkeypatch.setattr(tag_actors, "run_joint_tasks", run_joint_tasks)
    runs = run_jointly(troubled, tmp_path / "out", models)
    assert [one.error for one in runs] == [None] * 3
    assert [{len(task.members) for task in tasks} for tasks in passes] == [{3}, {1}]
    assert {task.path for task in passes[1]} == {"a.parquet"}
    assert left(tmp_path / "out") == alone


def test_a_model_whose_output_is_held_by_another_run(
    troubled: Path, models: list[Path], alone: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    held = plan_for(troubled, out, models[1]).layout.lease
    with Lease(held, "another"):
        runs = run_jointly(troubled, out, models)
    assert [type(one.error) for one in runs] == [type(None), LeaseHeldError, type(None)]
    assert left(out) == {version: found for version, found in alone.items() if version != version_of(models[1])}


def test_a_fault_of_the_cluster_is_told_by_every_run(
    troubled: Path, models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stalled(*arguments: Any) -> Iterator[JointOutcome]:
        raise HashtagError("Ray did nothing")
        yield

    monkeypatch.setattr(tag_actors, "run_joint_tasks", stalled)
    runs = run_jointly(troubled, tmp_path / "out", models)
    assert [str(one.error) for one in runs] == ["Ray did nothing"] * 3
    records = [json.loads(path.read_text()) for path in (tmp_path / "out" / "_state" / "runs").iterdir()]
    assert [record["status"] for record in records] == ["failed"] * 3


def test_the_same_model_twice_and_a_dry_run(
    troubled: Path, models: list[Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flags = ["--archive", str(troubled), "--out", str(tmp_path / "out"), "--model", str(models[0])]
    assert main([*flags, "--model", str(models[1]), "--model", f"{models[0]}/"]) == 2
    assert f"is toy {version_of(models[0])}, as --model {models[0]}" in capfd.readouterr().err
    assert main([*flags, "--model", str(models[1]), "--dry-run"]) == 0
    summary = json.loads(capfd.readouterr().out)
    assert (summary["dry_run"], summary["posts"], [one["posts"] for one in summary["models"]]) == (True, 80, [40, 40])
    assert not (tmp_path / "out").exists()
