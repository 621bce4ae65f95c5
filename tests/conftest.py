"""Fixtures that every test may use: a local Ray, an S3 over HTTP, the shared data, small archives."""

import atexit
import gc
import io
import logging
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import settings
from PIL import Image

from hashtag_core.schema import POST

settings.register_profile("untimed", deadline=None)  # how long an example takes is the machine's affair
settings.load_profile("untimed")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _no_handler_of_a_job_is_left() -> Iterator[None]:
    """A job's `main` logs to the stderr of its test, which is closed afterwards; and ends its process without a search for cycles, which
    is not the end of this one (DuckDB would tell at length of what it calls leaked)."""
    yield
    atexit.unregister(gc.freeze)
    logging.root.handlers[:] = [item for item in logging.root.handlers if type(item) is not logging.StreamHandler]


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the clone."""
    return ROOT


@pytest.fixture(scope="session")
def s3_environment() -> Iterator[dict[str, str]]:
    """An S3 server over HTTP for the whole session, and the AWS variables that lead to it (not yet set)."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
    }
    server.stop()


@pytest.fixture
def s3_bucket(s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """`s3://` URI of a new, empty bucket; the AWS variables are set for this test."""
    import boto3

    monkeypatch.delenv("AWS_PROFILE", raising=False)
    for name, value in s3_environment.items():
        monkeypatch.setenv(name, value)
    bucket = f"bucket-{uuid.uuid4().hex[:16]}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    return f"s3://{bucket}"


@pytest.fixture(scope="session")
def ray_session(s3_environment: dict[str, str]) -> Iterator[None]:
    """A local Ray of two CPUs, shared by the session. Its workers reach the S3 of `s3_bucket`, whenever that is made:
    the raylet inherits the AWS variables, which this process has only while Ray starts."""
    from hashtag_core.distributed.session import connect

    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("RAY_ADDRESS", raising=False)
            for name, value in s3_environment.items():
                patch.setenv(name, value)
            stack.enter_context(connect(num_cpus=2))
        yield


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """`shared_data("openclipart")`: that archive's folder beside the clone; skips where it is not there."""

    def locate(name: str) -> Path:
        folder = ROOT.parent / "shared" / "data" / name
        if not folder.exists():
            pytest.skip(f"no archive ../shared/data/{name} beside the clone")
        return folder

    return locate


@pytest.fixture(scope="session")
def make_jpeg() -> Callable[..., bytes]:
    """`make_jpeg(seed=0, width=64, height=48, kind="JPEG")`: bytes of a picture; another seed, another picture."""

    def make(seed: int = 0, width: int = 64, height: int = 48, kind: str = "JPEG", **options: Any) -> bytes:
        coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        picture.save(buffer, format=kind, **options)
        return buffer.getvalue()

    return make


@pytest.fixture(scope="session")
def make_posts(make_jpeg: Callable[..., bytes]) -> Callable[..., list[dict[str, Any]]]:
    """`make_posts(count, users=4, seed=0)`: well-formed posts, each with its own image and caption and two of six
    tags, one given by the user and one by the image, so that there is something to learn."""

    def make(count: int, users: int = 4, seed: int = 0) -> list[dict[str, Any]]:
        return [
            {
                "post_id": f"post-{seed}-{n:05d}",
                "user_id": f"user-{n % users}",
                "created_at": 1_600_000_000_000_000 + n * 60_000_000,
                "caption": f"a drawing of thing number {n} in style {n % 3}",
                "hashtags": [f"topic{n % 3}", f"user{n % users % 3}"],
                "image": make_jpeg(seed * 100_000 + n),
            }
            for n in range(count)
        ]

    return make


@pytest.fixture(scope="session")
def write_part() -> Callable[..., Path]:
    """`write_part(path, posts, schema=POST, **write_table options)`: one Parquet part; absent columns are null."""

    def write(path: Path, posts: Sequence[Mapping[str, Any]], schema: pa.Schema = POST, **options: Any) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(list(posts), schema=schema), path, **options)
        return path

    return write


@pytest.fixture(scope="session")
def write_archive(write_part: Callable[..., Path]) -> Callable[..., Path]:
    """`write_archive(folder, posts, parts=2)`: `folder/posts-0000.parquet` ..., the posts dealt in order."""

    def write(folder: Path, posts: Sequence[Mapping[str, Any]], parts: int = 2, **options: Any) -> Path:
        size = -(-len(posts) // parts)
        for n in range(parts):
            write_part(folder / f"posts-{n:04d}.parquet", posts[n * size : (n + 1) * size], **options)
        return folder

    return write


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with nothing in it: making one takes seconds, so it is made once and copied."""
    from hashtag_core.tracking.runs import connect

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
        connect()
    return path


@pytest.fixture
def mlflow_store(empty_mlflow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`MLFLOW_TRACKING_URI` leads to this new, empty database; artifacts go beside it."""
    path = tmp_path / "tracking" / "mlflow.db"
    path.parent.mkdir()
    shutil.copyfile(empty_mlflow, path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def make_model_folder() -> Callable[..., Path]:
    """`make_model_folder(folder, family="linear", seed=0, tags=40, name="toy")`: a saved model on the default encoders
    with random weights, so that posts differ in their tags."""

    def make(folder: Path, family: str = "linear", seed: int = 0, tags: int = 40, name: str = "toy") -> Path:
        import torch

        from hashtag_core.config import Recipe
        from hashtag_core.data.vocabulary import Vocabulary
        from hashtag_core.encoders import load_encoders
        from hashtag_core.models import InputSpec, create_model, parse_options
        from hashtag_core.models.folder import save_model_folder
        from hashtag_core.models.registry import family as find_family

        recipe, options = Recipe(), parse_options(family, {})
        encoders = load_encoders(recipe.encoders, find_family(family).needs(options))
        model = create_model(family, InputSpec(tags, image_dim=encoders.image_dim, text_dim=encoders.text_dim), options)
        generator = torch.Generator().manual_seed(seed)
        for value in model.buffers():
            if value.numel() > 2:
                value.copy_(
                    torch.rand(value.shape, generator=generator) - 0.5
                    if value.ndim > 1
                    else torch.rand(value.shape, generator=generator) * 0.1
                )
        vocabulary = Vocabulary([f"tag{n:03d}" for n in range(tags)], np.arange(tags, 0, -1), posts=tags)
        info = {
            "name": name,
            "recipe": recipe.model_dump(mode="json"),
            "encoders": encoders.identity,
            "captions": recipe.captions.model_dump(mode="json"),
        }
        save_model_folder(folder, model, options, vocabulary, None, info)
        return folder

    return make
