"""What operating system and SDKs raise becomes our errors, with the file named."""

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from hashtag_core.errors import AlreadyExistsError, NotFoundError, StorageError, TooLargeError
from hashtag_core.storage.base import check_size, guard, writing


def client_error(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code}}, "PutObject")


@pytest.mark.parametrize(("error", "operation", "ours", "words"), [
    (FileNotFoundError(), "read", NotFoundError, "not found"),
    (NotADirectoryError(), "read", NotFoundError, "not found"),
    (PermissionError(13, "Permission denied"), "read", StorageError, "read failed: Permission denied"),
    (client_error("NoSuchKey"), "read", NotFoundError, "not found"),
    (client_error("NoSuchBucket"), "read", NotFoundError, "no such bucket"),
    (client_error("PreconditionFailed"), "create", AlreadyExistsError, "exists already"),
    (client_error("PreconditionFailed"), "read", StorageError, "read failed"),
    (EndpointConnectionError(endpoint_url="http://x"), "list", StorageError, "list failed"),
])  # fmt: skip
def test_errors_name_the_file(error: Exception, operation: str, ours: type[Exception], words: str) -> None:
    with pytest.raises(ours, match=words) as found, guard("s3://b/k", operation):
        raise error
    assert str(found.value).startswith("s3://b/k: ")
    assert type(found.value) is ours


def test_what_is_no_matter_of_storage_passes() -> None:
    with pytest.raises(ValueError, match="mine"), guard("x", "read"):
        raise ValueError("mine")


def test_a_missing_folder_is_no_missing_file_while_writing() -> None:
    with pytest.raises(StorageError, match="x: write failed") as found, writing("x"):
        raise FileNotFoundError(2, "No such file or directory")
    assert not isinstance(found.value, NotFoundError)


def test_sizes() -> None:
    check_size("x", 10, 10)
    check_size("x", 10, None)
    with pytest.raises(TooLargeError, match="x: 1,001 bytes, more than 1,000"):
        check_size("x", 1001, 1000)
