"""What a tagging run is to do: the records that planning makes and a run works on. Needs neither Ray nor a model."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from hashtag_core.config import Recipe
from hashtag_core.data.tagged_archive import Source
from hashtag_core.output.claimed_output import Output
from hashtag_core.output.forget_users.forget_list import ForgetList
from hashtag_core.output.ids import IdIndex
from hashtag_core.output.layout import Layout
from hashtag_core.output.records import PartRecord, RetagRecord, TagSettings
from hashtag_core.recommend.policy import Policy
from hashtag_core.storage import FileInfo
from hashtag_core.tagging.histories import HistoryFinder, Sidecar
from hashtag_core.tagging.part_ids import LeftOut, Scan
from hashtag_core.tagging.select_parts import Selection, closed_order
from hashtag_core.tracking.registry import ResolvedModel
from hashtag_core.tracking.tagging import TagRunRecord


@dataclass(frozen=True)
class TagRequest:
    """What a person asks for."""

    recipe: Recipe
    archive: str
    out: str
    model: ResolvedModel
    selection: Selection = field(default_factory=Selection)
    by_day: bool = False
    """Data files in folders by the UTC day of `created_at`; decided by the first run into an output."""
    drop_gone: bool = False
    """Remove the rows of parts that are no longer in the archive."""
    max_gone: float = 0.5
    """Share of the tagged rows beyond which `drop_gone` is refused."""
    keep_tagged: bool = False
    """Where settings of `FOR_NEW_PARTS` are other ones than before: use them for new and changed parts, and let rows stand."""
    keep_history_h: float = 0.0
    """Hours that removed data files stay, for time travel; a glob sees them then."""


@dataclass(frozen=True)
class Chunk:
    """Rows `first_row` to `first_row + rows - 1` of the part, which begin at `offset` in row group `group`."""

    number: int
    group: int
    offset: int
    first_row: int
    rows: int


@dataclass
class PartWork:
    """What is to be done of one part."""

    file: FileInfo
    key: str
    """Names its chunks: a hash of all that its rows depend on."""
    record: PartRecord
    """As it is to be saved; the counts are filled in when it is committed."""
    wanted: np.ndarray
    """int64, ascending: rows that are to be tagged or kept."""
    left_out: list[LeftOut] = field(default_factory=list)
    owners: dict[str, bool] = field(default_factory=dict)
    """Other parts that have some of its posts until now; whether each is still in the archive."""
    expected: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """int64, one for each wanted row: hash of the content that the table has tags for, 0 where it has none."""
    whole: bool = True
    """Whether the part is replaced; else only the wanted rows of it are."""
    doubles: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    """int64 [m, 2]: rows of this part with the id of another one, and that one, which is wanted in their place; the best last."""
    begin: int = 0
    """Row of its first post among all rows of the archive, for histories."""

    @property
    def path(self) -> str:
        """Path below the archive."""
        return self.file.path

    @property
    def rows(self) -> int:
        """Rows of which the run is to account: of a part that is replaced all, else those that are tagged anew."""
        return self.record.rows if self.whole else len(self.wanted)

    def chunks(self, chunk_rows: int) -> list[Chunk]:
        """The chunks in which there is a wanted row, with fixed numbers."""
        chunks = list(part_chunks(self.record.groups, chunk_rows))
        firsts = [chunk.first_row for chunk in chunks]
        begins = np.searchsorted(self.wanted, firsts)
        ends = np.searchsorted(self.wanted, [chunk.first_row + chunk.rows for chunk in chunks])
        return [chunk for chunk, begin, end in zip(chunks, begins, ends, strict=True) if begin < end]

    def unwanted_in(self, first: int, end: int) -> list[int]:
        """Rows from `first` to before `end` that are not wanted."""
        mask = np.ones(end - first, dtype=bool)
        begin, stop = np.searchsorted(self.wanted, [first, end])
        mask[self.wanted[begin:stop] - first] = False
        return [int(row) for row in first + np.flatnonzero(mask)]

    def expected_in(self, first: int, end: int) -> dict[int, int]:
        """Row -> content hash that the table has tags for, of the rows from `first` to before `end`."""
        begin, stop = np.searchsorted(self.wanted, [first, end])
        found = self.expected[begin:stop] if len(self.expected) else np.zeros(0, np.int64)
        return {int(self.wanted[begin + at]): int(found[at]) for at in np.flatnonzero(found)}


@dataclass(frozen=True)
class TagPlan:
    """A tagging run, validated: what there is to do, and where it goes."""

    request: TagRequest
    layout: Layout
    settings: TagSettings
    policy: Policy
    output: Output
    forgotten: ForgetList | None
    works: list[PartWork]
    source: Source
    files: list[FileInfo]
    """All parts of the archive."""
    unselected: list[str]
    """Paths of parts that are to be tagged too, and are left to another run."""
    skipped: int
    """Parts that are done."""
    gone: list[str]
    """Parts that are tagged and no longer in the archive."""
    dropped: list[str]
    """Those of them whose rows are to be removed."""
    retag: RetagRecord
    """As the run is to write it."""
    anew: bool
    """Whether all parts are tagged again, and the settings may be other ones."""
    refused: dict[str, str] = field(default_factory=dict)
    """Part that the storage will not give -> what it says; `unselected` names it too."""
    index: IdIndex = field(default_factory=IdIndex)
    scans: list[Scan] = field(default_factory=list)
    is_tidy: bool = True
    """Whether the tables and their files are those that the records and the log tell of."""
    last_run: TagRunRecord | None = None
    """The record of the last run of this model and version."""
    finder: HistoryFinder | None = None
    sidecar: Sidecar | None = None
    begins: dict[str, int] = field(default_factory=dict)
    extra_tags: Sequence[str] = ()
    """Tags behind those of the model's vocabulary, in this order."""

    @property
    def unfinished(self) -> bool:
        """Whether the last run did not come to its end, so that there may be something to clean up."""
        return self.last_run is not None and self.last_run["status"] not in ("done", "stopped")

    @property
    def needs_histories(self) -> bool:
        """Whether histories may be other ones than after the last run, of an archive in which no part is new."""
        last = self.last_run
        same = last is not None and last["status"] == "done" and last.get("removed_parts") == len(self.gone)
        return self.finder is not None and not same

    @property
    def is_done(self) -> bool:
        """Whether there is nothing to do."""
        return (
            not (self.works or self.dropped or self.unfinished or self.refused)
            and self.is_tidy
            and self.closed_retag == self.output.records.retag
        )

    @property
    def closed_retag(self) -> RetagRecord:
        """The order to tag again as it stands once the works are done."""
        return closed_order(self.retag, self.unselected)

    @property
    def encoders_name(self) -> str:
        """Names what the first actor's encoders run as; decided anew where all parts are tagged again."""
        whole = {self.retag.tokens.get(file.path, "") for file in self.files}
        token = whole.pop() if len(whole) == 1 else ""
        settings = self.settings
        return f"{settings.backend}-{settings.precision}-{settings.batch_size}-{token or 'first'}"

    @property
    def rows(self) -> int:
        """Rows that are to be tagged or kept."""
        return sum(len(work.wanted) for work in self.works)

    @property
    def takers(self) -> dict[str, set[str]]:
        """Part -> the parts that take posts from it."""
        found: dict[str, set[str]] = {}
        for work in self.works:
            for owner in work.owners:
                found.setdefault(owner, set()).add(work.path)
        return found


def part_chunks(groups: Sequence[int], chunk_rows: int) -> Iterator[Chunk]:
    """All chunks of a part with so many rows in its row groups."""
    number = first_row = 0
    for group, group_rows in enumerate(groups):
        for offset in range(0, group_rows, chunk_rows):
            rows = min(chunk_rows, group_rows - offset)
            yield Chunk(number, group, offset, first_row, rows)
            number += 1
            first_row += rows


def part_key_prefix(path: str) -> str:
    """How the key of a part begins, whatever its version."""
    return hashlib.sha256(path.encode("utf-8", "surrogatepass")).hexdigest()[:8]
