"""One run at a time on a dataset folder: a claim in `_work/`, with a heartbeat, and what of the folder a run may remove."""

import logging
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from pydantic import BaseModel, JsonValue

from hashtag_core import storage
from hashtag_core.data.dataset import INFO_NAME, SPLITS, VOCABULARY_NAME
from hashtag_core.errors import AlreadyExistsError, ConfigError, HashtagError, NotFoundError

logger = logging.getLogger(__name__)

WORK = "_work"
"""Below the dataset while it is made; what a killed run leaves behind is known by it."""

CLAIM = f"{WORK}/started.json"
HEARTBEAT_S, DEAD_AFTER_S = 30, 150

_OURS = re.compile(
    rf"{WORK}/(started\.json|(index|rejected|sides)-\d+\.parquet)"
    rf"|({'|'.join(SPLITS)})/part-[^/]+\.parquet|_(rejected|left_out)/rows\.jsonl|{VOCABULARY_NAME}|{INFO_NAME}"
    r"|(.*/)?(\.[0-9a-f]{32}\.tmp|\.probe-[0-9a-f]{32})"
)
"""Paths that a run writes, those of files in the making included. Nothing else is ever removed."""


def foreign_files(dataset: str) -> list[str]:
    """Files of the folder that no run of `prepare` has written."""
    try:
        return [info.path for info in storage.list_files(dataset, hidden=True) if not _OURS.fullmatch(info.path)]
    except NotFoundError:
        return []


def remove_leftovers(dataset: str, *, but_the_claim: bool = False) -> None:
    """Remove what a run wrote, its marker first and its claim, if that too, last."""
    storage.remove(storage.join(dataset, INFO_NAME))
    try:
        paths = [info.path for info in storage.list_files(dataset, hidden=True) if _OURS.fullmatch(info.path)]
    except NotFoundError:
        return
    for path in sorted(paths, key=lambda path: path == CLAIM):
        if path == CLAIM and but_the_claim:
            break
        storage.remove(storage.join(dataset, path))
    for folder in (WORK, "_rejected", "_left_out", *SPLITS):
        folder_path = storage.local_path(f"{dataset}/{folder}")
        if not storage.is_remote(dataset) and os.path.isdir(folder_path) and not os.listdir(folder_path):
            os.rmdir(folder_path)


class ClaimRecord(BaseModel):
    """`_work/started.json`: who makes the dataset."""

    run: str
    host: str | None = None
    process: int | None = None
    since: str | None = None
    config: dict[str, dict[str, JsonValue]] = {}


class Claim:
    """That this run makes the dataset; renewed by a thread. Make it with `claimed`."""

    def __init__(self, dataset: str, config: dict[str, dict[str, JsonValue]]) -> None:
        self.uri = storage.join(dataset, CLAIM)
        self._record = ClaimRecord(
            run=uuid.uuid4().hex,
            host=socket.gethostname(),
            process=os.getpid(),
            since=datetime.now(UTC).isoformat(timespec="seconds"),
            config=config,
        )
        self._stop = threading.Event()

    def take(self) -> None:
        """ConfigError while another run is at work; what a dead one left is taken over."""
        if not storage.conditional_writes(self.uri.rpartition("/")[0]).create:
            logger.warning("%s: the store cannot keep two runs apart: see to it that there is one", self.uri)
            storage.write_bytes(self.uri, self._bytes())
            return
        try:
            storage.create_bytes(self.uri, self._bytes())
            return
        except AlreadyExistsError:
            pass
        try:
            found, info = storage.read_bytes(self.uri), storage.file_info(self.uri)
        except NotFoundError:
            raise ConfigError(f"{self.uri}: another run ended just now: run again") from None
        if (other := _read(found)) is not None and _is_alive(other, info.modified):
            raise ConfigError(
                f"{self.uri}: another run (process {other.process} on {other.host}, since {other.since}) "
                "makes this dataset: wait for it, or take another --dataset"
            )
        try:
            storage.replace_bytes(self.uri, found, self._bytes())
        except (AlreadyExistsError, NotFoundError):
            raise ConfigError(f"{self.uri}: another run began just now: wait for it") from None

    def is_held(self) -> bool:
        """Whether nobody took it over, as happens to a run that stood still for minutes."""
        try:
            found = _read(storage.read_bytes(self.uri))
        except NotFoundError:
            return False
        return found is not None and found.run == self._record.run

    def require(self) -> None:
        """HashtagError where another run took over: nothing more may be written or removed."""
        if not self.is_held():
            raise HashtagError(f"{self.uri}: another run took this dataset over: this one stood still too long")

    @contextmanager
    def renewed(self) -> Iterator[None]:
        """Renewed every HEARTBEAT_S for the time of the block."""
        thread = threading.Thread(target=self._renew, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def _renew(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            try:
                if not self.is_held():
                    return
                storage.write_bytes(self.uri, self._bytes())
            except HashtagError as error:
                logger.warning("%s (tried again in %d s)", error, HEARTBEAT_S)

    def _bytes(self) -> bytes:
        return self._record.model_dump_json().encode()


def _read(content: bytes) -> ClaimRecord | None:
    try:
        return ClaimRecord.model_validate_json(content)
    except ValueError:
        return None


def _is_alive(claim: ClaimRecord, modified: datetime) -> bool:
    """Whether its run may still be at work: by its process on this machine, by its heartbeat on others."""
    if claim.host == socket.gethostname() and claim.process is not None:
        try:
            os.kill(claim.process, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
    return time.time() - modified.timestamp() < DEAD_AFTER_S
