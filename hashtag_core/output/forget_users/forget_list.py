"""Users and posts that an output must not hold: a list in `_state/` that every run on it reads, of all models.

It holds salted hashes and no name. A row of such a user, or with such an id, is left out of every plan, as rejected with the
reason `forgotten` and without its id. Against who has the list and guesses names it protects as little as any hash
of a guessable name.
"""

import hashlib
import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hashtag_core import storage
from hashtag_core.errors import AlreadyExistsError, ConfigError, HashtagError, IntegrityError, NotFoundError

FORGOTTEN = "forgotten"
"""Reason of a rejected row that is on the list."""
KEY_BYTES = 16


def read_names(uri: str, what: str) -> set[str]:
    """The ids in a file, one a line; empty lines are skipped. ConfigError for a file that cannot be read or has none."""
    try:
        text = storage.read_bytes(uri).decode("utf-8-sig")
    except NotFoundError:
        raise
    except UnicodeDecodeError as error:
        raise ConfigError(f"{uri}: expected {what} in UTF-8, one a line: byte {error.start} is none") from None
    except HashtagError as error:
        raise ConfigError(f"{uri}: cannot be read: {error}") from None
    names = {line.removesuffix("\r") for line in text.split("\n")} - {""}
    if not names:
        raise ConfigError(f"{uri}: expected {what}, one a line, found none")
    return names


@dataclass(frozen=True)
class ForgetList:
    """Salted hashes of user ids and of post ids."""

    salt: str
    users: frozenset[str] = frozenset()
    posts: frozenset[str] = frozenset()

    @staticmethod
    def uri(out: str) -> str:
        """Where an output keeps its list."""
        return storage.join(out, "_state", "forgotten.json")

    @staticmethod
    def are_same(one: "ForgetList | None", other: "ForgetList | None") -> bool:
        """Whether both forget the same; where there is no list, nobody is forgotten."""
        names = [(frozenset(), frozenset()) if it is None else (it.users, it.posts) for it in (one, other)]
        return names[0] == names[1]

    @classmethod
    def load(cls, out: str) -> Self | None:
        """The list of an output; None where there is none yet."""
        try:
            return cls._parse(storage.read_bytes(cls.uri(out)), out)
        except NotFoundError:
            return None

    @classmethod
    def ensure(cls, out: str) -> Self:
        """The list of an output, one of nobody where there was none."""
        return cls.add(out, (), ())

    @classmethod
    def new(cls) -> Self:
        """A list of nobody."""
        return cls(secrets.token_hex(16))

    @classmethod
    def add(cls, out: str, users: Iterable[str], posts: Iterable[str]) -> Self:
        """Put users and posts on the list of an output, whoever else does the same at that moment; the whole list."""
        uri, named, ids = cls.uri(out), set(users), set(posts)
        while True:
            try:
                content: bytes | None = storage.read_bytes(uri)
            except NotFoundError:
                content = None
            before = cls.new() if content is None else cls._parse(content, out)
            grown = before.grown(named, ids)
            if content is not None and grown == before:
                return before
            try:
                if content is None:
                    storage.create_bytes(uri, grown._bytes())
                else:
                    storage.replace_bytes(uri, content, grown._bytes())
                return grown
            except (AlreadyExistsError, NotFoundError):
                continue

    def grown(self, users: Iterable[str], posts: Iterable[str]) -> Self:
        """The list with these on it as well."""
        more_users = self.users | {self.user_key(user) for user in users}
        return type(self)(self.salt, more_users, self.posts | {self.post_key(post_id) for post_id in posts})

    @cached_property
    def digest(self) -> str:
        """Changes when the list does."""
        return hashlib.sha256(self._bytes()).hexdigest()[:16]

    def lists(self, user: str) -> bool:
        """Whether a user is on the list, also by a hash of twice the length, as lists from before the table have them."""
        if self.user_key(user) in self.users:
            return True
        return self._has_long_keys and user_key(self.salt, user, 32) in self.users

    @cached_property
    def _has_long_keys(self) -> bool:
        return any(len(key) > 2 * KEY_BYTES for key in self.users)

    def user_key(self, user: str) -> str:
        """As the list and the table hold a user."""
        return user_key(self.salt, user)

    def post_key(self, post_id: str) -> str:
        """As the list holds a post."""
        return user_key(self.salt, f"post\n{post_id}")

    def covers(self, posts: pa.Table) -> np.ndarray:
        """bool [n]: posts that are on the list, by `post_id` and, where the table has it, `user_id`."""
        found = np.zeros(posts.num_rows, dtype=bool)
        if self.users and "user_id" in posts.column_names:
            given = [user for user in pc.unique(posts["user_id"]).to_pylist() if user is not None]
            listed = [user for user in given if self.lists(user)]
            found |= pc.is_in(posts["user_id"], value_set=pa.array(listed, pa.string())).to_numpy()
        if self.posts:
            found |= np.array([self.post_key(post_id) in self.posts for post_id in posts["post_id"].to_pylist()], bool)
        return found

    @classmethod
    def _parse(cls, content: bytes, out: str) -> Self:
        try:
            value = json.loads(content)
            return cls(str(value["salt"]), frozenset(value["users"]), frozenset(value.get("posts", [])))
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError(f"{cls.uri(out)}: not a list of forgotten users: {error!r}") from None

    def _bytes(self) -> bytes:
        value = {"format": 2, "salt": self.salt, "users": sorted(self.users), "posts": sorted(self.posts)}
        return (json.dumps(value, indent=2) + "\n").encode()


def user_key(salt: str, user: str, size: int = KEY_BYTES) -> str:
    """Salted hash of a user id, in hexadecimal."""
    return hashlib.blake2b(user.encode("utf-8", "surrogatepass"), key=salt.encode(), digest_size=size).hexdigest()
