"""Where the store is and who asks: one client for every request, from the standard AWS environment and files.

Credentials come by boto3's chain: variables, profile files, single sign-on, web identity, the role of the container or of the
machine. Other clients of the same store (delta-rs, Arrow) are given what this one found, so that they see what it sees.
"""

import functools
import itertools
import logging
import os
import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

import pyarrow.fs as pafs

from hashtag_core.errors import ConfigError
from hashtag_core.json_values import Options
from hashtag_core.redaction import one_line, redact
from hashtag_core.storage.base import guard

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_ATTEMPTS = 6
CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 60
BODY_ATTEMPTS = 4

FORWARDED = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_CA_BUNDLE",
    "AWS_MAX_ATTEMPTS",
    "AWS_RETRY_MODE",
    "AWS_EC2_METADATA_DISABLED",
)
CHECKSUMS = ("AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION")
_WHO = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
)
"""What decides whose credentials are taken: another value, another client."""


def split(uri: str) -> tuple[str, str]:
    """Bucket and key of `s3://bucket/key`; the key is verbatim."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket:
        raise ConfigError(f"{uri}: expected s3://bucket/key")
    return bucket, key


def endpoint() -> str | None:
    """The address of a store that is not Amazon's, by the variables or the profile."""
    named = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return named or _of_profile("endpoint_url")


def region() -> str | None:
    """The region that is named; a store of one's own has one by habit."""
    named = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or _of_profile("region")
    return named or ("us-east-1" if endpoint() else None)


def worker_environment() -> dict[str, str]:
    """The AWS variables that every worker needs and that are no secret; credentials are each node's own."""
    return {name: os.environ[name] for name in FORWARDED if name in os.environ} | checksum_settings()


def checksum_settings() -> dict[str, str]:
    """The variables of checksums: with an endpoint of one's own only where the protocol demands them."""
    settings = {name: os.environ[name] for name in CHECKSUMS if name in os.environ}
    return dict.fromkeys(CHECKSUMS, "when_required") | settings if endpoint() else settings


def client(read_timeout_s: int = READ_TIMEOUT_S) -> Any:
    """boto3's client, made once for a process and its settings."""
    checksums = tuple(checksum_settings().items())
    return _make_client(os.getpid(), endpoint(), region(), checksums, _who(), read_timeout_s)


def asked_again(uri: str, get: Callable[[], T], is_broken: Callable[[Exception], bool]) -> T:
    """What the SDK does not do by itself once an answer has begun: `get`, up to `BODY_ATTEMPTS` times while it breaks off."""
    for attempt in itertools.count(1):
        try:
            return get()
        except Exception as error:
            if attempt == BODY_ATTEMPTS or not is_broken(error):
                raise
            logger.warning("%s: asked for again: %s", one_line(uri), one_line(redact(str(error))))
        time.sleep(random.uniform(0, 0.25 * 2**attempt))
    raise AssertionError("unreachable")


def arrow_filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """Arrow's own client, which Ray Train wants; it reads the settings of checksums from this process's environment alone."""
    bucket, key = split(uri)
    address = endpoint()
    os.environ.update({name: value for name, value in checksum_settings().items() if name not in os.environ})
    filesystem = pafs.S3FileSystem(
        endpoint_override=address,
        scheme="http" if (address or "").startswith("http://") else "https",
        region=region(),
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=MAX_ATTEMPTS),
        connect_timeout=CONNECT_TIMEOUT_S,
        request_timeout=READ_TIMEOUT_S,
    )
    return filesystem, f"{bucket}/{key}".rstrip("/")


def object_store_options(uri: str) -> dict[str, str]:
    """What Rust's `object_store` (delta-rs, Polars) needs to reach the bucket as this client does, secrets included.

    Temporary credentials are good for ten minutes or more when they are given out: ask anew for each opening of a table,
    do not keep them.
    """
    bucket, _ = split(uri)
    address = endpoint()
    where = region() or _region_of(bucket)
    options = {
        "aws_conditional_put": "etag",
        "timeout": f"{READ_TIMEOUT_S}s",
        "connect_timeout": f"{CONNECT_TIMEOUT_S}s",
        **({"aws_region": where} if where else {}),
    }
    if address:
        options |= {
            "aws_endpoint": address.rstrip("/"),
            "aws_allow_http": str(address.startswith("http://")).lower(),
            "aws_virtual_hosted_style_request": "false",
        }
    with guard(uri, "credentials"):
        credentials = _session(os.getpid(), _who()).get_credentials()
        keys = None if credentials is None else credentials.get_frozen_credentials()
    if keys is not None:
        options |= {"aws_access_key_id": keys.access_key, "aws_secret_access_key": keys.secret_key}
        options |= {"aws_session_token": keys.token} if keys.token else {}
    return options


def _who() -> int:
    return hash(tuple(os.environ.get(name) for name in _WHO))


@functools.lru_cache(maxsize=4)
def _session(pid: int, who: int) -> Any:
    import boto3  # 0.2 s that a run on local disk does not pay

    return boto3.Session()


@functools.lru_cache(maxsize=4)
def _make_client(
    pid: int,
    address: str | None,
    where: str | None,
    checksums: tuple[tuple[str, str], ...],
    who: int,
    read_timeout_s: int,
) -> Any:
    from botocore.config import Config

    chosen = dict(checksums)
    options: Options = {}
    for name, option in zip(CHECKSUMS, ("request_checksum_calculation", "response_checksum_validation"), strict=True):
        if name in chosen:
            options[option] = chosen[name].lower()
    config = Config(
        retries={"mode": "standard", "total_max_attempts": MAX_ATTEMPTS},
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=read_timeout_s,
        max_pool_connections=32,
        s3={"addressing_style": "path"} if address else None,
        **options,
    )
    return _session(pid, who).client("s3", endpoint_url=address, region_name=where, config=config)


def _of_profile(name: str) -> str | None:
    file = os.environ.get("AWS_CONFIG_FILE") or os.path.expanduser("~/.aws/config")
    profile = os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE")
    return _profile(file, profile).get(name) if os.path.exists(file) else None


@functools.lru_cache(maxsize=4)
def _profile(file: str, profile: str | None) -> dict[str, str]:
    """`region` and `endpoint_url` of a profile, that of its S3 service before that of all."""
    from botocore.exceptions import BotoCoreError
    from botocore.session import Session

    try:
        session = Session(profile=profile)
        scoped = session.get_scoped_config()
        services = session.full_config.get("services", {}).get(scoped.get("services"), {})
    except BotoCoreError:
        return {}  # who asks the store is told
    settings = {name: scoped[name] for name in ("region", "endpoint_url") if isinstance(scoped.get(name), str)}
    return settings | {name: value for name, value in services.get("s3", {}).items() if name == "endpoint_url"}


@functools.lru_cache(maxsize=16)
def _region_of(bucket: str) -> str | None:
    """The region of one of Amazon's buckets, which delta-rs does not ask for by itself."""
    try:
        return str(pafs.resolve_s3_region(bucket))
    except OSError:
        return None
