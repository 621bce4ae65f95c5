"""Ways to tag an archive from Parquet to Parquet, each as one would write it; the measured ones beside `jobs/tag.py`.

    python tests/benchmarks/tagging_ways.py WAY ARCHIVE OUT MODEL     # WAY: a name of WAYS; prints a JSON line

`loop`, `huggingface`, `daft` and `ray_data` run the same model through eager PyTorch in float32, as whoever writes them in an afternoon
does; `one_process` has our encoder backends and no Ray. `decode` and `forward` are one half of the work and nothing else.
"""

import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from hashtag_core.data.captions import clean_caption
from hashtag_core.data.images import decode_image
from hashtag_core.recommend.read_posts import OpenedPosts
from hashtag_core.recommend.recommender import Recommender

CPUS = int(os.environ.get("BENCH_CPUS", os.cpu_count() or 1))
BATCH, CHUNK, TOP_K = 64, 512, 10
LIMIT_POSTS = 1_024
"""Posts of `decode` and `forward`."""

Decode = Callable[[bytes], np.ndarray]


def plain_decode(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC))


def our_decode(data: bytes) -> np.ndarray:
    return decode_image(data, 224)


def eager(model: str, threads: int = CPUS) -> Recommender:
    return Recommender.load(model, "cpu", threads=threads, backend="torch", precision="float32")


def opened(recommender: Recommender, posts: dict[str, list[Any]], images: list[np.ndarray]) -> OpenedPosts:
    n = len(images)
    captions = [clean_caption(caption, recommender.captions) for caption in posts["caption"]]
    return OpenedPosts(list(posts["post_id"]), [None] * n, captions, images, [None] * n, ["ok"] * n, [None] * n)


def in_batches(recommender: Recommender, archive: str, out: Path, rows: int, decode: Decode) -> None:
    """Decode threads; the next batch is decoded while this one is encoded."""
    out.mkdir(parents=True)

    def batches() -> Iterator[pa.RecordBatch]:
        for file in sorted(Path(archive).glob("*.parquet")):
            yield from pq.ParquetFile(file).iter_batches(rows)

    with ThreadPoolExecutor(CPUS) as pool, ThreadPoolExecutor(1) as ahead:

        def open_batch(batch: pa.RecordBatch) -> OpenedPosts:
            posts = batch.to_pydict()
            return opened(recommender, posts, list(pool.map(decode, posts["image"])))

        left, number = batches(), 0
        following = ahead.submit(open_batch, next(left))
        while following is not None:
            posts = following.result()
            batch = next(left, None)
            following = None if batch is None else ahead.submit(open_batch, batch)
            pq.write_table(recommender.tag(posts, TOP_K), out / f"part-{number:05d}.parquet", compression="zstd")
            number += 1


def loop(archive: str, out: Path, model: str) -> None:
    """(a) A plain PyTorch loop with decode threads."""
    in_batches(eager(model), archive, out, BATCH, plain_decode)


def one_process(archive: str, out: Path, model: str) -> None:
    """Our fastest encoder backends, without Ray."""
    in_batches(Recommender.load(model, "cpu", threads=CPUS), archive, out, CHUNK, our_decode)


def huggingface(archive: str, out: Path, model: str) -> None:
    """(b) `datasets`: load, `map` in batches, write."""
    import datasets

    datasets.disable_progress_bars()
    recommender = eager(model)

    def tag(posts: dict[str, list[Any]]) -> dict[str, list[Any]]:
        table = recommender.tag(opened(recommender, posts, [plain_decode(data) for data in posts["image"]]), TOP_K)
        return {name: table[name].to_pylist() for name in ("post_id", "hashtags", "scores")}

    rows = datasets.load_dataset(
        "parquet", data_files=f"{archive}/*.parquet", split="train", cache_dir=str(out.parent / f"{out.name}-cache")
    )
    out.mkdir(parents=True)
    rows.map(tag, batched=True, batch_size=BATCH, remove_columns=rows.column_names).to_parquet(
        str(out / "part-00000.parquet")
    )


class Tagger:
    """The class that Daft's and Ray Data's examples ask for: the model is loaded once an actor."""

    def __init__(self, model: str, threads: int) -> None:
        self.recommender = eager(model, threads)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        posts = {name: list(batch[name]) for name in ("post_id", "caption")}
        table = self.recommender.tag(opened(self.recommender, posts, list(batch["image"])), TOP_K)
        return {
            "post_id": np.array(table["post_id"].to_pylist(), object),
            "hashtags": np.array(["\n".join(tags) for tags in table["hashtags"].to_pylist()], object),
        }


def ray_data(archive: str, out: Path, model: str) -> None:
    """(d) As in Ray Data's examples of batch inference: read, decode in tasks, predict in a pool of actors, write."""
    import ray

    os.environ["RAY_TRAIN_V2_ENABLED"] = "1"
    root = str(Path(__file__).resolve().parents[2])
    ray.init(
        num_cpus=CPUS, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": root}}
    )
    ray.data.DataContext.get_current().enable_progress_bars = False

    def decode(batch: dict[str, Any]) -> dict[str, Any]:
        return {**batch, "image": np.stack([plain_decode(data) for data in batch["image"]])}

    rows = ray.data.read_parquet(archive, override_num_blocks=16).map_batches(decode, batch_size=BATCH, num_cpus=0.5)
    tagged = rows.map_batches(
        Tagger,
        fn_constructor_kwargs={"model": model, "threads": 1},
        batch_size=BATCH,
        num_cpus=0.5,
        compute=ray.data.ActorPoolStrategy(size=max(1, CPUS)),
    )
    tagged.write_parquet(str(out))
    ray.shutdown()


def daft(archive: str, out: Path, model: str) -> None:
    """(c) Daft's class UDF over batches."""
    import daft as df

    @df.cls(max_concurrency=1)
    class DaftTagger:
        def __init__(self) -> None:
            self.recommender = eager(model)

        @df.method.batch(return_dtype=df.DataType.list(df.DataType.string()), batch_size=BATCH)
        def tag(self, post_id: Any, caption: Any, image: Any) -> list[list[str]]:
            posts = {"post_id": post_id.to_pylist(), "caption": caption.to_pylist()}
            images = [plain_decode(data) for data in image.to_pylist()]
            found: list[list[str]] = self.recommender.tag(opened(self.recommender, posts, images), TOP_K)[
                "hashtags"
            ].to_pylist()
            return found

    tagger = DaftTagger()
    rows = df.read_parquet(f"{archive}/*.parquet")
    rows = rows.with_column("hashtags", tagger.tag(df.col("post_id"), df.col("caption"), df.col("image")))
    rows.select("post_id", "hashtags").write_parquet(str(out))


def decode(archive: str, out: Path, model: str) -> dict[str, float]:
    """(e) Pictures decoded on all cores, nothing else."""
    del out, model
    images = _first(archive)["image"]
    with ThreadPoolExecutor(CPUS) as pool:
        began = time.perf_counter()
        list(pool.map(our_decode, images))
        return {"posts_per_second": len(images) / (time.perf_counter() - began)}


def forward(archive: str, out: Path, model: str) -> dict[str, Any]:
    """(e) Posts encoded and scored, nothing else, by our fastest backends; the better of two passes."""
    del out
    recommender = Recommender.load(model, "cpu", threads=CPUS)
    posts = _first(archive)
    batch = opened(recommender, posts, [our_decode(data) for data in posts["image"]])
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        recommender.tag(batch, TOP_K)
        seconds.append(time.perf_counter() - began)
    return {"posts_per_second": len(batch) / min(seconds), "backends": recommender.encoders.backends}


def _first(archive: str) -> dict[str, list[Any]]:
    file = min(Path(archive).glob("*.parquet"))
    found: dict[str, list[Any]] = next(pq.ParquetFile(file).iter_batches(LIMIT_POSTS)).to_pydict()
    return found


WAYS = {way.__name__: way for way in (loop, one_process, huggingface, daft, ray_data, decode, forward)}


def main() -> None:
    way, archive, out, model = sys.argv[1:]
    kept, sys.stdout = sys.stdout, sys.stderr
    found = WAYS[way](archive, Path(out), model)
    print(json.dumps(found or {}), file=kept)


if __name__ == "__main__":
    main()
