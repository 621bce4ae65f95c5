"""The tagging job beside what a user writes in an afternoon, and beside its own limits. Run by hand, on a quiet machine:

    BENCH_POSTS=4000 .venv/bin/pytest -s -o python_files='bench_*.py' tests/benchmarks/bench_tagging.py

Three ways from Parquet to Parquet take turns, so that a noisy machine is noisy for all, and the best round of each counts:
`eager` (decode threads, batches of 64, PyTorch, float32), `one process` (our fastest encoder backends, decode threads, no
Ray) and `job` (on a Ray that has started; its actors start and load the model within the time, the others have loaded
theirs before). Beside them two limits: pictures decoded and nothing else, posts encoded and scored and nothing else.
"""

import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hashtag_core.config import Recipe
from hashtag_core.data.captions import clean_caption
from hashtag_core.data.images import decode_image
from hashtag_core.distributed.session import connect
from hashtag_core.distributed.tag import tag
from hashtag_core.recommend.posts import OpenedPosts
from hashtag_core.recommend.recommender import Recommender
from hashtag_core.tagging.plan import TagRequest
from hashtag_core.tagging.planning import plan_tagging
from hashtag_core.tracking.registry import resolve_model

from .bench_encoders import WORDS

CPUS = 2
POSTS = int(os.environ.get("BENCH_POSTS", "4000"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "2"))
JUDGED_FROM = 4_000
"""Posts below which the actors' start is most of the job's time, and no ratio is held to its bound."""
TAGS = 400

Decode = Callable[[bytes], np.ndarray]


def plain_decode(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC))


def our_decode(data: bytes) -> np.ndarray:
    return decode_image(data, 224)


def write_posts(folder: Path, make_jpeg: Callable[..., bytes]) -> None:
    """Pictures of 256 px, each another, and captions of 4 to 40 words."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    with pq.ParquetWriter(
        folder / "posts.parquet", pa.schema({"post_id": pa.string(), "caption": pa.string(), "image": pa.binary()})
    ) as writer:
        for start in range(0, POSTS, 512):
            rows = range(start, min(POSTS, start + 512))
            columns = {
                "post_id": [f"{row:08d}" for row in rows],
                "caption": [" ".join(rng.choice(WORDS, rng.integers(4, 41))) for _ in rows],
                "image": [make_jpeg(row, 256, 192, quality=85) for row in rows],
            }
            writer.write_table(pa.table(columns, schema=writer.schema))


def opened(recommender: Recommender, batch: pa.RecordBatch, decode: Decode, pool: ThreadPoolExecutor) -> OpenedPosts:
    n = batch.num_rows
    return OpenedPosts(
        batch["post_id"].to_pylist(),
        [None] * n,
        [clean_caption(caption, recommender.captions) for caption in batch["caption"].to_pylist()],
        list(pool.map(decode, batch["image"].to_pylist())),
        [None] * n,
        ["ok"] * n,
        [None] * n,
    )


def loop(recommender: Recommender, archive: Path, out: Path, batch_rows: int, decode: Decode) -> None:
    """Parquet to Parquet in one process; the next batch is decoded while this one is encoded."""
    out.mkdir()
    with ThreadPoolExecutor(CPUS) as pool, ThreadPoolExecutor(1) as reader:
        batches = pq.ParquetFile(archive / "posts.parquet").iter_batches(batch_rows)
        number, batch = 0, next(batches)
        ahead = reader.submit(opened, recommender, batch, decode, pool)
        while ahead is not None:
            posts = ahead.result()
            following = next(batches, None)
            ahead = None if following is None else reader.submit(opened, recommender, following, decode, pool)
            pq.write_table(recommender.tag(posts, 10), out / f"{number:05d}.parquet", compression="zstd")
            number += 1


@contextmanager
def peak_pss() -> Iterator[list[int]]:
    """The largest sum of this process's and its children's proportional set size, in bytes."""
    peak, ends = [0], threading.Event()

    def watch() -> None:
        while not ends.wait(0.5):
            total = 0
            for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
                try:
                    total += process.memory_full_info().pss
                except psutil.Error:
                    continue
            peak[0] = max(peak[0], total)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        ends.set()
        thread.join()


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def ranked(folder: Path) -> dict[str, list[str]]:
    files = [path for path in folder.rglob("*.parquet") if "_state" not in path.parts and path.is_file()]
    tables = [pq.read_table(path, columns=["post_id", "hashtags"], partitioning=None) for path in files]
    table = pa.concat_tables(tables)
    return dict(zip(table["post_id"].to_pylist(), table["hashtags"].to_pylist(), strict=True))


def agreement(one: dict[str, list[str]], other: dict[str, list[str]]) -> tuple[float, float]:
    """Mean share of the top 10 that is in both, share of posts with the same first."""
    assert one.keys() == other.keys()
    overlap = np.mean([len(set(tags) & set(other[post])) / len(tags) for post, tags in one.items()])
    return float(overlap), float(np.mean([tags[0] == other[post][0] for post, tags in one.items()]))


@pytest.mark.slow
def test_tagging_speed(make_model_folder: Callable[..., Path], make_jpeg: Callable[..., bytes], tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    write_posts(archive, make_jpeg)
    folder = make_model_folder(tmp_path / "linear", family="linear", tags=TAGS)
    eager = Recommender.load(str(folder), "cpu", threads=CPUS, backend="torch", precision="float32")
    fast = Recommender.load(str(folder), "cpu", threads=CPUS)
    recipe = Recipe.model_validate({"tagging": {"actors": CPUS}})
    seconds: dict[str, list[float]] = {"eager": [], "one process": [], "job": []}
    with connect(num_cpus=CPUS), peak_pss() as peak:
        for turn in range(ROUNDS):
            outs = {name: tmp_path / f"{name} {turn}" for name in seconds}
            ways: dict[str, Callable[[], object]] = {
                "eager": lambda: loop(eager, archive, outs["eager"], 64, plain_decode),  # noqa: B023
                "one process": lambda: loop(fast, archive, outs["one process"], 512, our_decode),  # noqa: B023
                "job": lambda: tag(
                    plan_tagging(TagRequest(recipe, str(archive), str(outs["job"]), resolve_model(str(folder))))  # noqa: B023
                ),
            }
            for name, work in ways.items():
                seconds[name].append(timed(work))
                print(f"{name}: {POSTS / seconds[name][-1]:.1f} posts/s", flush=True)
    rates = {name: POSTS / min(times) for name, times in seconds.items()}

    batch = next(pq.ParquetFile(archive / "posts.parquet").iter_batches(min(POSTS, 1_024)))
    images = batch["image"].to_pylist()
    with ThreadPoolExecutor(CPUS) as pool:
        rates["limit: decode alone"] = len(images) / timed(lambda: list(pool.map(our_decode, images)))
        posts = opened(fast, batch, our_decode, pool)
    rates["limit: forward alone"] = len(posts) / min(timed(lambda: fast.tag(posts, 10)) for _ in range(2))
    agreements = {name: agreement(ranked(outs["eager"]), ranked(outs[name])) for name in ("one process", "job")}
    reference = eager.tag(posts, 10)["hashtags"].to_pylist()
    for backend, precision in (("torch", "bfloat16"), ("onnx", "auto")):
        other = Recommender.load(str(folder), "cpu", threads=CPUS, backend=backend, precision=precision)
        found = other.tag(posts, 10)["hashtags"].to_pylist()
        agreements[f"{backend}, {precision}"] = agreement(
            dict(zip(posts.post_ids, reference, strict=True)), dict(zip(posts.post_ids, found, strict=True))
        )

    print(f"\n{POSTS} posts, {CPUS} CPUs, best of {ROUNDS}; encoders {fast.encoders.backends}")
    for name, rate in rates.items():
        print(f"{name:24}{rate:>10.1f} posts/s{rate / rates['eager']:>8.2f} x eager")
    for name, (overlap, first) in agreements.items():
        print(f"{name:24} top-10 overlap {overlap:.4f}, top-1 equal {first:.4f}")
    print(f"peak memory of all processes {peak[0] / 2**30:.2f} GiB (this one, with two models loaded, included)")
    assert peak[0] <= 4 * 2**30
    if POSTS >= JUDGED_FROM:
        assert rates["job"] >= 4 * rates["eager"]
        assert rates["job"] >= 0.9 * rates["one process"]
        for name, (overlap, first) in agreements.items():
            assert (overlap >= 0.995, first >= 0.99) == (True, True), name
