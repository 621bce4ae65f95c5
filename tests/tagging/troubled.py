"""An archive with every trouble."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def write_troubled(folder: Path, make_posts: Callable, make_jpeg: Callable, write_part: Callable) -> Path:
    """40 posts that can be tagged, two of them twice, 2 rows and 2 parts that cannot."""
    posts = make_posts(30)
    posts[3] |= {"image": make_jpeg(3, width=300, height=300)[:2000]}
    posts[4] |= {"image": None}
    posts[5] |= {"caption": None}
    posts[6] |= {"image": None, "caption": " #only #tags "}
    write_part(folder / "a.parquet", posts, row_group_size=11)
    others = make_posts(12, seed=1)
    others[0] |= {"post_id": posts[7]["post_id"], "created_at": 1_700_000_000_000_000}
    others[1] |= {"post_id": posts[8]["post_id"], "created_at": 1_000_000_000_000_000}
    others[2] |= {"post_id": ""}
    others[3] |= {"image": None, "image_uri": "pictures/one.jpg"}
    others[4] |= {"image": None, "image_uri": "/etc/passwd"}
    write_part(folder / "nested" / "b é #1.parquet", others)
    (folder / "pictures").mkdir()
    (folder / "pictures" / "one.jpg").write_bytes(make_jpeg(99))
    pq.write_table(pa.table({"post_id": pa.array(["bare", None])}), folder / "c bare.parquet")
    write_part(folder / "empty.parquet", [])
    (folder / "html.parquet").write_text("<html>not found</html>")
    pq.write_table(pa.table({"id": ["x"]}), folder / "noid.parquet")
    return folder
