"""Work that is done on a worker, and what of it comes back: files in pieces, errors with their class."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hashtag_core.distributed import place
from hashtag_core.distributed.place import build_folder, is_alone, pool_for, results_of, workers
from hashtag_core.distributed.tasks import Pool
from hashtag_core.errors import ConfigError, HashtagError, MachineError

ONE = Pool(1, 0.5, retries=1)
LARGE = place.PIECE_BYTES + 5


@pytest.mark.parametrize(
    ("up", "grows", "tasks", "expected"),
    [
        ((8, 0), False, 100, (Pool(8, 0.5), 1)),
        ((8, 0), False, 3, (Pool(3, 0.5), 2)),
        ((8, 0), False, 0, (Pool(1, 0.5), 1)),
        ((8, 2), False, 100, (Pool(2, 0.5, 1.0), 4)),
        ((0, 0), True, 100, (Pool(25, 1.0, least=1), 1)),  # at rest
        ((16, 0), True, 100, (Pool(25, 1.0, least=16), 1)),
        ((16, 0), True, 20, (Pool(16, 1.0, least=16), 1)),
        ((16, 0), True, 1, (Pool(1, 1.0, least=16), 1)),
        ((16, 4), True, 100, (Pool(25, 0.5, 1.0, least=4), 4)),
    ],
)
def test_what_a_machine_is_divided_into_and_a_cluster_is_asked_for(
    up: tuple[int, int], grows: bool, tasks: int, expected: tuple[Pool, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, "cluster_cpus", lambda: float(up[0]))
    monkeypatch.setattr(place, "grows", lambda: grows)
    assert pool_for(tasks, up[1]) == expected


class Builds:
    """Writes three files; `ends`: how."""

    def __init__(self, ends: str, mark: Path) -> None:
        self.ends, self.mark = ends, mark

    def __call__(self, folder: Path) -> int:
        if self.ends == "refuses":
            raise ConfigError("vocabulary.min_count: no tag is left")
        if self.ends == "dies once" and not self.mark.exists():
            self.mark.touch()
            os._exit(7)
        (folder / "empty").touch()
        (folder / "deep").mkdir()
        (folder / "deep" / "large").write_bytes(bytes(range(256)) * (LARGE // 256) + b"x" * (LARGE % 256))
        (folder / "pid").write_text(str(os.getpid()))
        return os.getpid()


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("ends", ["well", "dies once"])
def test_a_folder_that_a_worker_writes_is_copied_whole(ends: str, tmp_path: Path) -> None:
    pid = build_folder("a folder", Builds(ends, tmp_path / "mark"), tmp_path / "here", ONE)
    assert pid != os.getpid()
    assert (tmp_path / "here" / "pid").read_text() == str(pid)
    assert (tmp_path / "here" / "empty").read_bytes() == b""
    large = (tmp_path / "here" / "deep" / "large").read_bytes()
    assert len(large) == LARGE
    assert large[:512] == bytes(range(256)) * 2
    assert large.endswith(b"x" * (LARGE % 256))


def test_without_workers_it_is_built_here(tmp_path: Path) -> None:
    assert build_folder("a folder", Builds("well", tmp_path / "mark"), tmp_path / "here", None) == os.getpid()
    assert (tmp_path / "here" / "deep" / "large").stat().st_size == LARGE


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("pool", [None, ONE], ids=["here", "on a worker"])
def test_an_error_keeps_its_class(pool: Pool | None, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^vocabulary\.min_count: no tag is left$"):
        build_folder("a folder", Builds("refuses", tmp_path), tmp_path / "here", pool)


class OutOfDisk:
    """Fails as machines do."""

    def __call__(self, task: int) -> Iterator[int]:
        yield task
        raise OSError(28, "No space left on device")


@pytest.mark.usefixtures("ray_session")
def test_the_machines_fault_is_told_as_such() -> None:
    results = results_of("counting", [3], OutOfDisk, ONE)
    assert next(results) == (3, 3)
    with pytest.raises(MachineError, match="No space left"):
        next(results)


def test_files_of_another_worker_are_not_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = [place._Piece("a", 0, b"first"), place._Built(1, {"a": "of another one"})]
    monkeypatch.setattr(place, "results_of", lambda *_: iter([(None, one) for one in given]))
    with pytest.raises(MachineError, match=r"a folder: a worker died while its files were copied.*run again"):
        build_folder("a folder", Builds("well", tmp_path), tmp_path / "here", ONE)
    monkeypatch.setattr(place, "results_of", lambda *_: iter([]))
    with pytest.raises(HashtagError, match="no worker came to its end"):
        build_folder("a folder", Builds("well", tmp_path), tmp_path / "here", ONE)


@pytest.mark.usefixtures("ray_session")
def test_what_is_little_stays_here_and_much_goes_to_as_many_as_there_are_cpus() -> None:
    assert is_alone()
    with workers(9, few=True) as found:
        assert found == (None, None)
    with workers(9, few=False) as (pool, threads):
        assert pool is not None
        assert (pool.size, pool.gpus, threads) == (2, None, 1)
    with workers(1, few=False) as (pool, threads):
        assert pool is not None
        assert (pool.size, threads) == (1, 2)


def test_a_cluster_is_never_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place.ray, "is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert is_alone()
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert not is_alone()
    monkeypatch.setattr(place.ray, "is_initialized", lambda: True)
    for alone in (True, False):
        monkeypatch.setattr(place, "grows", lambda alone=alone: not alone)
        assert is_alone() is alone
