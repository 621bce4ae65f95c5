"""The backend of an encoder: measured once a machine, the same for all of its processes, by a margin."""

import json
import multiprocessing
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hashtag_core.config import EncodersSection
from hashtag_core.encoders import choice, load_encoders, text_onnx
from hashtag_core.encoders.text import LoadedText, TextCard, Tokens2Features
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


def test_a_choice_that_cannot_be_written_down_is_taken_all_the_same(
    monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    monkeypatch.setattr(choice, "cache_folder", lambda name: cache / "a file, not a folder")
    (cache / "a file, not a folder").write_text("")
    ways = {"torch": [2.0] * 3, "onnx": [1.0] * 3}
    assert choice.choose(ticking(monkeypatch, ways), [], what="x")[0] == "onnx"


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


def test_models_that_read_different_outputs_are_run_by_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a run of several models has the network run twice, as the noise of two measurements had it."""
    seconds = iter([2.0] * 3 + [1.0] * 3 + [1.0] * 3 + [2.0] * 3)
    monkeypatch.setattr(choice, "_timed", lambda run: next(seconds))
    found = [
        load_encoders(EncodersSection(), frozenset({needs}), "cpu").backends for needs in ("text_states", "text_vector")
    ]
    assert found == [{"text": text_onnx.OnnxTextBackend.name}] * 2


def test_what_a_run_has_pinned_is_taken_and_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("measured")

    monkeypatch.setattr(choice, "choose", refuse)
    needs = frozenset({"text_vector", "image_vector"})
    for pinned in (
        {"image": "onnx-float32", "text": "torch-bfloat16"},
        {"image": "torch-float32", "text": "onnx-float32"},
    ):
        assert load_encoders(EncodersSection(), needs, "cpu", backends=pinned).backends == pinned
    with pytest.raises(ConfigError, match=r"the text encoder cannot run as 'onnx-int8' on cpu; there is torch-float32"):
        load_encoders(EncodersSection(), needs, "cpu", backends={"text": "onnx-int8"})


class Toy(torch.nn.Module):
    """A model of ten words; `baked` scales by the batch's length as a number in Python, which a tracer keeps as it was."""

    def __init__(self, baked: bool) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(10, 8)
        self.baked = baked

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
        states = self.words(input_ids)
        shift = torch.tensor(float(int(input_ids.shape[1]))) if self.baked else 0.0
        return SimpleNamespace(last_hidden_state=states + shift)


def test_a_graph_that_is_not_the_model_is_refused_and_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    torch.manual_seed(0)
    right = LoadedText(TextCard("right", "1", 8, 32), Toy(baked=False), None)
    backend = text_onnx.OnnxTextBackend(right, ("text_vector",), 1)
    tokens, mask = np.array([[1, 2, 3], [4, 5, 0]]), np.array([[1, 1, 1], [1, 1, 0]])
    with torch.inference_mode():
        expected = Tokens2Features(right.model)(torch.from_numpy(tokens), torch.from_numpy(mask))[1]
    assert np.allclose(backend.run(tokens, mask)[1], expected.numpy(), atol=1e-6)
    kept = list((tmp_path / "hashtag-recommender" / "onnx").iterdir())
    baked = LoadedText(TextCard("baked", "1", 8, 32), Toy(baked=True), None)
    with pytest.raises(ConfigError, match=r"baked: its ONNX graph gives other vectors than torch, off by 0\."):
        text_onnx.OnnxTextBackend(baked, ("text_vector",), 1)
    assert list((tmp_path / "hashtag-recommender" / "onnx").iterdir()) == kept
