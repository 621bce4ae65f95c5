"""Archives that change at random, night after night, against an oracle of ten lines: which row of which part has each post."""

import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hashtag_core.output import lease
from hashtag_core.output.verify import verify_output
from tests.tagging.outputs import rejected, rows_by_glob, rows_by_table, run
from tests.tagging.pausing import Writes, killed_before

SEEDS = int(os.environ.get("SOAK_NIGHTS", "3"))
NIGHTS = 7
IDS = [f"post-{n}" for n in range(24)]
HOPELESS = "no score"
NAMES = [f"{letter}.parquet" for letter in "abcdefg"]

Row = tuple[str | None, int | None, str]
"""`post_id` (none: no post), `created_at` in microseconds and caption."""


class World:
    """An archive, and what an output of it must hold."""

    def __init__(self, folder: Path, seed: int, hopeless: float = 0.0) -> None:
        self.folder = folder
        self.hopeless = hopeless
        """Share of rows that cannot be tagged."""
        self.random = random.Random(seed)
        self.parts: dict[str, list[Row]] = {}
        self.table: dict[str, tuple[str, int]] = {}
        """Id -> part and row."""
        folder.mkdir(parents=True)

    def rows(self) -> list[Row]:
        """Some posts; now and then one twice, one without an id, one without a date."""
        chosen = self.random.choices(IDS, k=self.random.randint(1, 8))
        return [
            (
                None if self.random.random() < 0.08 else name,
                None if self.random.random() < 0.15 else self.random.randint(1, 5),
                self._caption(),
            )
            for name in chosen
        ]

    def change(self) -> str:
        """One thing that exporters do; its name."""
        there = sorted(self.parts)
        free = [name for name in NAMES if name not in self.parts]
        deeds: list[tuple[str, Callable[[], None]]] = []
        if free:
            deeds += [("new", lambda: self._write(self.random.choice(free), self.rows()))] * 3
        if there:
            one = self.random.choice(there)
            deeds += [
                ("changed", lambda: self._write(one, self.rows())),
                ("edited", lambda: self._write(one, [self._edited(row) for row in self.parts[one]])),
                ("cut", lambda: self._write(one, self.parts[one][: len(self.parts[one]) // 2] or self.rows())),
                ("removed", lambda: self._remove(one)),
                ("touched", lambda: os.utime(self.folder / one, (1, self.random.randint(1, 10**6)))),
            ]
            if free:
                deeds += [("renamed", lambda: self._rename(one, self.random.choice(free)))] * 2
        if len(there) > 1:
            one, other = self.random.sample(there, 2)
            deeds += [("merged", lambda: self._merge(one, other)), ("swapped", lambda: self._swap(one, other))]
        name, deed = self.random.choice(deeds)
        deed()
        return name

    def check(self, out: Path, told: str, *, dropped: bool) -> None:
        """What a run makes of the table: the latest row of each post wins; a post that no part has any more stays while its part is
        gone. Where some of its rows cannot be tagged any other one will do. Table, glob, rejected rows and `verify` agree with it.
        """
        rows = rows_by_table(out)
        found = {row["post_id"]: (row["part"], row["part_row"]) for row in rows}
        assert len(rows) == len(found), told
        for name in {*IDS, *found}:
            mine = [
                (-1 if created is None else created, path, at, caption)
                for path, part in self.parts.items()
                for at, (post_id, created, caption) in enumerate(part)
                if post_id == name
            ]
            good = [(path, at) for _, path, at, caption in sorted(mine) if caption != HOPELESS]
            before = self.table.get(name)
            allowed: set[tuple[str, int] | None] = set(good[-1:] if len(good) == len(mine) else good) or {None}
            if before is not None and before[0] not in self.parts and not dropped:
                allowed = {before} if not mine else {before, *allowed}
            assert found.get(name) in allowed, f"{told}: {name}: {found.get(name)}, expected {allowed}"
        self.table = found
        by_glob = [(row["post_id"], row["part"], row["part_row"]) for row in rows_by_glob(out)]
        assert by_glob == [(row["post_id"], row["part"], row["part_row"]) for row in rows], told
        lines = Counter(
            (line["part"], line["row"] + n)
            for line in rejected(out)
            if line["part"] in self.parts
            for n in range(line["rows"])
        )
        won = set(self.table.values())
        lost = {(path, at) for path, rows in self.parts.items() for at in range(len(rows))} - won
        assert lines == Counter(lost), told
        assert verify_output(str(out), str(self.folder)).problems == [], told

    def _edited(self, row: Row) -> Row:
        return row[0], row[1], self._caption()

    def _caption(self) -> str:
        return HOPELESS if self.random.random() < self.hopeless else f"caption {self.random.randint(0, 3)}"

    def _write(self, name: str, rows: list[Row]) -> None:
        self.parts[name] = rows
        ids, created, captions = zip(*rows, strict=True)
        table = pa.table(
            {
                "post_id": pa.array(ids, pa.string()),
                "created_at": pa.array(created, pa.timestamp("us", "UTC")),
                "caption": pa.array(captions, pa.string()),
            }
        )
        pq.write_table(table, self.folder / name, row_group_size=3)

    def _remove(self, name: str) -> None:
        (self.folder / name).unlink()
        del self.parts[name]

    def _rename(self, name: str, to: str) -> None:
        (self.folder / name).rename(self.folder / to)
        self.parts[to] = self.parts.pop(name)

    def _merge(self, one: str, other: str) -> None:
        rows = self.parts[one] + self.parts[other]
        self._remove(other)
        self._write(one, rows)

    def _swap(self, one: str, other: str) -> None:
        a, b = self.parts[one], self.parts[other]
        self._write(one, b)
        self._write(other, a)


@pytest.mark.usefixtures("inline", "poisoned")
@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("hopeless", [0.0, 0.2])
def test_whatever_an_exporter_does(seed: int, hopeless: float, tmp_path: Path, popularity: Path) -> None:
    """Nights with one to three changes each; in some the rows of parts that are gone are dropped."""
    world, out, told = World(tmp_path / "archive", seed, hopeless), tmp_path / "out", []
    for night in range(NIGHTS):
        told += [f"night {night}", *(world.change() for _ in range(world.random.randint(1, 3)))]
        if not any(name for rows in world.parts.values() for name, _, _ in rows):
            continue
        dropped = night > 1 and world.random.random() < 0.2
        told += ["dropped"] if dropped else []
        run(world.folder, out, popularity, **({"drop_gone": True, "max_gone": 1.0} if dropped else {}))
        world.check(out, f"seed {seed}: {told}", dropped=dropped)
        assert run(world.folder, out, popularity).parts == 0, told


@pytest.mark.usefixtures("inline", "poisoned")
@pytest.mark.parametrize("seed", range(100, 100 + SEEDS // 2))
@pytest.mark.parametrize("hopeless", [0.0, 0.2])
def test_whatever_an_exporter_does_to_runs_that_are_killed(
    seed: int, hopeless: float, tmp_path: Path, popularity: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same, each night's run killed before one of its writes; before the rerun the archive may change again."""
    monkeypatch.setattr(lease, "_is_dead", lambda content: True)
    writes = Writes(monkeypatch)
    world, out, told = World(tmp_path / "archive", seed, hopeless), tmp_path / "out", []
    world._write("a.parquet", [(IDS[0], 1, "caption")])
    for night in range(NIGHTS):
        told += [f"night {night}", *(world.change() for _ in range(world.random.randint(1, 2)))]
        if not any(name for rows in world.parts.values() for name, _, _ in rows):
            world._write("a.parquet", [(IDS[0], 1, "caption")])
        number = world.random.randint(1, 25)
        killed = killed_before(writes, number, lambda: run(world.folder, out, popularity))
        told.append(f"killed before write {number}" if killed else "not killed")
        run(world.folder, out, popularity)
        world.check(out, f"seed {seed}: {told}", dropped=False)
        assert run(world.folder, out, popularity).parts == 0, told
    shutil.rmtree(out)
