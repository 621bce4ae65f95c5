"""Posts that are opened elsewhere, ahead of the actor that scores them, as CPUs do for one with a GPU."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hashtag_core import storage
from hashtag_core.config import CaptionsSection, Recipe
from hashtag_core.distributed import tag_actors
from hashtag_core.output.verify import verify_output
from hashtag_core.recommend.image_uris import ImagePlaces
from hashtag_core.recommend.read_posts import OpenedPosts, open_posts
from hashtag_core.tagging import chunk_posts
from hashtag_core.tagging.actor_pool import ActorPool
from hashtag_core.tagging.planned_work import Chunk
from hashtag_core.tagging.tag_chunks import ChunkTagger
from hashtag_core.tagging.task import Task, Work
from tests.distributed.test_tag_hostile import check
from tests.distributed.test_tag_killers import KILLER, PATCH, work_for
from tests.tagging.outputs import rejected, rows_by_table, run
from tests.unit.data.hostile import HostilePart, write_hostile_archive

RECIPE = Recipe.model_validate({"tagging": {"chunk_rows": 8, "chunks_per_task": 4, "actors": 1}})


class Pool:
    """Opens posts in threads, and keeps count of what waits to be taken."""

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self.threads, self.most = threads, 0
        self._open, self._lock = 0, threading.Lock()

    def __call__(
        self, posts: Any, places: ImagePlaces, captions: CaptionsSection, side_px: int
    ) -> Callable[[], OpenedPosts]:
        with self._lock:
            self._open += 1
            self.most = max(self.most, self._open)
        begun = self.threads.submit(open_posts, posts, places, captions, side_px, {})
        return partial(self._take, begun)

    def _take(self, begun: Any) -> OpenedPosts:
        with self._lock:
            self._open -= 1
        return begun.result()  # type: ignore[no-any-return]


@pytest.mark.parametrize("ahead", [1, 3, 50])
def test_chunks_are_the_same_and_what_waits_is_bounded(
    popularity: Path,
    tmp_path: Path,
    make_posts: Callable,
    write_part: Callable,
    monkeypatch: pytest.MonkeyPatch,
    ahead: int,
) -> None:
    monkeypatch.setattr(chunk_posts, "READ_ROWS", 3)
    posts = make_posts(40)
    posts[4]["image"] = b"no picture"
    posts[17]["post_id"] = ""
    write_part(tmp_path / "archive" / "a.parquet", posts)
    task = Task(
        "id",
        "a.parquet",
        str(tmp_path / "archive" / "a.parquet"),
        "v1",
        [Chunk(n, 0, 8 * n, 8 * n, 8) for n in range(5)],
        [21],
    )
    outcomes, files = [], []
    with ThreadPoolExecutor(4) as threads:
        for folder, opener in (("here", None), ("elsewhere", Pool(threads))):
            work = Work(
                **vars(work_for(tmp_path, popularity)) | {"staging": str(tmp_path / folder), "decode_ahead": ahead}
            )
            told = [outcome | {"seconds": 0} for outcome in ChunkTagger(work, opener=opener).run(task)]
            outcomes.append(told)
            files.append({path.name: path.read_bytes() for path in (tmp_path / folder).rglob("*.parquet")})
        assert isinstance(opener, Pool)
        # 14 batches of 3 rows, three of which lie across the border of two chunks.
        assert min(ahead + 1, 17) <= opener.most <= min(2 * ahead, 17)
    assert outcomes[0] == outcomes[1]
    assert len(files[0]) == 5
    assert files[0] == files[1]


def test_one_post_that_cannot_be_opened_is_rejected_alone(
    popularity: Path, tmp_path: Path, make_posts: Callable, write_part: Callable
) -> None:
    write_part(tmp_path / "archive" / "a.parquet", make_posts(8))

    def opener(posts: Any, places: ImagePlaces, captions: CaptionsSection, side_px: int) -> Callable[[], OpenedPosts]:
        def opened() -> OpenedPosts:
            if "post-0-00005" in posts["post_id"].to_pylist():
                raise RuntimeError("its process died")
            return open_posts(posts, places, captions, side_px, {})

        return opened

    work = Work(**vars(work_for(tmp_path, popularity)) | {"decode_ahead": 2})
    (outcome,) = ChunkTagger(work, opener=opener).run(
        Task("id", "a.parquet", str(tmp_path / "archive" / "a.parquet"), "v1", [Chunk(0, 0, 0, 0, 8)], [])
    )
    assert outcome["tagged"] == 7
    assert outcome["rejected"] == {"RuntimeError: its process died": [1, 5]}


def test_hostile_parts_on_ray_with_cpu_tasks(
    ray_session: None, popularity: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every outcome as its maker wrote it down, and as without such tasks."""
    parts: dict[str, HostilePart] = write_hostile_archive(tmp_path / "archive")
    monkeypatch.setattr(tag_actors, "cluster_pool", lambda section: ActorPool(1, decode_ahead=2))
    out = tmp_path / "out"
    check(out, run(tmp_path / "archive", out, popularity, RECIPE), parts)
    assert verify_output(str(out), str(tmp_path / "archive")).problems == []


@pytest.mark.slow
@pytest.mark.skipif("SOAK_KILLS" not in os.environ, reason="takes most of a minute: make soak")
def test_a_post_that_kills_its_process_costs_no_actor(
    popularity: Path, tmp_path: Path, make_posts: Callable, make_jpeg: Callable, write_part: Callable, repository: Path
) -> None:
    archive, out = tmp_path / "archive", tmp_path / "out"
    posts = make_posts(24)
    posts[13]["image"] = make_jpeg(13) + KILLER
    write_part(archive / "a.parquet", posts)
    (tmp_path / "patched").mkdir()
    (tmp_path / "patched" / "sitecustomize.py").write_text(PATCH)
    driver = (
        "from hashtag_core.distributed import tag_actors; from hashtag_core.tagging.actor_pool import ActorPool; "
        "tag_actors.cluster_pool = lambda section: ActorPool(1, decode_ahead=2); "
        "from jobs.tag import main; raise SystemExit(main())"
    )
    flags = ["--archive", str(archive), "--out", str(out), "--model", str(popularity), "--chunk-rows", "6"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    paths = os.pathsep.join([str(tmp_path / "patched"), str(repository)])
    done = subprocess.run(
        [sys.executable, "-c", driver, *flags, "--set", "tagging.actors=1"],
        cwd=repository,
        env=environment | {"PYTHONPATH": paths, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/none/mlflow.db"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(rows_by_table(out)) == 23
    (item,) = rejected(out)
    assert (item["row"], item["post_id"], item["reason"]) == (
        *(13, "post-0-00013"),
        "RuntimeError: killed the process that opened it",
    )
    assert not storage.list_files(str(out / "_state"), ".begun")
