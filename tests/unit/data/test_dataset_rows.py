"""The index of posts as the driver of `prepare` holds it."""

import numpy as np
import pyarrow as pa

from hashtag_core.data.dataset_rows import INDEX, lean_index
from hashtag_core.data.splits import NO_CODE, NO_DATE_US, PostColumns


def part(posts: int, **columns: pa.Array) -> pa.Table:
    """Posts of an id and a tag alone, but for `columns`."""
    columns = {
        "post_id": pa.array([f"p{number}" for number in range(posts)]),
        "hashtags": pa.array([["t"]] * posts),
        "content_hash": pa.array([bytes([number]) * 32 for number in range(posts)], pa.binary(32)),
        **columns,
    }
    absent = {
        field.name: pa.nulls(posts, field.type) if field.nullable else pa.array(np.zeros(posts), field.type)
        for field in INDEX
        if field.name not in columns
    }
    return pa.table({name: {**absent, **columns}[name] for name in INDEX.names}, schema=INDEX)


def test_what_a_part_lacks_takes_no_room_and_nothing_else_changes():
    has_dates = part(3, created_at=pa.array([5, None, 7], INDEX.field("created_at").type))
    bare, other, dated = lean_index(part(3)), lean_index(part(2)), lean_index(has_dates)
    index = pa.concat_tables([bare, other, dated])
    for name in ("user_id", "created_at", "image_hash", "caption_key"):
        first, second = (table[name].chunk(0).buffers() for table in (bare, other))
        assert [b and b.address for b in first] == [b and b.address for b in second], f"{name} is held twice"
        assert index[name].type == dated[name].type
    assert index["created_at"].cast(pa.int64()).to_pylist() == [None] * 5 + [5, None, 7]
    assert index["post_id"].to_pylist() == ["p0", "p1", "p2", "p0", "p1", "p0", "p1", "p2"]
    assert index["content_hash"].to_pylist()[2] == bytes([2]) * 16
    index.validate(full=True)


def test_columns_of_what_no_post_has_are_those_that_each_would_have():
    columns = PostColumns.of(lean_index(part(4)))
    taken = columns.take(np.array([2, 0]))
    for found, posts in ((columns, 4), (taken, 2)):
        assert found.user.tolist() == found.image.tolist() == found.caption.tolist() == [NO_CODE] * posts
        assert found.created_us.tolist() == [NO_DATE_US] * posts
        assert found.image_hash.tolist() == [0] * posts
        assert found.image_hash.dtype == np.uint64
        assert found.image_hashed.tolist() == [False] * posts
    assert taken.post_ids.to_pylist() == ["p2", "p0"]
    assert columns.user.strides == (0,), "no room for each"
