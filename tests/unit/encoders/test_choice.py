"""The backend of an encoder: measured once a machine, the same for all of its processes, by a margin."""

import json
import multiprocessing
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from hashtag_core.config import EncodersSection
from hashtag_core.encoders import choice, load_encoders, text_onnx
from hashtag_core.errors import ConfigError

Load = Callable[[], Callable[[], object]]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of choices; exported graphs are shared with other tests."""
    monkeypatch.setattr(choice, "cache_folder", lambda name: tmp_path)
    return tmp_path


def work(cpu_s: float) -> None:
    end = time.process_time() + cpu_s
    while time.process_time() < end:
        pass


def ticking(monkeypatch: pytest.MonkeyPatch, seconds: dict[str, list[float]]) -> dict[str, Load]:
    """Candidates that take, by the clock of `choice`, those seconds in turn (the first run is the warm one)."""
    now = [0.0]
    monkeypatch.setattr(choice.time, "process_time", lambda: now[0])

    def candidate(times: list[float]) -> Load:
        def load() -> Callable[[], object]:
            left: Iterator[float] = iter([99.0, *times])
            return lambda: now.__setitem__(0, now[0] + next(left))

        return load

    return {name: candidate(times) for name, times in seconds.items()}


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({"torch": [2, 2, 2], "onnx": [1, 1, 1]}, "onnx"),
        ({"torch": [1, 1, 1], "onnx": [2, 2, 2]}, "torch"),
        ({"torch": [1, 1, 1], "onnx": [0.9, 0.9, 0.9]}, "torch"),  # within the margin: the first stays
        ({"torch": [1, 1, 1], "onnx": [0.86, 9, 9]}, "onnx"),  # the best of three counts
        ({"torch": [9, 9, 1], "onnx": [0.95, 0.95, 0.95]}, "torch"),
        ({"torch": [4, 4, 4], "onnx": [3, 3, 3], "other": [1, 1, 1]}, "other"),
    ],
)
def test_the_fastest_wins_by_a_margin(
    monkeypatch: pytest.MonkeyPatch, seconds: dict[str, list[float]], expected: str
) -> None:
    found, measured = choice.choose(ticking(monkeypatch, seconds), ["weights"], what="minilm")
    assert found == expected
    assert measured == pytest.approx({name: min(times) for name, times in seconds.items()})


def test_what_was_measured_stands_until_what_it_depends_on_changes(
    monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    fast, slow = {"torch": [2.0] * 3, "onnx": [1.0] * 3}, {"torch": [1.0] * 3, "onnx": [2.0] * 3}
    assert choice.choose(ticking(monkeypatch, fast), ["w", 1], what="x")[0] == "onnx"
    assert choice.choose(ticking(monkeypatch, slow), ["w", 1], what="x") == ("onnx", {})
    assert choice.choose(ticking(monkeypatch, slow), ["w", 2], what="x")[0] == "torch"
    monkeypatch.setattr(choice, "processor", lambda: ["another"])
    assert choice.choose(ticking(monkeypatch, slow), ["w", 1], what="x")[0] == "torch"
    assert len(list(cache.iterdir())) == 3


def test_a_broken_file_is_measured_anew(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    ways = {"torch": [2.0] * 3, "onnx": [1.0] * 3}
    choice.choose(ticking(monkeypatch, ways), [], what="x")
    (file,) = cache.iterdir()
    for content in ("", "{}", "[]", '{"backend": 3}'):
        file.write_text(content)
        assert choice.choose(ticking(monkeypatch, ways), [], what="x")[0] == "onnx"
    file.write_text('{"backend": "torch"}')
    assert choice.choose(ticking(monkeypatch, ways), [], what="x") == ("torch", {})


def test_a_candidate_that_does_not_run_is_not_chosen_and_the_first_has_to(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Callable[[], object]:
        raise ConfigError("cannot be exported")

    ways = ticking(monkeypatch, {"torch": [1.0] * 3})
    assert choice.choose({**ways, "onnx": broken}, [], what="x")[0] == "torch"
    with pytest.raises(ConfigError, match="cannot be exported"):
        choice.choose({"onnx": broken, **ways}, ["other"], what="x")


def test_of_two_that_measured_at_once_the_first_that_wrote_decides(
    monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    ways = ticking(monkeypatch, {"torch": [2.0] * 3, "onnx": [1.0] * 3})

    def meanwhile() -> Callable[[], object]:
        other = ticking(monkeypatch, {"torch": [1.0] * 3, "onnx": [2.0] * 3})
        assert choice.choose(other, [], what="x")[0] == "torch"
        return ways["onnx"]()

    assert choice.choose({"torch": ways["torch"], "onnx": meanwhile}, [], what="x")[0] == "torch"
    assert [json.loads(file.read_text())["backend"] for file in cache.iterdir()] == ["torch"]


def test_processes_of_one_machine_agree(cache: Path) -> None:
    """Each measures something else; forked, since a fresh process spends seconds on imports."""
    context = multiprocessing.get_context("fork")
    with context.Pool(6) as pool:
        found = set(pool.map(_choose, range(6), chunksize=1))
    assert len(found) == 1
    assert len(list(cache.iterdir())) == 1


def _choose(number: int) -> str:
    slow, fast = (lambda: work(0.02)), (lambda: work(0.001))
    ways = {"torch": lambda: (slow, fast)[number % 2], "onnx": lambda: (fast, slow)[number % 2]}
    return choice.choose(ways, [], what="x")[0]


def text(**section: object) -> object:
    return load_encoders(EncodersSection(**section), frozenset({"text_vector"}), "cpu", threads=1)


@pytest.mark.parametrize("quicker", ["torch", "onnx"])
def test_auto_takes_what_is_faster_here_and_gives_the_same_vectors(
    monkeypatch: pytest.MonkeyPatch, quicker: str
) -> None:
    """Both processors are played: one on which torch is quick, one on which it is slow, by delays of a forward pass."""
    real = text_onnx.OnnxTextBackend.run if quicker == "torch" else None
    if real:
        monkeypatch.setattr(text_onnx.OnnxTextBackend, "run", lambda self, *batch: (work(0.3), real(self, *batch))[1])
    else:
        from hashtag_core.encoders.text import TorchTextBackend

        slow = TorchTextBackend.run
        monkeypatch.setattr(TorchTextBackend, "run", lambda self, *batch: (work(0.3), slow(self, *batch))[1])
    before = torch.get_num_threads()
    chosen = text(precision="float32", batch_size=8)
    assert chosen.backends == {"text": f"{quicker}-float32"}
    monkeypatch.undo()
    captions = ["a red bird on a branch", "", "sun"]
    found = chosen.encode_captions(captions)["text_vector"].astype(np.float32)
    expected = text(backend="torch", precision="float32").encode_captions(captions)["text_vector"]
    assert (found * expected).sum(1).min() > 0.9999
    torch.set_num_threads(before)
