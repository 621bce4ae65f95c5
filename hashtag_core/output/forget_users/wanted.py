"""What is looked for when posts are forgotten."""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hashtag_core.output.forget_users.forget_list import ForgetList


@dataclass
class Wanted:
    """What is looked for: the list, and the names that are known in plain."""

    forgotten: ForgetList
    users: set[str]
    posts: set[str]
    found: set[str] = field(default_factory=set)
    """Keys of users that were met."""
    shared: set[str] = field(default_factory=set)
    """Ids of theirs that other users have too."""

    def goes(self, rows: pa.Table) -> np.ndarray:
        """bool [n]: rows with `post_id` and `user_key` that are to go."""
        users, posts = self.forgotten.users, self.forgotten.posts
        gone = np.asarray(pc.is_in(rows["user_key"], value_set=pa.array(sorted(users), pa.string())).to_numpy()).copy()
        if posts:
            key = self.forgotten.post_key
            gone |= np.array([item is not None and key(item) in posts for item in rows["post_id"].to_pylist()], bool)
        return gone
