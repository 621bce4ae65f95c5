"""What is shown of a text: values worked by hand, and no way around them."""

import pickle
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashtag_core.errors import StorageError
from hashtag_core.redaction import one_line, redact


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://alice:S3cret@host:5000/a", "http://alice:***@host:5000/a"),
        (
            "MLflow does not answer at http://alice:S3@cr/et#1@host: refused",
            "MLflow does not answer at http://alice:***@host: refused",
        ),
        ("postgresql+psycopg2://u:p@h1:5432,h2/db", "postgresql+psycopg2://u:***@h1:5432,h2/db"),
        ("mysql://u:@host/db", "mysql://u:***@host/db"),
        ("https://ghp_token@github.com/x", "https://***@github.com/x"),
        ("redis://:S3cret@host:6379/0", "redis://:***@host:6379/0"),
        ("url='http://a:1234@h'; 'b'", "url='http://a:***@h'; 'b'"),
        ("http://a:b@h http://c:d@i", "http://a:***@h http://c:***@i"),
        (
            "https://b.s3.amazonaws.com/k?X-Amz-Signature=ab12&X-Amz-Date=1",
            "https://b.s3.amazonaws.com/k?X-Amz-Signature=***&X-Amz-Date=***",
        ),
        ("https://x.blob.core.windows.net/a?sv=1&sig=a%2Fb", "https://x.blob.core.windows.net/a?sv=1&sig=***"),
        ("postgresql://h/db?user=u&password=S3", "postgresql://h/db?user=u&password=***"),
        ("host=h password=S3 dbname=d", "host=h password=*** dbname=d"),
        ("https://h/a?access_token=S3&x=1", "https://h/a?access_token=***&x=1"),
    ],
)
def test_secrets_are_hidden(text: str, shown: str) -> None:
    assert redact(text) == shown
    assert redact(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/day=2024-01-01/user@home: not found",
        "http://127.0.0.1:9000/bucket/user@photo.jpg",
        "http://127.0.0.1:9000 refused; write to me@example.org",
        "sqlite:////tmp/mlflow.db",
        "models:/name@champion",
        "abfss://container@account.dfs.core.windows.net/a",
        "post_id: expected a token=1, found 'signature=2'",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


def test_one_line() -> None:
    assert one_line("a\nb\r\tc\x1b[31m\x85\u2028\u202e\udcff") == r"a\nb\r\tc\x1b[31m\x85\u2028\u202e\udcff"
    assert one_line("画像 é \\n 'x' \u200d") == "画像 é \\n 'x' \u200d"


@given(st.text())
def test_one_line_is_one(text: str) -> None:
    shown = one_line(text)
    assert len(shown.splitlines()) <= 1
    assert one_line(shown) == shown


def test_every_error_of_ours_goes_through() -> None:
    error = StorageError("s3://b/a\nERROR forged: http://u:p@h")
    assert str(error) == str(pickle.loads(pickle.dumps(error))) == r"s3://b/a\nERROR forged: http://u:***@h"


@given(st.text(alphabet="ab1:/@?#=& .", max_size=60))
def test_idempotent(text: str) -> None:
    shown = redact(f"http://{text}")
    assert redact(shown) == shown


@pytest.mark.parametrize("unit", ["a://b:", "http://", "?token", "a://b:c", "password"])
def test_time_is_linear(unit: str) -> None:
    """Some 0.1 s; were it quadratic in 100 kB, minutes."""
    text = "://=" + unit * (100_000 // len(unit))
    before = time.process_time()
    redact(text)
    assert time.process_time() - before < 5
