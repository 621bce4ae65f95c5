"""How far a pass over posts or parts is: a bar on a terminal, and in the log of a nightly job a line now and then."""

import logging
import sys
import time
from types import TracebackType
from typing import Self

import psutil
from tqdm import tqdm

logger = logging.getLogger(__name__)


EVERY_S = 30.0


class ProgressBar:
    """`with ProgressBar(total, "tagging") as progress: progress.add(done, rejected)`.

    Where stderr is no terminal, a line every `every_s` seconds: done, rate, time left, rejected; a shorter pass has none. Rate and time
    left count from the first item that came through, not from the start of the workers before it.
    """

    def __init__(self, total: int, what: str, unit: str = "post", *, every_s: float = EVERY_S) -> None:
        self.total, self.what, self.unit, self.every_s = total, what, unit, every_s
        self.done = self.rejected = self._told_of = 0
        self._began = self._told = time.monotonic()
        self._from: tuple[float, int] | None = None
        self._bar: tqdm | None = None

    def __enter__(self) -> Self:
        self._began = self._told = time.monotonic()
        if sys.stderr.isatty() and logger.isEnabledFor(logging.INFO):
            self._bar = tqdm(total=self.total, unit=self.unit, desc=self.what, file=sys.stderr, mininterval=1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._told > self._began and self._told_of < self.done:
            self._tell()

    def add(self, done: int = 1, rejected: int = 0) -> None:
        """So many more came through, so many more did not."""
        self.done += done + rejected
        self.rejected += rejected
        first = self._from is None and self.done > 0
        if first:
            self._from = time.monotonic(), self.done
        if self._bar is not None:
            if self.rejected:
                self._bar.set_postfix(rejected=self.rejected, refresh=False)
            if first:  # the bar's clock begins here too
                self._bar.initial = self._bar.n = self._bar.last_print_n = self.done
                self._bar.start_t = self._bar.last_print_t = time.time()
                self._bar.refresh()
            else:
                self._bar.update(done + rejected)
        elif time.monotonic() - self._told >= self.every_s:
            self._told = time.monotonic()
            self._tell()

    @property
    def rate(self) -> float:
        """Items a second since the first of them came: what passes before, until workers are up, says nothing of the rest."""
        now = time.monotonic()
        began, before = self._from or (self._began, 0)
        if self.done == before:  # all of them came at once
            began, before = self._began, 0
        return (self.done - before) / max(now - began, 1e-9)

    def _tell(self) -> None:
        rate, self._told_of = self.rate, self.done
        logger.info(
            "%s: %d of %d %ss (%.0f %%), %.1f %ss/s, %.1f GiB here, %s left%s",
            self.what,
            self.done,
            self.total,
            self.unit,
            100 * self.done / max(1, self.total),
            rate,
            self.unit,
            psutil.Process().memory_info().rss / 2**30,
            tqdm.format_interval((self.total - self.done) / rate) if rate else "?",
            f", {self.rejected} rejected" if self.rejected else "",
        )
