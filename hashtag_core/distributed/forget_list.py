"""Users whose posts an output must not hold: a list in `_state/` that every run on it reads, of all models.

It holds salted hashes and no name. A row of such a user is left out of every plan, as rejected with the reason
`forgotten user` and without its id; the id of a part does not depend on it, so no part is tagged again for it. Against
who has the list and guesses names it protects as little as any hash of a guessable name.
"""

import hashlib
import json
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hashtag_core import storage
from hashtag_core.data.posts import PartBatch, iter_post_batches
from hashtag_core.distributed.tag_plan import PartPlan, TagPlan
from hashtag_core.distributed.tag_scan import SCAN_ROWS, LeftOut
from hashtag_core.errors import AlreadyExistsError, ConfigError, HashtagError, IntegrityError, NotFoundError
from hashtag_core.storage import FileInfo

FORGOTTEN = "forgotten user"
"""Reason of a rejected row whose user is on the list."""


def read_users(uri: str) -> set[str]:
    """The user ids in a file, one a line; empty lines are skipped. ConfigError for a file that cannot be read or has none."""
    try:
        text = storage.read_bytes(uri).decode("utf-8-sig")
    except NotFoundError:
        raise
    except UnicodeDecodeError as error:
        raise ConfigError(f"{uri}: expected user ids in UTF-8, one a line: byte {error.start} is none") from None
    except HashtagError as error:
        raise ConfigError(f"{uri}: cannot be read: {error}") from None
    users = {line.removesuffix("\r") for line in text.split("\n")} - {""}
    if not users:
        raise ConfigError(f"{uri}: expected user ids, one a line, found none")
    return users


@dataclass(frozen=True)
class ForgetList:
    """Salted hashes of user ids."""

    salt: str
    users: frozenset[str]

    @staticmethod
    def place(out: str) -> str:
        """Where an output keeps its list."""
        return storage.join(out, "_state", "forgotten.json")

    @classmethod
    def load(cls, out: str) -> Self | None:
        """The list of an output; None where nobody was forgotten."""
        try:
            return cls._of(storage.read_bytes(cls.place(out)), out)
        except NotFoundError:
            return None

    @classmethod
    def _of(cls, content: bytes, out: str) -> Self:
        try:
            held = json.loads(content)
            return cls(str(held["salt"]), frozenset(held["users"]))
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError(f"{cls.place(out)}: not a list of forgotten users: {error!r}") from None

    @classmethod
    def new(cls) -> Self:
        """A list of nobody."""
        return cls(secrets.token_hex(16), frozenset())

    @classmethod
    def add(cls, out: str, users: Iterable[str]) -> Self:
        """Put users on the list of an output, whoever else does the same at that moment; the whole list."""
        where, named = cls.place(out), set(users)
        while True:
            try:
                content: bytes | None = storage.read_bytes(where)
            except NotFoundError:
                content = None
            held = cls.new() if content is None else cls._of(content, out)
            grown = held.grown(named)
            if grown == held:
                return held
            try:
                if content is None:
                    storage.create_bytes(where, grown._bytes())
                else:
                    storage.replace_bytes(where, content, grown._bytes())
                return grown
            except (AlreadyExistsError, NotFoundError):
                continue

    def grown(self, users: Iterable[str]) -> Self:
        """The list with these users on it as well."""
        return type(self)(self.salt, self.users | {self.hash(user) for user in users})

    def _bytes(self) -> bytes:
        value = {"format": 1, "salt": self.salt, "users": sorted(self.users)}
        return (json.dumps(value, indent=2) + "\n").encode()

    @cached_property
    def digest(self) -> str:
        """Changes when the list does."""
        return hashlib.sha256(self._bytes()).hexdigest()[:16]

    def hash(self, user: str) -> str:
        """As the list holds it."""
        return hashlib.blake2b(
            user.encode("utf-8", "surrogatepass"), key=self.salt.encode(), digest_size=32
        ).hexdigest()

    def posts(self, part: FileInfo | str) -> Iterator[tuple[PartBatch, np.ndarray]]:
        """`post_id` and `user_id` of the posts in a part of an archive, in batches, and bool [n]: those of listed users."""
        for batch in iter_post_batches(part, SCAN_ROWS, ["user_id"]):
            given = [user for user in pc.unique(batch.posts["user_id"]).to_pylist() if user is not None]
            listed = [user for user in given if self.hash(user) in self.users]
            yield batch, pc.is_in(batch.posts["user_id"], value_set=pa.array(listed, pa.string())).to_numpy()


def leave_out_forgotten(plan: TagPlan, forgotten: ForgetList | None) -> TagPlan:
    """The plan without the posts of forgotten users; the same one if that list was applied to it already.

    The archive must be as the plan found it. Reads the column `user_id` of every part.
    """
    if forgotten is None or plan.forgotten == forgotten.digest:
        return plan
    parts = []
    for part in plan.parts:
        found = forgotten.posts(storage.join(plan.settings.archive, part.path)) if part.groups else ()
        parts.append(leave_out(part, [int(row) for batch, theirs in found for row in batch.rows[theirs]]))
    return plan.model_copy(update={"parts": parts, "forgotten": forgotten.digest})


def check_forgotten(out: str, plan: TagPlan) -> None:
    """HashtagError if users were forgotten since the plan was made."""
    held = ForgetList.load(out)
    if held is not None and held.digest != plan.forgotten:
        raise HashtagError(f"{ForgetList.place(out)}: users were forgotten while this run was planned: run it again")


def leave_out(part: PartPlan, rows: Iterable[int]) -> PartPlan:
    """The part without those rows, whatever it said of them before."""
    gone = set(rows)
    left_out = [left for left in part.left_out if left.row not in gone]
    left_out += [LeftOut(row=row, post_id=None, reason=FORGOTTEN) for row in gone]
    left_out.sort(key=lambda left: (left.row is None, left.row or 0))
    return part.model_copy(update={"left_out": left_out})
