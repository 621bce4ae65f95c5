"""Whose fault an error is: by real errors of the libraries, made as they make them."""

import errno
import os
import pickle
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
import ray.exceptions
import torch
import urllib3.exceptions
from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError
from PIL import UnidentifiedImageError

from hashtag_core import errors, storage
from hashtag_core.faults import Fault, classify, raise_if_machine


def raised(work: Callable[[], object]) -> BaseException:
    with pytest.raises(BaseException) as caught:
        work()
    return caught.value


def chained(above: Exception, below: Exception, how: str) -> Exception:
    """`above`, raised while `below` was handled: as its cause, beside it, or in its place."""

    def work() -> None:
        try:
            raise below
        except Exception as error:
            if how == "from":
                raise above from error
            if how == "from None":
                raise above from None
            raise above  # noqa: B904

    raised(work)
    return above


def answered(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code}}, "GetObject")


MACHINE = {
    "no memory": MemoryError(),
    "Arrow's memory": pa.lib.ArrowMemoryError("malloc of size 67108864 failed"),
    "numpy's memory": np._core._exceptions._ArrayMemoryError((1 << 20,), np.dtype(np.uint8)),
    "torch's memory": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "torch on the CPU": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory"
    ),
    "an assert on the device": torch.AcceleratorError("CUDA error: device-side assert triggered"),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "threads": RuntimeError("can't start new thread"),
    "zlib's memory": zlib.error("Error -4 while decompressing data: "),
    "Pillow's memory": OSError("out of memory error when reading image file"),
    "Arrow's S3": OSError("When reading information for key 'a': AWS Error NETWORK_CONNECTION during HeadObject"),
    "the store's 503": answered("SlowDown"),
    "keys that ended": answered("ExpiredToken"),
    "no connection": EndpointConnectionError(endpoint_url="http://127.0.0.1:9"),
    "no answer": ReadTimeoutError(endpoint_url="http://127.0.0.1:9"),
    "half an answer": urllib3.exceptions.ProtocolError("Connection broken"),
    "our storage": errors.StorageError("s3://b/k: read failed: it broke off"),
    "our word": errors.MachineError("decoding: MemoryError"),
    "Ray's memory monitor": ray.exceptions.OutOfMemoryError("node memory monitor"),
    "a lost node": ray.exceptions.NodeDiedError("node died"),
    "a lost worker": ray.exceptions.WorkerCrashedError(),
    "a lost actor": ray.exceptions.ActorDiedError(),
    "a lost object": ray.exceptions.ObjectLostError("00" * 28, None, ""),
    "a lost owner": ray.exceptions.OwnerDiedError("00" * 28, None, ""),
    "a full store": ray.exceptions.ObjectStoreFullError(),
    "a full disk of Ray": ray.exceptions.OutOfDiskError(),
    "a task of Ray that ran short": ray.exceptions.RayTaskError("f", "trace", MemoryError()).as_instanceof_cause(),
    "a timeout": TimeoutError("timed out"),
    "a reset": ConnectionResetError(errno.ECONNRESET, "reset"),
}
NAMES = "ENOSPC EDQUOT EIO ENOMEM EMFILE ENFILE ESTALE EROFS ETIMEDOUT ECONNRESET EHOSTUNREACH EBUSY EAGAIN ENODEV"
MACHINE |= {name: OSError(getattr(errno, name), os.strerror(getattr(errno, name))) for name in NAMES.split()}

CONTENT = {
    "a garbage file": pa.ArrowInvalid("Parquet magic bytes not found in footer"),
    "a garbage page": OSError("Couldn't deserialize thrift: TProtocolException: Invalid data"),
    "a made-up size": pa.lib.ArrowMemoryError("malloc of size 4611686018427387904 failed"),
    "a made-up shape": MemoryError("Unable to allocate 7.45 EiB for an array with shape (1,)"),
    "a cut picture": OSError("image file is truncated (12 bytes not processed)"),
    "no picture": UnidentifiedImageError("cannot identify image file"),
    "a wrong check sum": zlib.error("Error -3 while decompressing data: incorrect header check"),
    "a cut header": struct.error("unpack requires a buffer of 4 bytes"),
    "a wrong byte": UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    "a caption that speaks of it": ValueError("could not convert string to float: 'CUDA error: out of memory'"),
    "a score that is no number": errors.ScoreError("a score of post '1' is not finite"),
    "ours of a picture": errors.ImageError("broken PNG"),
    "too many bytes": errors.TooLargeError("a.jpg: 5 bytes, more than 4"),
    "an object that is not there": answered("NoSuchKey"),
    "a folder": IsADirectoryError(errno.EISDIR, "Is a directory"),
    "a task of Ray over rubbish": ray.exceptions.RayTaskError("f", "trace", ValueError("x")).as_instanceof_cause(),
}

OURS = {
    "a setting": errors.ConfigError("top_k: expected at least 1"),
    "a path": errors.NotFoundError("x: not found"),
    "a model": errors.IntegrityError("a hash"),
    "a bug": TypeError("unsupported operand"),
    "a bug in an import": ImportError("no module"),
    "Ctrl-C": KeyboardInterrupt(),
    "a runtime environment": ray.exceptions.RuntimeEnvSetupError("pip"),
    "a bucket that is not ours": chained(
        errors.StorageError("s3://b/k: read failed"), answered("AccessDenied"), "from"
    ),
}


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        pytest.param(error, fault, id=name)
        for fault, held in ((Fault.MACHINE, MACHINE), (Fault.CONTENT, CONTENT), (Fault.OURS, OURS))
        for name, error in held.items()
    ],
)
def test_whose_fault(error: BaseException, fault: Fault) -> None:
    assert classify(error) is fault
    if fault is Fault.MACHINE:
        with pytest.raises(errors.HashtagError) as caught:
            raise_if_machine(error, "reading a.parquet")
        assert classify(caught.value) is Fault.MACHINE
        assert classify(pickle.loads(pickle.dumps(caught.value))) is Fault.MACHINE, "it crosses processes"
    else:
        raise_if_machine(error, "reading a.parquet")


def test_causes_are_asked() -> None:
    assert classify(chained(ValueError("x"), MemoryError(), "from")) is Fault.MACHINE
    assert classify(chained(KeyError("x"), MemoryError(), "beside")) is Fault.MACHINE, "a clean-up that failed too"
    assert classify(chained(ValueError("x"), KeyError("y"), "from")) is Fault.CONTENT
    assert classify(chained(TypeError("x"), ValueError("y"), "from")) is Fault.OURS
    assert classify(chained(ValueError("of another post"), MemoryError(), "from None")) is Fault.CONTENT
    circle = ValueError("x")
    circle.__cause__ = chained(KeyError("y"), circle, "from")
    assert classify(circle) is Fault.CONTENT, "a circle ends"


def test_real_errors_of_this_machine(tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As numpy, Arrow and torch raise them when they are asked for what no machine has."""
    for work in (lambda: pa.allocate_buffer(1 << 60), lambda: np.ones(1 << 60, np.uint8)):
        asked = raised(work)
        assert isinstance(asked, MemoryError)
        assert classify(asked) is Fault.CONTENT, "an exbibyte is nobody's batch"
    assert classify(raised(lambda: torch.empty(1 << 60, dtype=torch.uint8))) is Fault.MACHINE

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    told = raised(lambda: storage.write_bytes(f"{tmp_path}/x", b"x"))
    assert isinstance(told, errors.StorageError)
    assert classify(told) is Fault.MACHINE
    monkeypatch.undo()
    assert classify(raised(lambda: storage.read_bytes(str(tmp_path)))) is Fault.OURS, "a folder stays one"
    name = f"{tmp_path}/large"
    storage.write_bytes(name, b"12345")
    assert classify(raised(lambda: storage.read_bytes(name, max_bytes=4))) is Fault.CONTENT
