"""The progress bar on a terminal and in a log."""

import logging
import re

import pytest

from hashtag_core import progress_bar
from hashtag_core.progress_bar import ProgressBar


def test_time_left_does_not_count_the_start(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """60 s until the first ten posts come, then ten a second: 80 more take 8 s, not 70 s."""
    now = [0.0]
    monkeypatch.setattr(progress_bar.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress_bar.sys.stderr, "isatty", lambda: False, raising=False)
    with caplog.at_level(logging.INFO), ProgressBar(100, "tagging", every_s=60.5) as progress:
        now[0] = 60.0
        progress.add(10)
        now[0] = 61.0
        progress.add(10)
        assert progress.rate == pytest.approx(10)
        now[0] = 65.0
        progress.add(40)
    assert re.search(r"20 of 100 posts \(20 %\), 10.0 posts/s, \d+\.\d GiB here, 00:08 left", caplog.text)
    assert re.search(r"60 of 100 posts \(60 %\), 10.0 posts/s, .* 00:04 left", caplog.text)
