"""How far a pass over posts is: a bar on a terminal, and in the log of a nightly job a line now and then."""

import logging
import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

logger = logging.getLogger(__name__)

EVERY_S = 30.0


class TagProgress:
    """`with TagProgress(total, "tagging") as progress: progress.add(tagged, rejected)`; counts are of posts.

    Where stderr is no terminal, a line at most every `every_s` seconds: done, posts/s, time left, rejected.
    """

    def __init__(self, total: int, what: str, *, every_s: float = EVERY_S) -> None:
        self.total, self.what, self.every_s = total, what, every_s
        self.done = self.rejected = 0
        self._began = self._told = time.monotonic()
        self._bar: tqdm | None = None

    def __enter__(self) -> Self:
        self._began = self._told = time.monotonic()
        if sys.stderr.isatty():
            self._bar = tqdm(total=self.total, unit="post", desc=self.what, file=sys.stderr, mininterval=1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        else:
            self._tell()

    def add(self, tagged: int, rejected: int = 0) -> None:
        """So many more posts came through, so many more did not."""
        self.done += tagged + rejected
        self.rejected += rejected
        if self._bar is not None:
            self._bar.set_postfix(rejected=self.rejected, refresh=False)
            self._bar.update(tagged + rejected)
        elif time.monotonic() - self._told >= self.every_s:
            self._told = time.monotonic()
            self._tell()

    def _tell(self) -> None:
        seconds = max(time.monotonic() - self._began, 1e-9)
        rate = self.done / seconds
        left = tqdm.format_interval((self.total - self.done) / rate) if rate else "?"
        logger.info(
            "%s: %d of %d posts (%.0f %%), %.1f posts/s, %s left, %d rejected",
            self.what,
            self.done,
            self.total,
            100 * self.done / max(1, self.total),
            rate,
            left,
            self.rejected,
        )
