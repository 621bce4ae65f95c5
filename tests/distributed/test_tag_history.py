"""Histories while archives are tagged: the same tags as the Recommender gives for the whole archive at once."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from hashtag_core import storage
from hashtag_core.config import Recipe
from hashtag_core.data.vocabulary import Vocabulary
from hashtag_core.distributed import session, tag_actors
from hashtag_core.encoders import load_encoders
from hashtag_core.errors import StorageError
from hashtag_core.models import InputSpec, create_model, family, parse_options
from hashtag_core.models.folder import save_model_folder
from hashtag_core.recommend.recommender import Recommender
from hashtag_core.schema import POST
from hashtag_core.tagging.actor_pool import ActorPool
from hashtag_core.tagging.run_state import TagSummary
from hashtag_core.tagging.tag_chunks import ChunkTagger
from hashtag_core.tagging.task import ChunkOutcome, Task, Work
from tests.tagging.outputs import plan_for, rows_by_table
from tests.tagging.outputs import run as run_into

RECIPE = Recipe.model_validate({"tagging": {"chunk_rows": 8, "chunks_per_task": 2, "actors": 1}})
TAGS = [*(f"topic{n}" for n in range(3)), *(f"user{n}" for n in range(3)), "inline", "unused"]
TINY = {"hidden": 16, "attention_units": 8, "history_posts": 3}
DAY_US = 86_400_000_000


@pytest.fixture(scope="module")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`make_model(family, **options)`: random weights, a vocabulary of the tags of `make_posts`."""

    def make(name: str, order: str = "earlier", **options: Any) -> Path:
        recipe = Recipe.model_validate({"history": {"order": order}})
        parsed = parse_options(name, options)
        encoders = load_encoders(recipe.encoders, family(name).needs(parsed))
        spec = InputSpec(len(TAGS), image_dim=encoders.image_dim, text_dim=encoders.text_dim, regions=36)
        torch.manual_seed(0)
        model = create_model(name, spec, parsed)
        if hasattr(model, "share_V"):
            model.share_V = torch.linspace(0.5, 0.1, len(TAGS))
        vocabulary = Vocabulary(TAGS, np.arange(len(TAGS), 0, -1), 9, {"synonyms": {"alias": "inline"}})
        info = {
            "name": "toy",
            "recipe": recipe.model_dump(mode="json"),
            "encoders": encoders.identity,
            "captions": recipe.captions.model_dump(mode="json"),
        }
        folder = tmp_path_factory.mktemp("model") / name
        save_model_folder(folder, model, parsed, vocabulary, None, info)
        return folder

    return make


@pytest.fixture(scope="module")
def user_frequency(make_model: Callable[..., Path]) -> Path:
    return make_model("user_frequency", prior_posts=0.5, history_posts=4)


@pytest.fixture(scope="module")
def macon(make_model: Callable[..., Path]) -> Path:
    return make_model("macon", **TINY, inputs=["caption", "history"])


@pytest.fixture(scope="module")
def loaded() -> dict[str, Recommender]:
    """Models that are loaded, by hash: an actor loads its own."""
    return {}


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch, loaded: dict[str, Recommender]) -> list[Task]:
    """Tasks are run in this process, one after the other; the list holds them."""
    done: list[Task] = []

    def run_tasks(tasks: Sequence[Task], work: Work, actors: ActorPool) -> Iterator[ChunkOutcome]:
        tagger = ChunkTagger(work)
        tagger._recommender = loaded.get(work.model_hash)
        loaded[work.model_hash] = tagger.recommender
        for task in tasks:
            done.append(task)
            yield from tagger.run(Task.from_json(task.to_json()))

    monkeypatch.setattr(session, "connect", nullcontext)
    monkeypatch.setattr(tag_actors, "cluster_pool", lambda section: ActorPool(1))
    monkeypatch.setattr(tag_actors, "run_tasks", run_tasks)
    return done


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, make_posts: Callable, write_part: Callable) -> Path:
    """Four users' posts, dealt to three parts without order, with every trouble that a history can have."""
    folder = tmp_path_factory.mktemp("archive")
    posts = make_posts(36)
    posts[4]["user_id"] = None
    posts[5]["created_at"] = None
    posts[6] |= {"hashtags": None, "caption": "tags stand #Inline here and #alias"}
    posts[7] |= {"hashtags": [], "caption": None, "image": None}
    posts[12]["image"] = b"no picture"
    posts[13] |= {"user_id": "seen once"}
    shuffled = [posts[n] for n in np.random.default_rng(0).permutation(36)]
    shuffled.insert(20, {**posts[9], "created_at": posts[0]["created_at"], "hashtags": ["topic0"]})  # an older version
    shuffled.insert(30, {"post_id": None, "user_id": "user-1"})
    write_part(folder / "a.parquet", shuffled[:17], schema=NULLABLE, row_group_size=11)
    write_part(folder / "b" / "b.parquet", shuffled[17:30], schema=NULLABLE)
    write_part(folder / "c.parquet", shuffled[30:], schema=NULLABLE)
    (folder / "broken.parquet").write_text("<html>")
    return folder


NULLABLE = pa.schema([field.with_nullable(True) for field in POST])


def run(archive: Path | str, out: Path | str, model: Path, recipe: Recipe = RECIPE) -> TagSummary:
    return run_into(archive, out, model, recipe)


def content(out: Path | str) -> dict[str, dict[str, Any]]:
    """Post -> its row."""
    return {row["post_id"]: {name: row[name] for name in KEPT} for row in rows_by_table(out)}


def without_salt(rows: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Two outputs hash user ids with salts of their own."""
    return [{**row, "user_key": row["user_key"] is not None} for row in rows.values()]


KEPT = ("post_id", "hashtags", "scores", "status", "detail", "part", "part_row", "content", "history", "user_key")


def all_at_once(archive: Path, model: Path) -> dict[str, dict[str, Any]]:
    """What the Recommender says to the whole archive; of posts of one id the latest."""
    tables = [pq.read_table(path) for path in sorted(archive.rglob("*.parquet")) if path.stem != "broken"]
    posts = [row for row in pa.concat_tables(tables).to_pylist() if row["post_id"] is not None]
    posts.sort(key=lambda row: (row["created_at"] is not None, row["created_at"]))
    latest = {row["post_id"]: row for row in posts}
    return {
        row["post_id"]: row for row in Recommender.load(str(model), "cpu").recommend(list(latest.values())).to_pylist()
    }


def assert_alike(found: dict[str, dict[str, Any]], expected: dict[str, dict[str, Any]]) -> None:
    assert found.keys() == expected.keys()
    for post_id, row in found.items():
        assert row["status"] == expected[post_id]["status"]
        by_tag = dict(zip(expected[post_id]["hashtags"], expected[post_id]["scores"], strict=True))
        assert [by_tag[name] for name in row["hashtags"]] == pytest.approx(row["scores"], abs=5e-3)


def test_on_ray_tags_are_those_of_the_recommender_for_the_whole_archive(
    ray_session: None, archive: Path, user_frequency: Path, tmp_path: Path
) -> None:
    summary = run(archive, tmp_path / "out", user_frequency)
    assert (summary.tagged, summary.parts) == (36, 4)
    found = content(tmp_path / "out")
    assert_alike(found, all_at_once(archive, user_frequency))
    best = {post_id: row["hashtags"][0] for post_id, row in found.items()}
    popular = [best[f"post-0-{n:05d}"] for n in (0, 4, 5, 13)]  # a first post, of nobody, undated, the only one
    assert popular == ["topic0"] * 4
    assert best["post-0-00035"] == "user0"  # of the four posts before it, all have this one
    scores = dict(zip(found["post-0-00010"]["hashtags"], found["post-0-00010"]["scores"], strict=True))
    share = np.linspace(0.5, 0.1, len(TAGS))[TAGS.index("inline")]
    assert scores["inline"] == pytest.approx((1 + 0.5 * share) / 2.5)  # in the caption of one of two, twice


@pytest.mark.parametrize(
    ("order", "inputs"), [("earlier", ["image", "caption", "history"]), ("other", ["caption", "history"])]
)
def test_vectors_of_histories_are_encoded_once_and_give_the_same_scores(
    inline: list[Task], archive: Path, make_model: Callable[..., Path], tmp_path: Path, order: str, inputs: list[str]
) -> None:
    model = make_model("macon", order, **TINY, inputs=inputs)
    run(archive, tmp_path / "out", model)
    assert_alike(content(tmp_path / "out"), all_at_once(archive, model))
    chunks = [(task.path, chunk.number) for task in inline if task.encode for chunk in task.chunks]
    assert len(chunks) == len(set(chunks))
    assert [task.encode for task in inline] == sorted((task.encode for task in inline), reverse=True)
    files = storage.list_files(str(next((tmp_path / "out" / "_state").rglob("vectors"))), ".parquet")
    rows = [(info.path, row) for info in files for row in pq.read_table(info.uri)["row"].to_pylist()]
    assert (
        len(rows) == len(set(rows)) == (34 if order == "earlier" else 35)
    )  # without the post of nobody, and the undated


def test_a_rerun_after_a_stop_gives_the_same_rows(
    inline: list[Task], archive: Path, macon: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(archive, tmp_path / "whole", macon)
    whole = content(tmp_path / "whole")
    inline.clear()
    run_tasks = tag_actors.run_tasks

    def stop_at(encode: bool, number: int) -> None:
        def stopping(tasks: Sequence[Task], work: Work, actors: ActorPool) -> Iterator[ChunkOutcome]:
            for n, outcome in enumerate(run_tasks(tasks, work, actors)):
                if tasks[0].encode == encode and n == number:
                    raise StorageError("stopped")
                yield outcome

        monkeypatch.setattr(tag_actors, "run_tasks", stopping)

    for encode, number in ((True, 2), (False, 3)):
        stop_at(encode, number)
        with pytest.raises(StorageError, match="stopped"):
            run(archive, tmp_path / "out", macon)
    monkeypatch.setattr(tag_actors, "run_tasks", run_tasks)
    run(archive, tmp_path / "out", macon)
    assert without_salt(content(tmp_path / "out")) == without_salt(whole)
    encoded = [(task.path, chunk.number) for task in inline if task.encode for chunk in task.chunks]
    assert len(encoded) <= len(set(encoded)) + 2
    job = plan_for(archive, tmp_path / "out", macon, RECIPE)
    assert job.is_done
    assert job.finder is not None
    assert job.sidecar is None  # nothing was looked through


def test_parts_whose_histories_changed_are_tagged_anew(
    inline: list[Task], user_frequency: Path, tmp_path: Path, make_posts: Callable, write_part: Callable
) -> None:
    archive, out = tmp_path / "archive", tmp_path / "out"
    posts = make_posts(30, users=2)
    write_part(archive / "0.parquet", posts[:10])
    write_part(archive / "1.parquet", posts[10:20])
    run(archive, out, user_frequency)
    write_part(archive / "2.parquet", posts[20:])
    assert run(archive, out, user_frequency).parts == 1  # later posts stand in no earlier history
    late = {**posts[0], "post_id": "late", "created_at": posts[9]["created_at"] + 1, "hashtags": ["unused"]}
    write_part(archive / "3.parquet", [late])
    summary = run(archive, out, user_frequency)
    assert (summary.parts, summary.skipped_parts) == (2, 2)
    assert_alike(content(out), all_at_once(archive, user_frequency))
    assert run(archive, out, user_frequency).parts == 0
    state = next((out / "_state").rglob("history"))
    assert len(list(state.iterdir())) == 1


def test_posts_of_ten_thousand_of_one_user(
    inline: list[Task], user_frequency: Path, tmp_path: Path, write_part: Callable
) -> None:
    posts = [
        {"post_id": f"p{n:05d}", "user_id": "many", "created_at": n * DAY_US, "hashtags": [TAGS[n % 4 == 0]]}
        for n in range(10_000)
    ]
    posts += [{"post_id": "new", "user_id": "never seen", "created_at": 1}, {"post_id": "nobody"}]
    write_part(tmp_path / "archive" / "a.parquet", posts, row_group_size=3_000)
    recipe = Recipe.model_validate({"tagging": {"chunk_rows": 2_000, "top_k": 2}})
    assert run(tmp_path / "archive", tmp_path / "out", user_frequency, recipe).tagged == 10_002
    found = content(tmp_path / "out")
    assert found["new"]["scores"] == found["nobody"]["scores"] == found["p00000"]["scores"]
    share = np.linspace(0.5, 0.1, len(TAGS))
    expected = [(3 + 0.5 * share[0]) / 4.5, (1 + 0.5 * share[1]) / 4.5]
    for post_id in ("p00005", "p09999"):
        assert found[post_id]["hashtags"] == TAGS[:2]
        assert found[post_id]["scores"] == pytest.approx(expected)


def test_on_s3(inline: list[Task], archive: Path, macon: Path, tmp_path: Path, s3_bucket: str) -> None:
    storage.upload_folder(archive, storage.join(s3_bucket, "posts"))
    run(storage.join(s3_bucket, "posts"), storage.join(s3_bucket, "out"), macon)
    run(archive, tmp_path / "out", macon)
    assert without_salt(content(storage.join(s3_bucket, "out"))) == without_salt(content(tmp_path / "out"))


def test_models_without_history_pay_nothing(
    inline: list[Task], archive: Path, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    model = make_model("popularity")
    assert "history" not in json.loads((model / "model.json").read_text())
    assert plan_for(archive, tmp_path / "out", model, RECIPE).finder is None
    run(archive, tmp_path / "out", model)
    assert not list((tmp_path / "out" / "_state").rglob("*.npy"))
